//! The sources of the image, the compose file and the bill of materials, read by the tools that know their rules.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::setup::environment::{Environment, Pins};
use crate::setup::python::{Python, Venv};
use crate::tap;
use crate::test::report::Suite;
use crate::workspace::Workspace;

/// The checks take seconds; only a hang takes this long.
const LIMIT: Duration = Duration::from_secs(120);
/// What the pinned packages need.
const OLDEST_PYTHON: (u32, u32) = (3, 11);

/// Installs the tools, every package by its pinned hash, and runs the checks.
///
/// # Errors
/// The tools cannot be installed. What the checks find wrong is in the suite instead.
pub(super) fn run(workspace: &Workspace, bill: &Path) -> Result<Suite> {
    let mut suite = Suite::new("image, compose and bill of materials, read");
    if !cfg!(target_arch = "x86_64") {
        suite.skip("the tools are pinned for x86-64 only");
        return Ok(suite);
    }
    println!("\n{}", suite.name);
    let tests = workspace.root().join("deploy/docker/tests");
    let folder = workspace.runtime().join("image/tools");
    let python = Python::new(workspace);
    let (major, minor) = python.version()?;
    ensure!(
        (major, minor) >= OLDEST_PYTHON,
        "the tools need Python 3.11 or later; python3 is {major}.{minor}"
    );
    let pins = Pins {
        what: "the tools that check the image's sources".into(),
        folder: folder.clone(),
        requirements: tests.join("requirements.txt"),
        hashes: true,
        npm: None,
    };
    if let Some(begun) = Environment::open(pins, &format!("{major}.{minor}"))?.begin(&python)? {
        begun.install()?;
    }
    let mut script = Command::new(Venv::at(folder.clone()).python());
    // Compiled files belong here, not beside the tracked script.
    script.env("PYTHONPYCACHEPREFIX", folder.join("pycache")).current_dir(workspace.root());
    script.arg(tests.join("check.py")).arg(bill).arg(env!("CARGO_PKG_VERSION"));
    tap::drive(&mut script, LIMIT, &mut suite)?;
    Ok(suite)
}
