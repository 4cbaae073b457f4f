//! A child process with its output in a file, ended with a limit and killed when dropped.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use crate::process;
use crate::wait;

/// End of a program.
#[derive(Debug)]
pub struct ExitReport {
    /// Exit status.
    pub status: ExitStatus,
    /// Time since the start.
    pub elapsed: Duration,
    /// Everything that the program wrote.
    pub log: String,
}

/// A running program.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: NamedTempFile,
    line: String,
    started: Instant,
}

impl Program {
    /// Starts `command` with standard output and error in a temporary file.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let log = NamedTempFile::new().context("cannot create a log file")?;
        let file = log.reopen().context("cannot open a log file")?;
        command.stdout(file.try_clone().context("cannot clone a file")?).stderr(file);
        Self::spawn(command, log)
    }

    /// Starts `command` with standard error at `log`; [`Program::log`] is empty.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn start_logging_to(mut command: Command, log: Stdio) -> Result<Self> {
        command.stdout(Stdio::null()).stderr(log);
        Self::spawn(command, NamedTempFile::new().context("cannot create a log file")?)
    }

    fn spawn(mut command: Command, log: NamedTempFile) -> Result<Self> {
        let line = process::command_line(&command);
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { child, log, line, started })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything that the program wrote so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a signal, such as `HUP`.
    ///
    /// # Errors
    /// The program has ended and was waited for.
    pub fn signal(&self, name: &str) -> Result<()> {
        process::signal(self.child.id(), name)
    }

    /// Kills the program, as the kernel does when memory runs out.
    ///
    /// # Errors
    /// The program cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        // Fails if the program has ended, which is the wanted state.
        let _ = self.child.kill();
        self.child.wait().with_context(|| format!("cannot wait for `{}`", self.line))?;
        Ok(())
    }

    /// Waits until `probe` returns a value while the program runs.
    ///
    /// # Errors
    /// The program ends first, or `timeout` passes; the message carries the log.
    pub fn poll<T>(&mut self, timeout: Duration, mut probe: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let found = wait::poll(timeout, || match probe(self) {
            Some(found) => Some(Ok(found)),
            None => match self.child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(Err(format!("ended with {status}"))),
                Err(error) => Some(Err(format!("cannot be waited for: {error}"))),
            },
        });
        match found {
            Some(Ok(found)) => Ok(found),
            Some(Err(ended)) => bail!("`{}` {ended}:\n{}", self.line, self.log()),
            None => bail!("`{}` was not ready within {timeout:?}:\n{}", self.line, self.log()),
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// `timeout` passes; the message carries the log.
    pub fn wait(mut self, timeout: Duration) -> Result<ExitReport> {
        let ended = wait::poll(timeout, || self.child.try_wait().transpose());
        match ended {
            Some(status) => {
                let status = status.with_context(|| format!("cannot wait for `{}`", self.line))?;
                Ok(ExitReport { status, elapsed: self.started.elapsed(), log: self.log() })
            }
            None => bail!("`{}` was still running after {timeout:?}:\n{}", self.line, self.log()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // After an error the program must not outlive its owner. Killing an ended program is harmless.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
