//! A server under measurement: started in a process group of its own, with its output in a file.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    load,
    resource_usage::{self, Usage},
};
use testkit::{files, process};

/// Limit of the first answer: torch with a cold disk is slow.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Limit of the end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A server that has answered.
pub(crate) struct Running {
    group: Group,
    pub(crate) address: SocketAddr,
    /// From the start of the process to the first answer.
    pub(crate) cold: Duration,
}

impl Running {
    /// Starts `command` for a free port, and waits for its first vector. An error carries the end of its output.
    pub(crate) fn start(command: impl FnOnce(u16) -> Command, log: &Path) -> Result<Self> {
        Self::start_until(command, log, load::ask_once)
    }

    /// The same, but waits until `ask` has an answer.
    pub(crate) fn start_until(
        command: impl FnOnce(u16) -> Command,
        log: &Path,
        ask: impl Fn(SocketAddr) -> Result<()>,
    ) -> Result<Self> {
        // Not all servers can choose a free port and report it.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = command(port);
        let started = Instant::now();
        let child = spawn(&mut command, log)?;
        let mut running = Self { group: Group(child), address, cold: Duration::ZERO };
        // Before it listens, connecting fails; before it is ready, it may answer with 503.
        while let Err(error) = ask(address) {
            if let Some(status) = running.group.0.try_wait().context("cannot wait for the server")? {
                bail!("ended with {status}: {}", end_of(log));
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("no answer within {} s ({error:#}): {}", START_TIMEOUT.as_secs(), end_of(log));
            }
            thread::sleep(Duration::from_millis(2));
        }
        running.cold = started.elapsed();
        Ok(running)
    }

    /// Its resource usage so far.
    pub(crate) fn usage(&self) -> Option<Usage> {
        resource_usage::of(self.group.0.id())
    }

    /// Ends it, by SIGTERM first.
    pub(crate) fn stop(mut self) {
        if signal(&self.group.0, "TERM").is_ok() {
            let asked = Instant::now();
            while asked.elapsed() < STOP_TIMEOUT && !self.has_ended() {
                thread::sleep(Duration::from_millis(20));
            }
        }
        // Dropping the group kills the rest.
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.group.0.try_wait(), Ok(Some(_)))
    }
}

/// A process group that is killed when dropped.
pub(crate) struct Group(pub(crate) Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Killing an ended process is harmless.
        let _ = signal(&self.0, "KILL");
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `command` as the leader of a new process group, with its output in `log`.
fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let file = create(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let child = command.process_group(0).spawn();
    child.with_context(|| format!("cannot start `{}`", process::command_line(command)))
}

/// An empty file for a process's output.
pub(crate) fn create(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        files::create_folder(folder)?;
    }
    File::create(log).with_context(|| format!("cannot create {}", log.display()))
}

/// Path of a competitor's log, by its name.
pub(crate) fn log_of(runtime: &Path, name: &str) -> PathBuf {
    runtime.join("bench/logs").join(format!("{name}.log"))
}

/// The last line of a log that is not blank.
pub(crate) fn end_of(log: &Path) -> String {
    let said = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no output").to_owned()
}

/// Sends a signal to the group that `child` leads.
fn signal(child: &Child, name: &str) -> Result<()> {
    // Uses the shell's built-in `kill`, because a minimal system may lack the program.
    let script = format!("kill -s {name} -- -{} 2>/dev/null", child.id());
    process::capture(Command::new("sh").args(["-c", &script])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_early_reports_its_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/x.log");
        let start = |_port| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo first; echo the port is taken >&2; exit 3"]);
            command
        };
        let error = Running::start(start, &log).err().unwrap().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("the port is taken"), "{error}");
    }

    #[test]
    fn a_group_is_killed_with_all_children() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & sleep 60; true"]).stdin(Stdio::null()).stdout(writer);
        let group = Group(command.stderr(Stdio::null()).process_group(0).spawn().unwrap());
        drop(command);
        signal(&group.0, "0").unwrap();
        drop(group);
        // The end is read when all writers are gone: the shell and its children.
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    }
}
