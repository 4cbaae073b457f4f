//! The clients' environments: one per set of compatible packages, built once for its pins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Result, bail};
use testkit::workspace::Workspace;
use xtask::setup::environment::{self, Environment, Pins};
use xtask::setup::python::{Python, Venv};

/// Environment of a script.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A virtual environment with `requirements/NAME.txt`.
    Python(&'static str),
    /// Node, with the packages of `node/package-lock.json`.
    Node,
}

const NODE: &str = "node";
const PYTHON: [&str; 10] = [
    "openai-1",
    "openai-3",
    "frameworks",
    "pydantic-ai",
    "agents",
    "vendors",
    "rerank",
    "infinity",
    "search",
    SCHEMATHESIS,
];
/// Its requirements have a hash for every file.
const SCHEMATHESIS: &str = "schemathesis";

/// The environments, and the reasons for those that could not be built.
pub(super) struct Environments<'a> {
    workspace: &'a Workspace,
    failed: BTreeMap<&'static str, String>,
}

impl<'a> Environments<'a> {
    /// Builds missing environments in parallel. A failure is kept for the suites that need the environment.
    pub(super) fn prepare(workspace: &'a Workspace) -> Result<Self> {
        let python = Python::new(workspace);
        python.supported_version()?;
        let mut failed = BTreeMap::new();
        thread::scope(|scope| {
            let mut installs = Vec::new();
            for name in PYTHON.into_iter().chain([NODE]) {
                // Created one after the other: the first may install Debian packages.
                let created = Environment::create(pins(workspace, name), &python);
                let install = created.map(|made| made.map(|made| scope.spawn(move || made.install())));
                installs.push((name, install));
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
        let name = match kind {
            Kind::Python(name) => name,
            Kind::Node => NODE,
        };
        if let Some(reason) = self.failed.get(name) {
            return Err(reason.clone());
        }
        let folder = folder_of(self.workspace, name);
        let venv = Venv::at(folder.clone());
        Ok(match kind {
            Kind::Python(_) => venv.script(&self.workspace.clients().join("python").join(script)),
            Kind::Node => {
                let mut command = Command::new(venv.bin().join("node"));
                command.arg(environment::app(&folder).join(script));
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
