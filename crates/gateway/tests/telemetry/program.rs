//! The program as a child process with a tiny model, configured by environment variables.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Connection, Reply, request};

/// Maximum time to wait for an event, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server that is ready.
pub(crate) struct Server {
    child: Child,
    folder: TempDir,
    pub(crate) address: SocketAddr,
}

/// Exit status and log of a server.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Server {
    /// Starts the program with only these environment variables.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        let (child, folder) = spawn(variables, |folder| File::create(folder.join("log")).unwrap().into());
        let mut server = Self { child, folder, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        server.address = server.wait(|server| address(&server.log()));
        server
    }

    /// As [`Server::start`], but writes the log to `log`.
    pub(crate) fn start_logging_to(variables: &[(&str, &str)], log: Stdio) -> Self {
        let (child, folder) = spawn(variables, |_| log);
        let mut server = Self { child, folder, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        server.address = server.wait(|server| listener(server.child.id()));
        server.wait(|server| (server.send("GET", "/readyz", &[], b"").status == 200).then_some(()));
        server
    }

    /// Waits until `found` returns a value. Fails if the server ends.
    pub(crate) fn wait<T>(&mut self, found: impl Fn(&Self) -> Option<T>) -> T {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "not ready ({ended:?}):\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the log contains `text`.
    pub(crate) fn wait_for_line(&mut self, text: &str) {
        self.wait(|server| server.log().contains(text).then_some(()));
    }

    pub(crate) fn log(&self) -> String {
        // The file is absent if the log is written elsewhere.
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut connection = Connection::open(self.address);
        connection.send(&request(method, path, headers, body));
        connection.receive()
    }

    /// Posts a request for embeddings.
    pub(crate) fn embed(&self, headers: &[(&str, &str)], input: impl Into<Value>) -> Reply {
        let body =
            json!({"model": "text-embedding-3-small", "input": input.into(), "encoding_format": "base64"});
        self.send("POST", "/v1/embeddings", headers, body.to_string().as_bytes())
    }

    /// Sends SIGTERM and waits for the end. Uses the shell's builtin `kill`, since a slim machine may lack the program.
    pub(crate) fn stop(mut self) -> Ended {
        let end = Instant::now() + TIMEOUT;
        let id = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]).status().unwrap().success());
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended { status, log: self.log() };
            }
            assert!(Instant::now() < end, "it has not ended:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(variables: &[(&str, &str)], log: impl FnOnce(&Path) -> Stdio) -> (Child, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    copy(&workspace.join("crates/model-import/tests/tiny-models/bert-mean"), &folder.path().join("tiny"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_embedgate"));
    command.env_clear().envs(variables.iter().copied()).current_dir(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--model", "tiny"]);
    // Needed if this CPU has no native kernels.
    let library = workspace.join(".runtime/onnxruntime/libonnxruntime.so");
    if library.exists() {
        command.arg("--onnxruntime-path").arg(library);
    }
    let stderr = log(folder.path());
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    (child, folder)
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

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
