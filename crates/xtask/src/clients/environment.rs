//! The clients' environments: one per set of packages that can live together, built once for its pins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Result, bail};

use crate::setup::environment::{self, Environment, Pins};
use crate::setup::python::{Python, Venv};
use crate::workspace::Workspace;

/// What a script runs in.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A virtual environment with `requirements/NAME.txt`.
    Python(&'static str),
    /// Node, with the packages of `node/package-lock.json`.
    Node,
}

const NODE: &str = "node";
/// What the pinned packages need.
const OLDEST_PYTHON: (u32, u32) = (3, 11);
const PYTHON: [&str; 4] = ["openai-1", "openai-3", "frameworks", SCHEMATHESIS];
/// Its requirements carry a hash for every file.
const SCHEMATHESIS: &str = "schemathesis";

/// The environments that could be built, and why the others could not.
pub(super) struct Environments<'a> {
    workspace: &'a Workspace,
    failed: BTreeMap<&'static str, String>,
}

impl<'a> Environments<'a> {
    /// Builds what is missing, side by side. A failure is kept for the suites that need the environment.
    ///
    /// # Errors
    /// There is no Python 3, or it is too old.
    pub(super) fn prepare(workspace: &'a Workspace) -> Result<Self> {
        let python = Python::new(workspace);
        let (major, minor) = python.version()?;
        if (major, minor) < OLDEST_PYTHON {
            bail!(
                "the clients need Python {}.{} or later; python3 is {major}.{minor}",
                OLDEST_PYTHON.0,
                OLDEST_PYTHON.1
            );
        }
        let version = format!("{major}.{minor}");
        let mut failed = BTreeMap::new();
        thread::scope(|scope| {
            let mut installs = Vec::new();
            for name in PYTHON.into_iter().chain([NODE]) {
                // One after the other up to here: making the first may install Debian packages.
                let begun =
                    Environment::open(pins(workspace, name), &version).and_then(|made| made.begin(&python));
                installs.push((
                    name,
                    begun.map(|install| install.map(|made| scope.spawn(move || made.install()))),
                ));
            }
            for (name, install) in installs {
                let result = match install {
                    Ok(None) => Ok(()),
                    Ok(Some(thread)) => thread.join().unwrap_or_else(|_| bail!("the installation panicked")),
                    Err(error) => Err(error),
                };
                if let Err(error) = result {
                    failed.insert(name, format!("cannot install its packages: {error:#}"));
                }
            }
        });
        Ok(Self { workspace, failed })
    }

    /// The command that runs `script` in its environment; the error is the reason why there is none.
    pub(super) fn command(&self, kind: Kind, script: &str) -> std::result::Result<Command, String> {
        let (name, folder) = match kind {
            Kind::Python(name) => (name, "python"),
            Kind::Node => (NODE, "node"),
        };
        if let Some(reason) = self.failed.get(name) {
            return Err(reason.clone());
        }
        let at = folder_of(self.workspace, name);
        let venv = Venv::at(at.clone());
        Ok(match kind {
            Kind::Python(_) => {
                let mut command = Command::new(venv.python());
                // Compiled files belong here, not beside the tracked scripts.
                command.env("PYTHONPYCACHEPREFIX", at.join("pycache"));
                command.arg(self.workspace.clients().join(folder).join(script));
                command
            }
            Kind::Node => {
                let mut command = Command::new(venv.bin().join("node"));
                command.arg(environment::app(&at).join(script));
                command
            }
        })
    }
}

fn pins(workspace: &Workspace, name: &str) -> Pins {
    Pins {
        what: format!("the clients of {name}"),
        folder: folder_of(workspace, name),
        requirements: workspace.clients().join("requirements").join(format!("{name}.txt")),
        hashes: name == SCHEMATHESIS,
        npm: (name == NODE).then(|| workspace.clients().join("node")),
    }
}

fn folder_of(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.runtime().join("clients").join(name)
}
