//! The program as a child process: started on a port of its own choosing, stopped by its id.

use std::{
    env,
    io::{BufRead, BufReader, PipeReader, pipe},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    http::{Connection, Reply, request},
    reference::FOLDER,
};

/// A loaded machine may be slow; a hang must still end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A child process and what it has logged.
pub(crate) struct Program {
    child: Child,
    log: Option<JoinHandle<Vec<String>>>,
}

/// How a program ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

/// The root of the checkout, from where the program needs no flag.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// `embedgate ARGUMENTS` in `folder`, without the settings of the user who runs the tests.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embedgate"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("EMBEDGATE_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).args(arguments);
    command
}

impl Program {
    /// Starts `command`; yields its lines as they come, too.
    pub(crate) fn start(mut command: Command) -> (Self, mpsc::Receiver<String>) {
        let (reader, writer) = pipe().unwrap();
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap();
        drop(command); // Closes our copy of the pipe's end, so that the reader below sees the end.
        let (sender, lines) = mpsc::channel();
        (Self { child, log: Some(thread::spawn(move || read(reader, &sender))) }, lines)
    }

    /// Waits until the program has ended by itself.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended { status, log: self.log() };
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                panic!("the program has not ended:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything that it wrote; it must have ended.
    fn log(&mut self) -> String {
        self.log.take().unwrap().join().unwrap().join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A failed test must not leave it behind. Ending what has ended is no harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(reader: PipeReader, sender: &mpsc::Sender<String>) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
        // After its start nobody listens any more.
        let _ = sender.send(line.clone());
        lines.push(line);
    }
    lines
}

/// A server that is ready.
pub(crate) struct Server {
    program: Program,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// `embedgate serve` on port 0 with further arguments.
    ///
    /// # Panics
    /// When `cargo xtask setup` was not run, and when the server does not become ready; with its log.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        require_setup();
        let arguments = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
        let (mut program, lines) = Program::start(command(&root(), &arguments));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(address) = address(&line) {
                        return Self { program, address };
                    }
                }
                Err(_) => {
                    // Fails when it has ended, which is the usual reason to be here.
                    let _ = program.child.kill();
                    panic!("the server did not start:\n{}", program.log());
                }
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.program.child.id()
    }

    pub(crate) fn connect(&self) -> Client {
        Client(Connection::open(self.address))
    }

    /// Sends SIGTERM, by the shell's own `kill`: a slim machine may lack the program of that name.
    pub(crate) fn terminate(&self) {
        let id = self.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]).status().unwrap().success());
    }

    /// Waits for the end after [`Server::terminate`].
    pub(crate) fn wait(self) -> Ended {
        self.program.wait()
    }
}

/// `127.0.0.1:41234` of `… listening on http://127.0.0.1:41234 · …`.
fn address(line: &str) -> Option<SocketAddr> {
    line.split_once("listening on http://")?.1.split_whitespace().next()?.parse().ok()
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

    /// The vectors of `texts`, in their order, and the tokens that they cost.
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

/// The vectors of an answer, and its `usage.prompt_tokens`.
#[track_caller]
pub(crate) fn vectors(reply: &Reply) -> (Vec<Vec<f64>>, u64) {
    let answer = reply.json();
    let number = |value: &Value| value.as_f64().unwrap();
    let vector = |item: &Value| item["embedding"].as_array().unwrap().iter().map(number).collect();
    let items = answer["data"].as_array().unwrap();
    for (index, item) in items.iter().enumerate() {
        assert_eq!(item["index"], index);
    }
    (items.iter().map(vector).collect(), answer["usage"]["prompt_tokens"].as_u64().unwrap())
}
