//! `cargo xtask dist`: everything that a machine without this checkout needs, as one archive or in one folder.
//!
//! Archives are reproducible, byte for byte: names are sorted, times and owners fixed.

mod archive;
mod contents;
mod inventory;
mod licenses;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

pub use self::archive::Archive;
use self::contents::{Entry, Variant};
use crate::serve;
use crate::setup::{self, Extras};
use testkit::workspace::Workspace;
use testkit::{files, process};

/// Arguments of the command.
#[derive(Args)]
pub(crate) struct DistArgs {
    /// Write the files to this folder, which must be empty or missing, instead of making an archive
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// With ONNX Runtime's build for CUDA 13 and the graph that it runs, instead of the one for CPUs
    #[arg(long)]
    cuda: bool,
}

/// The target platform of an archive, and its files that differ between platforms.
pub struct Platform {
    /// As in [`env::consts::ARCH`].
    pub arch: &'static str,
    /// The release binary.
    pub binary: PathBuf,
    /// The folder of ONNX Runtime's library and licenses.
    pub onnxruntime: PathBuf,
}

impl Platform {
    /// This machine.
    fn here(workspace: &Workspace, variant: Variant) -> Self {
        let onnxruntime = workspace.runtime().join(match variant {
            Variant::Cpu => "onnxruntime",
            Variant::Cuda => "cuda",
        });
        Self { arch: env::consts::ARCH, binary: workspace.release_binary(), onnxruntime }
    }
}

/// Sets up, builds the release binary, imports the model, and packs.
pub(crate) fn run(workspace: &Workspace, options: &DistArgs) -> Result<()> {
    let variant = if options.cuda { Variant::Cuda } else { Variant::Cpu };
    setup::run_with(workspace, &Extras { cuda: options.cuda, ..Extras::default() })?;
    serve::build_and_import(workspace)?;
    let entries = contents(workspace, variant)?;
    if let Some(folder) = &options.folder {
        archive::lay_out(&entries, folder)?;
        println!("{}: {} files", folder.display(), entries.len());
        return Ok(());
    }
    let Archive { path, bytes, sha256 } = pack(workspace, &entries, variant)?;
    println!("{sha256}  {} ({bytes} bytes)", workspace.display(&path));
    Ok(())
}

/// Makes an archive of what was built and imported before.
///
/// # Errors
/// A file is missing, or the archive cannot be written.
pub fn archive(workspace: &Workspace) -> Result<Archive> {
    pack(workspace, &contents(workspace, Variant::Cpu)?, Variant::Cpu)
}

/// Writes the same files to `folder`, which is emptied first.
///
/// # Errors
/// As [`archive()`].
pub fn lay_out(workspace: &Workspace, folder: &Path) -> Result<()> {
    lay_out_for(&Platform::here(workspace, Variant::Cpu), workspace, folder)
}

/// As [`lay_out()`], for any platform.
///
/// # Errors
/// As [`archive()`].
pub fn lay_out_for(platform: &Platform, workspace: &Workspace, folder: &Path) -> Result<()> {
    files::remove(folder)?;
    archive::lay_out(&contents::list(workspace, platform, Variant::Cpu)?, folder)
}

fn contents(workspace: &Workspace, variant: Variant) -> Result<Vec<Entry>> {
    ensure!(cfg!(target_os = "linux"), "an archive is made for Linux, on Linux");
    contents::list(workspace, &Platform::here(workspace, variant), variant)
}

fn pack(workspace: &Workspace, entries: &[Entry], variant: Variant) -> Result<Archive> {
    let suffix = if variant == Variant::Cuda { "-cuda" } else { "" };
    let printed = process::capture(Command::new(workspace.release_binary()).arg("--version"))?;
    let version = printed.trim().strip_prefix("embedgate ");
    let version = version.with_context(|| format!("the release binary prints the version {printed:?}"))?;
    let name = format!("embedgate-{version}-linux-{}{suffix}", env::consts::ARCH);
    let folder = workspace.root().join("target/dist");
    files::create_folder(&folder)?;
    archive::write(entries, &name, &folder)
}
