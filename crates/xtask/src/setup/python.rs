//! The machine's Python, and a pip and virtual environments that work whatever the distribution left out.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::capture;
use crate::workspace::Workspace;

/// What a person without root installs, by distribution.
const HINT: &str = "install Python 3 with pip and venv (Debian, Ubuntu: apt-get install python3 python3-pip \
                    python3-venv; Fedora: dnf install python3 python3-pip; macOS: brew install python)";

/// Finds Python when first asked, so that a set-up with nothing to fetch needs none.
pub(crate) struct Python<'a> {
    workspace: &'a Workspace,
    pip: OnceCell<Vec<OsString>>,
}

impl<'a> Python<'a> {
    pub(crate) fn new(workspace: &'a Workspace) -> Self {
        Self { workspace, pip: OnceCell::new() }
    }

    /// A pip command without a sub-command yet. The user's own index settings hold for it.
    ///
    /// # Errors
    /// There is no Python 3, or it has no pip and none can be installed.
    pub(crate) fn pip(&self) -> Result<Command> {
        if self.pip.get().is_none() {
            let found = self.find_pip()?;
            self.pip.get_or_init(|| found);
        }
        let words = self.pip.get().context("pip was just found")?;
        let mut pip = Command::new(&words[0]);
        pip.args(&words[1..]);
        quiet_settings(&mut pip);
        Ok(pip)
    }

    /// Python's version as `(major, minor)`.
    ///
    /// # Errors
    /// There is no Python 3.
    pub(crate) fn version(&self) -> Result<(u32, u32)> {
        let code = "import sys; print(*sys.version_info[:2])";
        let printed =
            capture(self.python().args(["-c", code])).with_context(|| format!("no Python 3: {HINT}"))?;
        let mut parts = printed.split_whitespace().map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => bail!("python3 says that its version is {printed:?}"),
        }
    }

    /// Makes a fresh virtual environment, in place of what is there.
    ///
    /// # Errors
    /// Python's `venv` is not there and cannot be installed.
    pub(crate) fn venv(&self, folder: &Path) -> Result<Venv> {
        let make = || {
            if folder.exists() {
                fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            }
            capture(self.python().args(["-m", "venv"]).arg(folder))
        };
        if let Err(error) = make() {
            if !apt_install(&["python3-venv", "python3-pip"])? {
                return Err(error.context(format!("cannot make a virtual environment: {HINT}")));
            }
            make()?;
        }
        Ok(Venv { folder: folder.to_path_buf() })
    }

    fn find_pip(&self) -> Result<Vec<OsString>> {
        self.version()?;
        let system = vec![program().into(), "-m".into(), "pip".into()];
        if works(&system) {
            return Ok(system);
        }
        // A Python without pip may still carry the bundled one that `venv` installs.
        let own = Venv { folder: self.workspace.runtime().join("python") };
        let words = own.pip_words();
        if works(&words) {
            return Ok(words);
        }
        self.venv(&own.folder).map_err(|error| error.context("python3 has no pip"))?;
        Ok(if works(&system) { system } else { words })
    }

    fn python(&self) -> Command {
        let mut python = Command::new(program());
        python.current_dir(self.workspace.root());
        python
    }
}

/// A virtual environment.
pub(crate) struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// One that is already there.
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder of its programs.
    pub(crate) fn bin(&self) -> PathBuf {
        self.folder.join(if cfg!(windows) { "Scripts" } else { "bin" })
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.bin().join("python")
    }

    pub(crate) fn pip(&self) -> Command {
        let words = self.pip_words();
        let mut pip = Command::new(&words[0]);
        pip.args(&words[1..]);
        quiet_settings(&mut pip);
        pip
    }

    fn pip_words(&self) -> Vec<OsString> {
        vec![self.python().into(), "-m".into(), "pip".into()]
    }
}

/// Where from, with which certificates: the user's business. How: ours.
fn quiet_settings(pip: &mut Command) {
    pip.env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_INPUT", "1")
        // Settings that would stop a download to a folder or an installation into a virtual environment.
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .env("PIP_USER", "0");
}

fn works(pip: &[OsString]) -> bool {
    capture(Command::new(&pip[0]).args(&pip[1..]).arg("--version")).is_ok()
}

fn program() -> &'static str {
    if cfg!(windows) { "python" } else { "python3" }
}

/// Installs Debian packages where that needs no question: as root, with apt-get. Says whether it did.
fn apt_install(packages: &[&str]) -> Result<bool> {
    let root = capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root || capture(Command::new("apt-get").arg("--version")).is_err() {
        return Ok(false);
    }
    eprintln!("installing {} with apt-get", packages.join(" "));
    capture(Command::new("apt-get").args(["update", "-qq"]))?;
    capture(
        Command::new("apt-get")
            .args(["install", "-qq", "-y", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    Ok(true)
}
