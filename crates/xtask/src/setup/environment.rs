//! A virtual environment made from pinned packages of Python's and, where asked for, npm's, and made again only
//! when a pin changes.
//!
//! Node comes as a wheel too: npm packages need a newer one than many distributions have.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::python::{Python, Venv};
use crate::digest::hex;
use crate::process::capture;

/// Where an environment is to lie and what it is made from.
pub(crate) struct Pins {
    /// For messages, as in "installing the clients of NAME".
    pub(crate) what: String,
    pub(crate) folder: PathBuf,
    /// A file of requirements, which pins everything.
    pub(crate) requirements: PathBuf,
    /// Whether that file has a hash for everything, without which nothing is then installed.
    pub(crate) hashes: bool,
    /// A tracked folder with `package.json` and its lock; the requirements must then bring Node.
    pub(crate) npm: Option<PathBuf>,
}

/// One environment and the pins that it is made from.
pub(crate) struct Environment {
    pins: Pins,
    /// SHA-256 over the pins, Python's version and the folder, which an environment's programs name.
    stamp: String,
}

impl Environment {
    /// # Errors
    /// A file of pins cannot be read.
    pub(crate) fn open(pins: Pins, python_version: &str) -> Result<Self> {
        let mut hash = Sha256::new_with_prefix(python_version);
        hash.update(pins.folder.as_os_str().as_encoded_bytes());
        hash.update(read(&pins.requirements)?);
        if let Some(npm) = &pins.npm {
            hash.update(read(&npm.join("package.json"))?);
            hash.update(read(&npm.join("package-lock.json"))?);
        }
        let stamp = hex(hash);
        Ok(Self { pins, stamp })
    }

    /// Makes the virtual environment; `None` when its stamp says that it was made from these very pins.
    ///
    /// # Errors
    /// Python cannot make one, or a file cannot be copied.
    pub(crate) fn begin(self, python: &Python<'_>) -> Result<Option<Self>> {
        if fs::read_to_string(self.stamp_path()).is_ok_and(|found| found == self.stamp) {
            self.copy_npm()?;
            return Ok(None);
        }
        println!("installing {} …", self.pins.what);
        python.venv(&self.pins.folder)?;
        Ok(Some(self))
    }

    /// Installs the packages.
    ///
    /// # Errors
    /// pip or npm says why.
    pub(crate) fn install(self) -> Result<()> {
        let begun = Instant::now();
        let venv = Venv::at(self.pins.folder.clone());
        capture(
            venv.pip()
                .args(["install", "--no-deps", "--only-binary=:all:", "--no-compile"])
                .args(self.pins.hashes.then_some("--require-hashes"))
                .arg("--requirement")
                .arg(&self.pins.requirements),
        )?;
        if self.pins.npm.is_some() {
            self.copy_npm()?;
            capture(
                Command::new(venv.bin().join("npm"))
                    .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
                    .current_dir(app(&self.pins.folder))
                    .env("PATH", with_first(&venv.bin())?),
            )?;
        }
        let path = self.stamp_path();
        fs::write(&path, &self.stamp).with_context(|| format!("cannot write {}", path.display()))?;
        println!("installed {} in {:.0} s", self.pins.what, begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn stamp_path(&self) -> PathBuf {
        self.pins.folder.join("pins.sha256")
    }

    /// Node resolves packages from where a script lies, so the scripts go to the packages.
    fn copy_npm(&self) -> Result<()> {
        let Some(npm) = &self.pins.npm else { return Ok(()) };
        let to = app(&self.pins.folder);
        fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
        for entry in fs::read_dir(npm).with_context(|| format!("cannot list {}", npm.display()))? {
            let from = entry.with_context(|| format!("cannot list {}", npm.display()))?.path();
            if from.is_file() {
                let name = from.file_name().unwrap_or_default();
                fs::copy(&from, to.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        Ok(())
    }
}

/// Where the npm packages of an environment lie.
pub(crate) fn app(folder: &Path) -> PathBuf {
    folder.join("app")
}

/// The search path with `folder` before all others: npm must find the node that it came with.
fn with_first(folder: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_path_buf()].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("the search path cannot hold the environment's folder")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
