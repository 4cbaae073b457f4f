//! The release binary as a server for the clients: started on a port of its own choosing, stopped by its id.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// Cold start is below a second; a loaded machine with a cold disk may need many, and an emulated processor minutes, for
/// the golden vectors are computed before anything is served.
const START: Duration = Duration::from_secs(300);
/// No request is under way when the clients are done.
const STOP: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct Server {
    child: Child,
    origin: String,
    bf16: bool,
    log: Option<JoinHandle<Vec<String>>>,
}

impl Server {
    /// Starts the server with further `arguments` and waits until it says where it listens.
    ///
    /// # Errors
    /// It ends, or says nothing in time; the message carries its log.
    pub(crate) fn start(workspace: &Workspace, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(workspace.release_binary());
        process::without_settings(&mut command);
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments).current_dir(workspace.root());
        Self::launch(command)
    }

    /// Starts a server by any command that passes its log and signals on, and waits until it says where it listens.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub(crate) fn launch(mut command: Command) -> Result<Self> {
        let (reader, writer) = pipe().context("cannot make a pipe")?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("cannot clone a pipe")?)
            .stderr(writer);
        let child = command.spawn().with_context(|| format!("cannot start {}", process::line(&command)))?;
        drop(command); // Closes our copy of the pipe's end.

        let (found, origin) = mpsc::channel();
        let log = thread::spawn(move || read_log(reader, &found));
        let mut server = Self { child, origin: String::new(), bf16: false, log: Some(log) };
        match origin.recv_timeout(START) {
            Ok((origin, bf16)) => (server.origin, server.bf16) = (origin, bf16),
            Err(_) => {
                server.child.kill().context("cannot end the server")?;
                bail!("the server did not start listening:\n{}", server.said());
            }
        }
        Ok(server)
    }

    /// `http://ADDRESS:PORT`, or `https://…` with TLS.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The origin that it logged holds no address.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        let (_, address) = self.origin.split_once("://").unwrap_or_default();
        address.parse().with_context(|| format!("{} holds no address", self.origin))
    }

    /// The least cosine that its vectors may have to those of sentence-transformers in fp32: what the precision that it
    /// said it computes in allows.
    pub(crate) fn least_cosine(&self) -> &'static str {
        if self.bf16 { "0.9999" } else { "0.99999" }
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the server to end and expects exit code 0.
    ///
    /// # Errors
    /// It does not end in time, or with another status; the message carries its log.
    pub(crate) fn stop(mut self) -> Result<()> {
        if cfg!(not(unix)) {
            return self.child.kill().context("cannot end the server");
        }
        process::terminate(self.child.id())?;
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("cannot wait for the server")? {
                if status.success() {
                    return Ok(());
                }
                bail!("the server ended with {status} after SIGTERM:\n{}", self.said());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().context("cannot end the server")?;
        bail!("the server was still there {} s after SIGTERM:\n{}", STOP.as_secs(), self.said())
    }

    /// The log of a server that has ended.
    fn said(&mut self) -> String {
        self.log.take().and_then(|log| log.join().ok()).unwrap_or_default().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error on the way must not leave it behind. Ending what has ended is no harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps every line, and sends on the origin of the first that says where the server listens, and whether in bf16.
fn read_log(reader: PipeReader, found: &mpsc::Sender<(String, bool)>) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(origin) = origin(&line) {
            // Nobody waits any more after the first.
            let _ = found.send((origin, line.contains(" bf16 ")));
        }
        lines.push(line);
    }
    lines
}

/// `http://127.0.0.1:41234` of `… listening on http://127.0.0.1:41234 · …`.
fn origin(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listening on ")?;
    let origin = rest.split(|end: char| end.is_whitespace() || end == '"').next()?;
    ["http://", "https://"]
        .iter()
        .any(|scheme| origin.starts_with(scheme))
        .then(|| origin.trim_end_matches('/').to_owned())
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
