//! The competitors' virtual environments: pinned and installed once, each with its own folder and time limit.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use testkit::files;
use testkit::process::{capture, command_line};
use testkit::workspace::Workspace;
use xtask::setup::python::{Python, Venv};

/// Limit of an installation: torch has 3 GB.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// Interval of a long installation's progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// A set of compatible packages.
#[derive(Debug)]
pub(crate) struct Packages {
    pub(crate) name: &'static str,
    /// A requirements file with the version of everything.
    pub(crate) pins: &'static str,
    /// Disk space of the installation, pip's temporary files included.
    pub(crate) gigabytes: f64,
    /// The packages whose versions the page quotes.
    pub(crate) quoted: &'static [&'static str],
}

impl Packages {
    pub(crate) fn folder(&self, workspace: &Workspace) -> PathBuf {
        workspace.runtime().join("bench").join(self.name)
    }

    /// `name version, name version`.
    pub(crate) fn versions(&self) -> String {
        let version = |name: &&str| {
            let pin = self.pins.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix("=="));
            format!("{} {}", name.replace('_', "-"), pin.unwrap_or("unpinned"))
        };
        self.quoted.iter().map(version).collect::<Vec<_>>().join(", ")
    }

    /// Installs the environment unless it is there.
    pub(crate) fn install(&self, workspace: &Workspace) -> Result<Venv> {
        let folder = self.folder(workspace);
        // An environment's programs contain its path, so a moved checkout rebuilds it.
        let stamp = format!("{}\n{}", folder.display(), self.pins);
        let stamp_path = folder.join("pins.txt");
        if fs::read_to_string(&stamp_path).is_ok_and(|found| found == stamp) {
            return Ok(Venv::at(folder));
        }
        let parent = workspace.runtime().join("bench");
        files::create_folder(&parent)?;
        if let Some(free) = free_gigabytes(&parent) {
            ensure!(free > self.gigabytes, "needs {:.0} GB of disk, {free:.1} GB are free", self.gigabytes);
        }
        eprintln!("{}: installing {} …", self.name, self.versions());
        let venv = Python::new(workspace).venv(&folder)?;
        let pins = folder.join("requirements.txt");
        files::write(&pins, self.pins)?;
        let mut pip = venv.pip();
        pip.args(["install", "--only-binary=:all:", "--no-compile", "--progress-bar=off", "--requirement"]);
        pip.arg(&pins);
        let begun = Instant::now();
        run_with_progress(&mut pip, &folder.join("install.log"), self.name)?;
        files::write(&stamp_path, stamp)?;
        eprintln!("{}: installed in {:.0} s", self.name, begun.elapsed().as_secs_f64());
        Ok(venv)
    }
}

/// Runs `command` with its output in `log`, and shows the last line at intervals.
fn run_with_progress(command: &mut Command, log: &Path, name: &str) -> Result<()> {
    let mut file = File::create_new(log).with_context(|| format!("cannot create {}", log.display()))?;
    file.seek(SeekFrom::End(0))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", command_line(command)))?;
    let mut shown = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for pip")? {
            break status;
        }
        if begun.elapsed() > INSTALL_TIMEOUT {
            child.kill().context("cannot end pip")?;
            child.wait().context("cannot wait for pip")?;
            bail!("not installed within {} minutes", INSTALL_TIMEOUT.as_secs() / 60);
        }
        if shown.elapsed() > PROGRESS_INTERVAL {
            shown = Instant::now();
            let said = fs::read_to_string(log).unwrap_or_default();
            let last: String = said.lines().last().unwrap_or_default().trim().chars().take(100).collect();
            eprintln!("{name}: {:4.0} s  {last}", begun.elapsed().as_secs_f64());
        }
        thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        bail!("pip: {}", reason(&fs::read_to_string(log).unwrap_or_default()));
    }
    Ok(())
}

/// The error in pip's output.
fn reason(said: &str) -> &str {
    let error = said.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    error.or_else(|| said.lines().last()).unwrap_or("no output")
}

/// Free disk space at `folder`; `None` if `df` fails.
fn free_gigabytes(folder: &Path) -> Option<f64> {
    let said = capture(Command::new("df").arg("-Pk").arg(folder)).ok()?;
    available_kilobytes(&said).map(|kilobytes| kilobytes * 1024.0 / 1e9)
}

/// The fourth column of the second line, by POSIX.
fn available_kilobytes(df: &str) -> Option<f64> {
    df.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_pips_last_error() {
        let said =
            "Collecting x\nERROR: Could not find a version\nERROR: No matching distribution\nhint: y\n";
        assert_eq!(reason(said), "No matching distribution");
        assert_eq!(reason("Killed"), "Killed");
        assert_eq!(reason(""), "no output");
    }

    #[test]
    fn df_is_read_by_columns() {
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x 100 40 60 40% /\n";
        assert_eq!(available_kilobytes(df), Some(60.0));
        assert_eq!(available_kilobytes("df: no such file"), None);
    }
}
