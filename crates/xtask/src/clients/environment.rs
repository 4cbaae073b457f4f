//! The clients' environments: one per set of packages that can live together, built once for its pins.
//!
//! Node comes as a wheel too: the npm clients need a newer one than many distributions have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process::capture;
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
const PYTHON: [&str; 3] = ["openai-1", "openai-3", "frameworks"];

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
                let begun = Environment::open(workspace, name, &version).and_then(|made| made.begin(&python));
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
                command.arg(at.join("app").join(script));
                command
            }
        })
    }
}

fn folder_of(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.runtime().join("clients").join(name)
}

/// One environment and the pins it is made from.
struct Environment {
    name: &'static str,
    folder: PathBuf,
    requirements: PathBuf,
    /// The tracked folder of the npm clients.
    npm: PathBuf,
    /// SHA-256 over the pins, Python's version and the folder, which an environment's programs name.
    stamp: String,
}

impl Environment {
    fn open(workspace: &Workspace, name: &'static str, python_version: &str) -> Result<Self> {
        let requirements = workspace.clients().join("requirements").join(format!("{name}.txt"));
        let npm = workspace.clients().join("node");
        let folder = folder_of(workspace, name);
        let mut pins = Sha256::new_with_prefix(python_version);
        pins.update(folder.as_os_str().as_encoded_bytes());
        pins.update(read(&requirements)?);
        if name == NODE {
            pins.update(read(&npm.join("package.json"))?);
            pins.update(read(&npm.join("package-lock.json"))?);
        }
        let stamp = pins.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { name, folder, requirements, npm, stamp })
    }

    /// Makes the virtual environment; `None` when its stamp says that it was made from these very pins.
    fn begin(self, python: &Python<'_>) -> Result<Option<Self>> {
        if fs::read_to_string(self.stamp_path()).is_ok_and(|found| found == self.stamp) {
            if self.name == NODE {
                self.copy_scripts()?;
            }
            return Ok(None);
        }
        println!("installing the clients of {} …", self.name);
        python.venv(&self.folder)?;
        Ok(Some(self))
    }

    fn install(self) -> Result<()> {
        let begun = Instant::now();
        let venv = Venv::at(self.folder.clone());
        capture(
            venv.pip()
                .args(["install", "--no-deps", "--only-binary=:all:", "--no-compile", "--requirement"])
                .arg(&self.requirements),
        )?;
        if self.name == NODE {
            self.copy_scripts()?;
            capture(
                Command::new(venv.bin().join("npm"))
                    .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
                    .current_dir(self.folder.join("app"))
                    .env("PATH", with_first(&venv.bin())?),
            )?;
        }
        let path = self.stamp_path();
        fs::write(&path, &self.stamp).with_context(|| format!("cannot write {}", path.display()))?;
        println!("installed the clients of {} in {:.0} s", self.name, begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn stamp_path(&self) -> PathBuf {
        self.folder.join("pins.sha256")
    }

    /// Node resolves packages from where a script lies, so the scripts go to the packages.
    fn copy_scripts(&self) -> Result<()> {
        let to = self.folder.join("app");
        fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
        for entry in fs::read_dir(&self.npm).with_context(|| format!("cannot list {}", self.npm.display()))? {
            let from = entry.with_context(|| format!("cannot list {}", self.npm.display()))?.path();
            if from.is_file() {
                let name = from.file_name().unwrap_or_default();
                fs::copy(&from, to.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        Ok(())
    }
}

/// The search path with `folder` before all others: npm must find the node that it came with.
fn with_first(folder: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_path_buf()].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("the search path cannot hold the environment's folder")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
