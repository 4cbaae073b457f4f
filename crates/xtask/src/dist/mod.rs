//! `cargo xtask dist`: everything that a machine without this checkout needs, as one archive or in one folder.
//!
//! The same input gives the same archive, byte for byte: names are sorted, times and owners fixed.

mod archive;
mod contents;
mod inventory;
mod licences;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

pub(crate) use self::archive::Archive;
use self::contents::{Entry, Variant};
use crate::setup::{self, Extras};
use crate::workspace::Workspace;
use crate::{process, serve};

#[derive(Args)]
pub(crate) struct Options {
    /// Lay the files out in this folder, which must be empty or not there, instead of making an archive
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// With ONNX Runtime's build for CUDA 13 and the graph that it runs, instead of the one for processors
    #[arg(long)]
    cuda: bool,
}

/// What an archive is for, and where that lies which differs from one platform to the next.
pub(crate) struct Platform {
    /// As [`env::consts::ARCH`] has it.
    pub(crate) arch: &'static str,
    /// The release binary.
    pub(crate) binary: PathBuf,
    /// The folder of ONNX Runtime's library and licences.
    pub(crate) onnxruntime: PathBuf,
}

impl Platform {
    /// This machine's.
    fn here(workspace: &Workspace, variant: Variant) -> Self {
        let onnxruntime = workspace.runtime().join(match variant {
            Variant::Processor => "onnxruntime",
            Variant::Cuda => "cuda",
        });
        Self { arch: env::consts::ARCH, binary: workspace.release_binary(), onnxruntime }
    }

    /// What Cargo calls it.
    fn target(&self) -> String {
        format!("{}-unknown-linux-gnu", self.arch)
    }
}

/// Sets up, builds the release binary, imports the model, and packs.
///
/// # Errors
/// Any of these fails, the platform is not Linux, or something that belongs inside is missing.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let variant = if options.cuda { Variant::Cuda } else { Variant::Processor };
    setup::run_with(workspace, &Extras { cuda: options.cuda, ..Extras::default() })?;
    serve::build_and_import(workspace)?;
    let entries = contents(workspace, variant)?;
    if let Some(folder) = &options.folder {
        archive::lay_out(&entries, folder)?;
        println!("{}: {} files", folder.display(), entries.len());
        return Ok(());
    }
    let Archive { path, bytes, sha256 } = pack(workspace, &entries, variant)?;
    println!("{sha256}  {} ({bytes} bytes)", workspace.shown(&path));
    Ok(())
}

/// The archive of what was built and imported already.
///
/// # Errors
/// Something that belongs inside is missing, or the archive cannot be written.
pub(crate) fn archive(workspace: &Workspace) -> Result<Archive> {
    pack(workspace, &contents(workspace, Variant::Processor)?, Variant::Processor)
}

/// The same as files in `folder`, which is emptied first.
///
/// # Errors
/// As [`archive()`].
pub(crate) fn lay_out(workspace: &Workspace, folder: &Path) -> Result<()> {
    lay_out_for(&Platform::here(workspace, Variant::Processor), workspace, folder)
}

/// The same for any platform.
///
/// # Errors
/// As [`archive()`].
pub(crate) fn lay_out_for(platform: &Platform, workspace: &Workspace, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    archive::lay_out(&contents::list(workspace, platform, Variant::Processor)?, folder)
}

fn contents(workspace: &Workspace, variant: Variant) -> Result<Vec<Entry>> {
    ensure!(cfg!(target_os = "linux"), "an archive is made for Linux, on Linux");
    contents::list(workspace, &Platform::here(workspace, variant), variant)
}

fn pack(workspace: &Workspace, entries: &[Entry], variant: Variant) -> Result<Archive> {
    let suffix = if variant == Variant::Cuda { "-cuda" } else { "" };
    let name = format!("embedgate-{}-linux-{}{suffix}", version(workspace)?, env::consts::ARCH);
    let folder = workspace.root().join("target/dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    archive::write(entries, &name, &folder)
}

/// The version that the release binary says it has.
fn version(workspace: &Workspace) -> Result<String> {
    let said = process::capture(std::process::Command::new(workspace.release_binary()).arg("--version"))?;
    match said.trim().strip_prefix("embedgate ") {
        Some(version) => Ok(version.to_owned()),
        None => bail!("the release binary says that it is {said:?}"),
    }
}
