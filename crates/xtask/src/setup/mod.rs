//! Set-up: what the project needs and does not hold, fetched once and checked by SHA-256 every time.
//!
//! Each file's own hash says whether it is there, so there is no record that could go stale: an interrupted
//! or damaged fetch is seen and mended by the next run. When every hash holds, nothing is printed and nothing
//! is asked of the network.

mod model;
mod onnxruntime;
pub(crate) mod python;
mod wheel;

use std::fs::{self, File};

use anyhow::{Context, Result};

use self::python::Python;
use crate::workspace::Workspace;

/// Fetches what is missing or damaged.
///
/// # Errors
/// No usable Python, a refused or damaged download, an unsupported platform, a file that cannot be written.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let runtime = workspace.runtime();
    fs::create_dir_all(&runtime).with_context(|| format!("cannot create {}", runtime.display()))?;
    // Two terminals may set up at once; the second waits, then finds nothing to do.
    let path = runtime.join("setup.lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;

    let python = Python::new(workspace);
    onnxruntime::install(workspace, &python)?;
    model::install(workspace, &python)
}
