//! `embedgate serve` as a child process: started on a free port, stopped by SIGTERM.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::program::{ExitReport, Program};

/// Limit of a start. It takes less than a second on an idle machine; an emulated CPU needs minutes, since the golden
/// vectors are computed before the server listens.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Limit of an end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    program: Program,
    origin: String,
    address: SocketAddr,
    uses_bf16: bool,
}

/// `PROGRAM ARGUMENTS` in `folder`, without the settings in the developer's environment.
pub fn embedgate(program: &Path, folder: &Path, arguments: &[impl AsRef<str>]) -> Command {
    let mut command = Command::new(program);
    process::remove_embedgate_env(&mut command).current_dir(folder);
    command.args(arguments.iter().map(AsRef::as_ref));
    command
}

impl Server {
    /// Starts a server by any command that passes on its log and signals, and waits until it listens.
    ///
    /// # Errors
    /// The program ends, or does not listen in time; the message carries its log.
    pub fn start(command: Command) -> Result<Self> {
        let mut program = Program::start(command)?;
        let line = program.poll(START_TIMEOUT, |program| {
            let log = program.log();
            // The last line may be incomplete.
            let mut lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines.find(|line| origin(line).is_some()).map(str::to_owned)
        })?;
        let origin = origin(&line).unwrap_or_default();
        let address = origin.split_once("://").and_then(|(_, address)| address.parse().ok());
        let address = address.with_context(|| format!("{origin} holds no address"))?;
        Ok(Self { program, origin, address, uses_bf16: line.contains(" bf16 ") })
    }

    /// `http://ADDRESS:PORT`, or `https://…` with TLS.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Minimum cosine of its vectors to those of sentence-transformers in fp32, for the precision that it logged.
    pub fn min_cosine(&self) -> &'static str {
        if self.uses_bf16 { "0.9999" } else { "0.99999" }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.program.id()
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// The server has ended.
    pub fn terminate(&self) -> Result<()> {
        self.program.signal("TERM")
    }

    /// Waits for the end after [`Server::terminate`].
    ///
    /// # Errors
    /// It does not end in time; the message carries its log.
    pub fn wait(self) -> Result<ExitReport> {
        self.program.wait(STOP_TIMEOUT)
    }

    /// Sends SIGTERM and expects exit code 0.
    ///
    /// # Errors
    /// It does not end in time, or fails; the message carries its log.
    pub fn stop(mut self) -> Result<()> {
        if cfg!(not(unix)) {
            return self.program.kill();
        }
        self.terminate()?;
        let ended = self.wait()?;
        if !ended.status.success() {
            bail!("the server ended with {} after SIGTERM:\n{}", ended.status, ended.log);
        }
        Ok(())
    }
}

/// Parses `http://127.0.0.1:41234` from `… listening on http://127.0.0.1:41234 · …`.
fn origin(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listening on ")?;
    let origin = rest.split(|end: char| end.is_whitespace() || end == '"').next()?;
    let has_scheme = ["http://", "https://"].iter().any(|scheme| origin.starts_with(scheme));
    has_scheme.then(|| origin.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_is_read_from_the_start_up_line() {
        let line = "INFO listening on http://127.0.0.1:41234 · all-MiniLM-L6-v2 · 384 dimensions";
        assert_eq!(origin(line).as_deref(), Some("http://127.0.0.1:41234"));
        assert_eq!(origin("listening on https://[::1]:1/ · x").as_deref(), Some("https://[::1]:1"));
        assert_eq!(origin("listening on a socket"), None);
        assert_eq!(origin("loading"), None);
    }
}
