//! Set-up: what the project needs and does not hold, fetched once and checked by SHA-256 every time.
//!
//! Each file's own hash says whether it is there, so there is no record that could go stale: an interrupted
//! or damaged fetch is seen and mended by the next run. When every hash holds, nothing is printed and nothing
//! is asked of the network.

mod cuda;
pub(crate) mod environment;
mod model;
mod onnxruntime;
mod openvino;
pub(crate) mod prometheus;
pub(crate) mod python;
pub(crate) mod redis;
mod wheel;

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

use self::python::Python;
use crate::workspace::Workspace;

/// What is fetched only on request.
#[derive(Default, clap::Args)]
pub(crate) struct Extras {
    /// ONNX Runtime's build with CUDA 13, too, into .runtime/cuda (256 MB; Linux on x86_64)
    #[arg(long)]
    pub(crate) cuda: bool,
    /// ONNX Runtime's build with OpenVINO, too, into .runtime/openvino (84 MB; Linux on x86_64)
    #[arg(long)]
    pub(crate) openvino: bool,
    /// A Redis server for the tests, too, which `cargo xtask test` sees to by itself
    #[arg(long)]
    pub(crate) redis: bool,
}

/// Fetches what is missing or damaged.
///
/// # Errors
/// No usable Python, a refused or damaged download, an unsupported platform, a file that cannot be written.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    run_with(workspace, &Extras::default())
}

/// Fetches what is missing or damaged, and `extras`.
///
/// # Errors
/// As for [`run`].
pub(crate) fn run_with(workspace: &Workspace, extras: &Extras) -> Result<()> {
    let runtime = workspace.runtime();
    fs::create_dir_all(&runtime).with_context(|| format!("cannot create {}", runtime.display()))?;
    // Two terminals may set up at once; the second waits, then finds nothing to do.
    let path = runtime.join("setup.lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;

    let python = Python::new(workspace);
    onnxruntime::install(workspace, &python)?;
    if extras.cuda {
        cuda::install(workspace, &python)?;
    }
    if extras.openvino {
        openvino::install(workspace, &python)?;
    }
    if extras.redis {
        redis::install(workspace)?;
    }
    model::install(workspace, &python)
}

/// ONNX Runtime for Linux on arm64, in `.runtime/arm64`; yields the library.
///
/// # Errors
/// As for [`run`].
pub(crate) fn onnxruntime_for_arm64(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.runtime().join("arm64/onnxruntime");
    onnxruntime::install_for(("linux", "aarch64"), &folder, workspace, &Python::new(workspace))?;
    Ok(folder.join("libonnxruntime.so"))
}
