//! The program with the default model, as a child process.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use testkit::{ExitReport, Program, wait};

use crate::{
    http::{Connection, Reply, request},
    reference::FOLDER,
};

/// The root of the checkout, where the program needs no flag.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// `embedgate ARGUMENTS` in `folder`.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    testkit::embedgate(Path::new(env!("CARGO_BIN_EXE_embedgate")), folder, arguments)
}

/// Runs `command` to its end.
#[track_caller]
pub(crate) fn run(command: Command) -> ExitReport {
    Program::start(command).unwrap().wait(2 * wait::TIMEOUT).unwrap()
}

/// A server that is ready.
pub(crate) struct Server(testkit::Server);

impl Server {
    /// `embedgate serve` on a free port with further arguments.
    ///
    /// # Panics
    /// If set-up was not run, or the server does not become ready; with its log.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Self {
        require_setup();
        let arguments = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
        Self(testkit::Server::start(command(&root(), &arguments)).unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Resident memory in megabytes.
    pub(crate) fn resident(&self) -> f64 {
        testkit::process_stats::sample(self.id()).unwrap().resident
    }

    pub(crate) fn connect(&self) -> Client {
        Client(Connection::open(self.address()))
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.0.terminate().unwrap();
    }

    /// Waits for the end after [`Server::terminate`].
    pub(crate) fn wait(self) -> ExitReport {
        self.0.wait().unwrap()
    }
}

fn require_setup() {
    let library = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
    let mut needed = vec![Path::new(FOLDER).join("model.safetensors")];
    if env::var_os("ORT_DYLIB_PATH").is_none() {
        needed.push(Path::new(".runtime/onnxruntime").join(library));
    }
    for path in needed {
        assert!(root().join(&path).is_file(), "{} is missing: run `cargo xtask setup`", path.display());
    }
}

/// One connection to the server.
pub(crate) struct Client(Connection);

impl Client {
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) {
        let headers: &[_] = if body.is_empty() { &[] } else { &[("content-type", "application/json")] };
        self.0.send(&request(method, path, headers, body));
    }

    #[track_caller]
    pub(crate) fn receive(&mut self) -> Reply {
        self.0.receive()
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, b"");
        self.receive()
    }

    /// The vectors of `texts`, in their order, and their number of tokens.
    #[track_caller]
    pub(crate) fn embed(&mut self, input: impl Into<Value>) -> (Vec<Vec<f64>>, u64) {
        self.send("POST", "/v1/embeddings", &body(input));
        let reply = self.receive();
        assert_eq!(reply.status, 200, "{}", reply.text());
        vectors(&reply)
    }
}

/// The body of an embeddings request.
pub(crate) fn body(input: impl Into<Value>) -> Vec<u8> {
    json!({ "model": "all-MiniLM-L6-v2", "input": input.into() }).to_string().into_bytes()
}

/// The vectors of a response, and its `usage.prompt_tokens`.
#[track_caller]
pub(crate) fn vectors(reply: &Reply) -> (Vec<Vec<f64>>, u64) {
    let response = reply.json();
    let number = |value: &Value| value.as_f64().unwrap();
    let vector = |item: &Value| item["embedding"].as_array().unwrap().iter().map(number).collect();
    let items = response["data"].as_array().unwrap();
    for (index, item) in items.iter().enumerate() {
        assert_eq!(item["index"], index);
    }
    (items.iter().map(vector).collect(), response["usage"]["prompt_tokens"].as_u64().unwrap())
}
