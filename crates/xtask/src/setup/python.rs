//! The machine's Python, with a pip and virtual environments whatever the distribution left out.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use testkit::process::capture;
use testkit::workspace::Workspace;

use super::apt;

/// Advice for a user without root, by distribution.
const HINT: &str = "install Python 3 with pip and venv (Debian, Ubuntu: apt-get install python3 python3-pip \
                    python3-venv; Fedora: dnf install python3 python3-pip; macOS: brew install python)";
/// Oldest version that the pinned packages support.
const MIN_VERSION: (u32, u32) = (3, 11);

/// Finds Python on first use, so that a set-up with nothing to fetch needs none.
pub struct Python<'a> {
    workspace: &'a Workspace,
    pip: OnceCell<Vec<OsString>>,
}

impl<'a> Python<'a> {
    /// The Python of the search path.
    pub fn new(workspace: &'a Workspace) -> Self {
        Self { workspace, pip: OnceCell::new() }
    }

    /// A pip command without a sub-command yet. The user's index settings apply.
    pub(super) fn pip(&self) -> Result<Command> {
        if self.pip.get().is_none() {
            let found = self.find_pip()?;
            self.pip.get_or_init(|| found);
        }
        Ok(pip_command(self.pip.get().context("pip was found above")?))
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
            if folder.exists() {
                fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            }
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

    fn find_pip(&self) -> Result<Vec<OsString>> {
        self.version()?;
        let system = vec![program().into(), "-m".into(), "pip".into()];
        if works(&system) {
            return Ok(system);
        }
        // A Python without pip may contain the bundled one that `venv` installs.
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
        self.folder.join(if cfg!(windows) { "Scripts" } else { "bin" })
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
        pip_command(&self.pip_words())
    }

    fn pip_words(&self) -> Vec<OsString> {
        vec![self.python().into(), "-m".into(), "pip".into()]
    }
}

/// The index and its certificates are the user's settings; the mode of operation is ours.
fn pip_command(words: &[OsString]) -> Command {
    let mut pip = Command::new(&words[0]);
    pip.args(&words[1..]).env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_NO_INPUT", "1");
    // Settings that would prevent a download to a folder or an installation into a virtual environment.
    pip.env("PIP_REQUIRE_VIRTUALENV", "0").env("PIP_USER", "0");
    pip
}

fn works(pip: &[OsString]) -> bool {
    capture(Command::new(&pip[0]).args(&pip[1..]).arg("--version")).is_ok()
}

fn program() -> &'static str {
    if cfg!(windows) { "python" } else { "python3" }
}
