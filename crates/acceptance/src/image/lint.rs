//! The sources of the image, the compose file and the bill of materials, checked by linters.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use testkit::report::Suite;
use testkit::workspace::Workspace;
use xtask::setup::environment::{self, Pins};
use xtask::setup::python::Python;

use crate::tap;

/// Limit of the checks, which take seconds.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Installs the tools, each package by its pinned hash, and runs the checks. Failed checks are part of the suite.
pub(super) fn run(workspace: &Workspace, bill_of_materials: &Path) -> Result<Suite> {
    let mut suite = Suite::begin("image, compose and bill of materials, linted");
    if !cfg!(target_arch = "x86_64") {
        suite.skip("the tools are pinned for x86-64 only");
        return Ok(suite);
    }
    let tests = workspace.root().join("deploy/docker/tests");
    let pins = Pins {
        what: "the tools that check the image's sources".into(),
        folder: workspace.runtime().join("image/tools"),
        requirements: tests.join("requirements.txt"),
        hashes: true,
        npm: None,
    };
    let venv = environment::ensure(pins, &Python::new(workspace))?;
    let mut script = venv.script(&tests.join("check.py"));
    script.current_dir(workspace.root()).arg(bill_of_materials).arg(env!("CARGO_PKG_VERSION"));
    tap::run(&mut script, TIMEOUT, &mut suite)?;
    Ok(suite)
}
