//! The checkout's folders: the only place that spells them.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Id of the model that set-up fetches and that the server loads by default.
pub const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";

/// A checkout of the project.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the checkout by the folder of the crate that Cargo runs.
    ///
    /// # Errors
    /// `CARGO_MANIFEST_DIR` is not set: the program was not started by Cargo.
    pub fn locate() -> Result<Self> {
        // Read at run time, not at compile time: a moved checkout keeps its target folder.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .context("CARGO_MANIFEST_DIR is not set: start this with Cargo")?;
        let Some(root) = Path::new(&manifest).ancestors().nth(2) else {
            bail!("{} is not two folders below a workspace", Path::new(&manifest).display());
        };
        Ok(Self { root: root.to_path_buf() })
    }

    /// Root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of everything that set-up fetches and installs; git-ignored.
    pub fn runtime(&self) -> PathBuf {
        self.root.join(".runtime")
    }

    /// Folder of a known model: the tracked manifest and the fetched weights.
    pub fn model(&self, id: &str) -> PathBuf {
        self.root.join("models").join(id)
    }

    /// Scripts and requirement files of the client checks.
    pub fn clients(&self) -> PathBuf {
        self.root.join("crates/gateway/tests/clients")
    }

    /// Scripts and npm packages of the checks of the page at `/`.
    pub fn page_checks(&self) -> PathBuf {
        self.root.join("crates/gateway/tests/page")
    }

    /// The release build of `embedgate`.
    pub fn release_binary(&self) -> PathBuf {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        target.join("release").join(format!("embedgate{}", env::consts::EXE_SUFFIX))
    }

    /// A path for display: relative to the checkout if it lies inside.
    pub fn display<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// Folder of the tiny models that `model-import`'s tests generate.
pub(crate) fn tiny_models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-import/tests/tiny-models")
}
