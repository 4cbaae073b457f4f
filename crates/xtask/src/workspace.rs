//! Where things lie in the checkout: the one place that spells its folders.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The model that set-up fetches and that the server starts with when nothing else is configured.
pub(crate) const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";

/// A checkout of the project, by its root folder.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the checkout from where Cargo says that this crate lies.
    ///
    /// # Errors
    /// Without Cargo's variable: the program was not started by `cargo xtask`.
    pub(crate) fn locate() -> Result<Self> {
        // Read when running, not when compiling: a moved checkout keeps its target folder.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .context("CARGO_MANIFEST_DIR is not set: start this program as `cargo xtask`")?;
        let Some(root) = Path::new(&manifest).ancestors().nth(2) else {
            bail!("{} is not two folders below a workspace", Path::new(&manifest).display());
        };
        Ok(Self { root: root.to_path_buf() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What set-up fetches and installs; git-ignored.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.root.join(".runtime")
    }

    /// A known model's folder: its tracked manifest, and beside it the fetched weights.
    pub(crate) fn model(&self, id: &str) -> PathBuf {
        self.root.join("models").join(id)
    }

    /// The real clients' scripts and requirement files.
    pub(crate) fn clients(&self) -> PathBuf {
        self.root.join("crates/gateway/tests/clients")
    }

    /// The binary that users run.
    pub(crate) fn release_binary(&self) -> PathBuf {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        target.join("release").join(format!("embedgate{}", env::consts::EXE_SUFFIX))
    }

    /// A path as shown to people: relative to the checkout where it lies inside.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}
