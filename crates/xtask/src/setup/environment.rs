//! Virtual environments from pinned Python packages and, optionally, npm packages; rebuilt only when a pin changes.
//!
//! Node is a wheel, too: the npm packages need a newer one than many distributions have.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use testkit::files;
use testkit::process::capture;

use super::python::{Python, Venv};
use crate::digest::hex;

/// Location and content of an environment.
pub struct Pins {
    /// For messages, as in "installing the clients of NAME".
    pub what: String,
    /// Folder of the environment.
    pub folder: PathBuf,
    /// A requirements file that pins everything.
    pub requirements: PathBuf,
    /// If true, the file has a hash for every package, and pip requires them.
    pub hashes: bool,
    /// A tracked folder with `package.json` and its lock file; the requirements must then include Node.
    pub npm: Option<PathBuf>,
}

/// An environment and its pins.
pub struct Environment {
    pins: Pins,
    /// SHA-256 of the pins, Python's version and the folder, whose path the environment's programs contain.
    stamp: String,
}

/// Creates the environment unless it is there.
///
/// # Errors
/// There is no supported Python, or pip or npm fails.
pub fn ensure(pins: Pins, python: &Python<'_>) -> Result<Venv> {
    let venv = Venv::at(pins.folder.clone());
    if let Some(created) = Environment::create(pins, python)? {
        created.install()?;
    }
    Ok(venv)
}

impl Environment {
    /// Creates the empty virtual environment; `None` if its stamp says that it was made from these pins.
    ///
    /// # Errors
    /// A file cannot be read or copied, or Python cannot create an environment.
    pub fn create(pins: Pins, python: &Python<'_>) -> Result<Option<Self>> {
        let mut hash = Sha256::new_with_prefix(python.supported_version()?);
        hash.update(pins.folder.as_os_str().as_encoded_bytes());
        hash.update(files::read(&pins.requirements)?);
        if let Some(npm) = &pins.npm {
            hash.update(files::read(&npm.join("package.json"))?);
            hash.update(files::read(&npm.join("package-lock.json"))?);
        }
        let environment = Self { pins, stamp: hex(hash) };
        if fs::read_to_string(environment.stamp_path()).is_ok_and(|found| found == environment.stamp) {
            environment.copy_npm()?;
            return Ok(None);
        }
        println!("installing {} …", environment.pins.what);
        python.venv(&environment.pins.folder)?;
        Ok(Some(environment))
    }

    /// Installs the packages.
    ///
    /// # Errors
    /// pip or npm fails.
    pub fn install(self) -> Result<()> {
        let started = Instant::now();
        let venv = Venv::at(self.pins.folder.clone());
        let mut pip = venv.pip();
        pip.args(["install", "--no-deps", "--only-binary=:all:", "--no-compile"]);
        pip.args(self.pins.hashes.then_some("--require-hashes"))
            .arg("--requirement")
            .arg(&self.pins.requirements);
        capture(&mut pip)?;
        if self.pins.npm.is_some() {
            self.copy_npm()?;
            let mut npm = Command::new(venv.bin().join("npm"));
            npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]);
            capture(npm.current_dir(app(&self.pins.folder)).env("PATH", prepend_to_path(&venv.bin())?))?;
        }
        files::write(&self.stamp_path(), &self.stamp)?;
        println!("installed {} in {:.0} s", self.pins.what, started.elapsed().as_secs_f64());
        Ok(())
    }

    fn stamp_path(&self) -> PathBuf {
        self.pins.folder.join("pins.sha256")
    }

    /// Copies the scripts to the packages: Node resolves packages from the script's folder.
    fn copy_npm(&self) -> Result<()> {
        let Some(npm) = &self.pins.npm else { return Ok(()) };
        let to = app(&self.pins.folder);
        files::create_folder(&to)?;
        for from in files::list(npm)?.iter().filter(|path| path.is_file()) {
            files::copy(from, &to.join(from.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }
}

/// Folder of an environment's npm packages.
pub fn app(folder: &Path) -> PathBuf {
    folder.join("app")
}

/// The search path with `folder` first: npm must find the node that it came with.
fn prepend_to_path(folder: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_path_buf()].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("the search path cannot contain the environment's folder")
}
