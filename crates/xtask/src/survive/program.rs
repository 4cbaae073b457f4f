//! The program as a child process that may end as it likes: its log in a file, its end awaited within a bound.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, without_settings};
use crate::workspace::Workspace;

const TICK: Duration = Duration::from_millis(2);

/// A folder that goes with whoever made it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// An empty folder among the system's temporary ones, whose paths are short enough for a socket.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let folder = env::temp_dir().join(format!("embedgate-{name}-{}", std::process::id()));
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clear away.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a program ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// From its start, or from the moment that was last noted.
    pub(super) took: Duration,
    pub(super) log: String,
}

/// A running program.
pub(super) struct Program {
    child: Child,
    log: PathBuf,
    line: String,
    started: Instant,
}

/// `embedgate ARGUMENTS`, without the settings of whoever runs this.
pub(super) fn embedgate(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new(workspace.release_binary());
    without_settings(&mut command).args(arguments).current_dir(workspace.root());
    command
}

impl Program {
    /// Starts `command` with its output in `folder`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join("program.log");
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let line = process::line(&command);
        let other = file.try_clone().context("cannot clone a file")?;
        command.stdin(Stdio::null()).stdout(other).stderr(file);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { child, log, line, started })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long it has been running.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sends SIGTERM; [`Ended::took`] counts from here.
    ///
    /// # Errors
    /// There is no such process any more.
    pub(super) fn terminate(&mut self) -> Result<()> {
        process::terminate(self.child.id())?;
        self.started = Instant::now();
        Ok(())
    }

    /// Ends it at once, as the kernel does when memory runs out.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(super) fn kill(&mut self) -> Result<()> {
        // What has ended cannot be killed; it is all the same here.
        let _ = self.child.kill();
        self.child.wait().with_context(|| format!("cannot wait for `{}`", self.line))?;
        Ok(())
    }

    /// Waits until `reached` says so.
    ///
    /// # Errors
    /// The program ends first, or it takes longer than `limit`; the message carries its log.
    pub(super) fn until(&mut self, limit: Duration, mut reached: impl FnMut(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !reached(self) {
            if let Some(status) = self.child.try_wait().context("cannot wait for a program")? {
                bail!("`{}` ended with {status}:\n{}", self.line, self.said());
            }
            if begun.elapsed() > limit {
                bail!("`{}` did not get there in {limit:?}:\n{}", self.line, self.said());
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It takes longer than `limit`; the message carries its log.
    pub(super) fn wait(mut self, limit: Duration) -> Result<Ended> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for a program")? {
                return Ok(Ended { status, took: self.started.elapsed(), log: self.said() });
            }
            if begun.elapsed() > limit {
                bail!("`{}` was still there after {limit:?}:\n{}", self.line, self.said());
            }
            thread::sleep(TICK);
        }
    }

    /// What it wrote so far.
    pub(super) fn said(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error on the way must not leave it behind. Ending what has ended is no harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
