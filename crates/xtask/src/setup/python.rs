//! The machine's Python, with pip and virtual environments even if the distribution left them out.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use testkit::files;
use testkit::process::capture;
use testkit::workspace::Workspace;

use super::apt;

/// Advice for a user without root, by distribution.
const HINT: &str = "install Python 3 with pip and venv (Debian, Ubuntu: apt-get install python3 python3-pip \
                    python3-venv; Fedora: dnf install python3 python3-pip; macOS: brew install python)";
const PYTHON: &str = "python3";
/// Oldest version that the pinned packages support.
const MIN_VERSION: (u32, u32) = (3, 11);

/// Finds Python on first use, so that a set-up with nothing to fetch needs none.
pub struct Python<'a> {
    workspace: &'a Workspace,
    /// The interpreter that has pip.
    with_pip: OnceCell<PathBuf>,
}

impl<'a> Python<'a> {
    /// The Python of the search path.
    pub fn new(workspace: &'a Workspace) -> Self {
        Self { workspace, with_pip: OnceCell::new() }
    }

    /// A pip command without a sub-command yet. The user's index settings apply.
    pub(super) fn pip(&self) -> Result<Command> {
        if let Some(python) = self.with_pip.get() {
            return Ok(pip_command(python));
        }
        let python = self.find_pip()?;
        Ok(pip_command(self.with_pip.get_or_init(|| python)))
    }

    /// Version as `MAJOR.MINOR`, which the pinned packages support.
    ///
    /// # Errors
    /// There is no Python 3, or it is too old.
    pub fn supported_version(&self) -> Result<String> {
        let (major, minor) = self.version()?;
        let (needed, least) = MIN_VERSION;
        ensure!(
            (major, minor) >= MIN_VERSION,
            "needs Python {needed}.{least} or later; python3 is {major}.{minor}"
        );
        Ok(format!("{major}.{minor}"))
    }

    fn version(&self) -> Result<(u32, u32)> {
        let code = "import sys; print(*sys.version_info[:2])";
        let printed =
            capture(self.python().args(["-c", code])).with_context(|| format!("no Python 3: {HINT}"))?;
        let mut parts = printed.split_whitespace().map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => bail!("python3 reports the version {printed:?}"),
        }
    }

    /// Creates a virtual environment in `folder` and replaces an existing one.
    ///
    /// # Errors
    /// Python's `venv` is missing and cannot be installed.
    pub fn venv(&self, folder: &Path) -> Result<Venv> {
        let create = || {
            files::remove(folder)?;
            capture(self.python().args(["-m", "venv"]).arg(folder))
        };
        if let Err(error) = create() {
            if apt::install(&["python3-venv", "python3-pip"]).is_err() {
                return Err(error.context(format!("cannot create a virtual environment: {HINT}")));
            }
            create()?;
        }
        Ok(Venv { folder: folder.to_path_buf() })
    }

    /// Finds or installs pip; returns the interpreter that has it.
    fn find_pip(&self) -> Result<PathBuf> {
        self.version()?;
        let has_pip = |python: &Path| capture(pip_command(python).arg("--version")).is_ok();
        let system = PathBuf::from(PYTHON);
        // A Python without pip may contain the bundled one that `venv` installs.
        let own = Venv::at(self.workspace.runtime().join("python"));
        if !has_pip(&system) && !has_pip(&own.python()) {
            self.venv(&own.folder).context("python3 has no pip")?;
        }
        Ok(if has_pip(&system) { system } else { own.python() })
    }

    fn python(&self) -> Command {
        let mut python = Command::new(PYTHON);
        python.current_dir(self.workspace.root());
        python
    }
}

/// A virtual environment.
pub struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// An existing environment.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder of its programs.
    pub fn bin(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// Its Python.
    pub fn python(&self) -> PathBuf {
        self.bin().join("python")
    }

    /// A command that runs a tracked script; compiled files go to the environment, not next to the script.
    pub fn script(&self, script: &Path) -> Command {
        let mut command = Command::new(self.python());
        command.env("PYTHONPYCACHEPREFIX", self.folder.join("pycache")).arg(script);
        command
    }

    /// Its pip, without a sub-command yet.
    pub fn pip(&self) -> Command {
        pip_command(&self.python())
    }
}

/// `python -m pip` with the user's settings for the index and its certificates.
fn pip_command(python: &Path) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip"]).env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_NO_INPUT", "1");
    // Settings that would prevent a download to a folder or an installation into a virtual environment.
    pip.env("PIP_REQUIRE_VIRTUALENV", "0").env("PIP_USER", "0");
    pip
}
