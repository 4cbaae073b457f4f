//! Set-up: fetches what the project needs and does not contain, once, and checks it by SHA-256 every time.
//!
//! Each file's own hash tells whether it is present, so no record can become stale: the next run repairs an interrupted
//! or damaged download. If every hash holds, set-up prints nothing and needs no network.

pub mod apt;
pub mod chromium;
pub mod environment;
pub(crate) mod model;
mod onnxruntime;
pub mod prometheus;
pub mod python;
pub mod redis;
mod wheel;

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use testkit::files;
use testkit::workspace::Workspace;

use self::onnxruntime::Flavor;
use self::python::Python;

/// Optional downloads.
#[derive(Default, clap::Args)]
pub struct Extras {
    /// ONNX Runtime's build with CUDA 13, too, into .runtime/cuda (256 MB; Linux on x86_64)
    #[arg(long)]
    pub cuda: bool,
    /// ONNX Runtime's build with OpenVINO, too, into .runtime/openvino (84 MB; Linux on x86_64)
    #[arg(long)]
    pub openvino: bool,
    /// A Redis server for the tests, too, which `cargo xtask test` installs by itself
    #[arg(long)]
    pub redis: bool,
}

/// Fetches what is missing or damaged.
///
/// # Errors
/// No usable Python, a failed or damaged download, an unsupported platform, or a file that cannot be written.
pub fn run(workspace: &Workspace) -> Result<()> {
    run_with(workspace, &Extras::default())
}

/// Fetches what is missing or damaged, and `extras`.
pub(crate) fn run_with(workspace: &Workspace, extras: &Extras) -> Result<()> {
    let runtime = workspace.runtime();
    files::create_folder(&runtime)?;
    // Two terminals may set up at the same time; the second waits, then has nothing to do.
    let path = runtime.join("setup.lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;

    let python = Python::new(workspace);
    onnxruntime::install(workspace, &python)?;
    let platform = (std::env::consts::OS, std::env::consts::ARCH);
    for (wanted, flavor, folder) in
        [(extras.cuda, Flavor::Cuda, "cuda"), (extras.openvino, Flavor::Openvino, "openvino")]
    {
        if wanted {
            onnxruntime::install_for(flavor, platform, &runtime.join(folder), workspace, &python)?;
        }
    }
    if extras.redis {
        redis::install(workspace)?;
    }
    model::install(workspace, &python)
}

/// Fetches ONNX Runtime for Linux on arm64 into `.runtime/arm64`; returns the library's path.
///
/// # Errors
/// As for [`run`].
pub fn onnxruntime_for_arm64(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.runtime().join("arm64/onnxruntime");
    let python = Python::new(workspace);
    onnxruntime::install_for(Flavor::Cpu, ("linux", "aarch64"), &folder, workspace, &python)?;
    Ok(folder.join("libonnxruntime.so"))
}
