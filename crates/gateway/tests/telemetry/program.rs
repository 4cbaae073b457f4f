//! The program as a child process with a tiny model, configured by environment variables.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    ExitReport, Program,
    model::copy_tiny,
    wait::{TIMEOUT, until},
};

use crate::http::{Reply, ask, request};

/// A server that is ready.
pub(crate) struct Server {
    program: Program,
    /// Its working directory.
    _folder: TempDir,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts the program with only these environment variables.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        let (command, folder) = command(variables);
        let mut program = Program::start(command).unwrap();
        let address = program.poll(TIMEOUT, |program| address(&program.log())).unwrap();
        Self { program, _folder: folder, address }
    }

    /// As [`Server::start`], but writes the log to `log`.
    pub(crate) fn start_logging_to(variables: &[(&str, &str)], log: Stdio) -> Self {
        let (command, folder) = command(variables);
        let mut program = Program::start_logging_to(command, log).unwrap();
        let address = program.poll(TIMEOUT, |program| listener(program.id())).unwrap();
        let server = Self { program, _folder: folder, address };
        until("the server is ready", || server.send("GET", "/readyz", &[], b"").status == 200);
        server
    }

    /// Waits until the log contains `text`.
    #[track_caller]
    pub(crate) fn wait_for_line(&mut self, text: &str) {
        self.program.poll(TIMEOUT, |program| program.log().contains(text).then_some(())).unwrap();
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        ask(self.address, &request(method, path, headers, body)).unwrap()
    }

    /// Posts a request for embeddings.
    pub(crate) fn embed(&self, headers: &[(&str, &str)], input: impl Into<Value>) -> Reply {
        let body =
            json!({"model": "text-embedding-3-small", "input": input.into(), "encoding_format": "base64"});
        self.send("POST", "/v1/embeddings", headers, body.to_string().as_bytes())
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(self) -> ExitReport {
        self.program.signal("TERM").unwrap();
        self.program.wait(TIMEOUT).unwrap()
    }
}

/// The command of a server, and its working directory with a copy of the model.
fn command(variables: &[(&str, &str)]) -> (Command, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    copy_tiny("bert-mean", &folder.path().join("tiny")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_embedgate"));
    command.env_clear().envs(variables.iter().copied()).current_dir(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--model", "tiny"]);
    // Needed if this CPU has no native kernels.
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/onnxruntime/libonnxruntime.so");
    if library.exists() {
        command.arg("--onnxruntime-path").arg(library);
    }
    (command, folder)
}

/// `127.0.0.1:41234` of `… listening on http://127.0.0.1:41234 · …`.
fn address(log: &str) -> Option<SocketAddr> {
    log.split_once("listening on http")?.1.split_once("://")?.1.split_once(' ')?.0.parse().ok()
}

/// The address on which a process listens, from Linux's /proc.
fn listener(id: u32) -> Option<SocketAddr> {
    let sockets: Vec<PathBuf> = fs::read_dir(format!("/proc/{id}/fd"))
        .ok()?
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let tables = fs::read_to_string(format!("/proc/{id}/net/tcp")).ok()?;
    tables.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields[1].split_once(':')?;
        let listens = fields[3] == "0A";
        let ours = sockets.contains(&PathBuf::from(format!("socket:[{}]", fields[9])));
        (listens && ours).then_some(SocketAddr::from(([127, 0, 0, 1], u16::from_str_radix(port, 16).ok()?)))
    })
}
