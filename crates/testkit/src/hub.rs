//! A model hub on the loopback interface, with its content network, that can be told to misbehave.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// Commit of every model of the hub.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Name of the only model.
pub const MODEL: &str = "acme/tiny";

/// Read timeout of a connection: a client that sends nothing does not keep the hub.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest stall. A test ends it earlier by dropping the hub.
const MAX_STALL: Duration = Duration::from_secs(20);

/// A deviation of one response from the protocol.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is closed after this number of bytes of the body.
    CutAfter(usize),
    /// The connection stays open, but nothing follows after this number of bytes of the body.
    StallAfter(usize),
    /// The first byte of the body differs.
    Damaged,
    /// The same, but the file is sent from its beginning, although a part was asked for.
    CutFromStart(usize),
    /// The whole file is sent, although a part was asked for.
    IgnoresRange,
    /// A status with headers, each a line, and no body.
    Status(u16, &'static str),
}

/// A request that the hub or its content network has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRequest {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query; those of the content network begin with `/cdn/`.
    pub path: String,
    /// The header `authorization`.
    pub authorization: Option<String>,
    /// The header `range`.
    pub range: Option<String>,
}

/// The state that the connections share.
#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Faults of the next responses, by a part of the path.
    faults: VecDeque<(String, Fault)>,
    requests: Vec<HubRequest>,
    /// Token without which every request is rejected.
    token: Option<String>,
    lists_digests: bool,
    content_network: String,
}

/// The hub. It has one model, [`MODEL`], whose large files it serves from its content network.
#[derive(Debug)]
pub struct FakeHub {
    address: SocketAddr,
    content_network: SocketAddr,
    state: Arc<Mutex<State>>,
    is_stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl FakeHub {
    /// Starts a hub with these files. Those that end in `.safetensors`, `.bin` or `.onnx` are large files.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> io::Result<Self> {
        let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let (address, content_network) = (listeners[0].local_addr()?, listeners[1].local_addr()?);
        let state = Arc::new(Mutex::new(State {
            files: files.into_iter().collect(),
            lists_digests: true,
            content_network: format!("http://{content_network}"),
            ..State::default()
        }));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let threads = listeners.map(|listener| {
            let (state, is_stopping) = (Arc::clone(&state), Arc::clone(&is_stopping));
            thread::spawn(move || accept(&listener, &state, &is_stopping))
        });
        Ok(Self { address, content_network, state, is_stopping, threads: threads.into() })
    }

    /// The hub's address.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers the next request whose path contains `part` with a fault; several are used in order.
    pub fn fail(&self, part: &str, fault: Fault) {
        lock(&self.state).faults.push_back((part.to_owned(), fault));
    }

    /// Rejects every request to the hub without this token.
    pub fn require_token(&self, token: &str) {
        lock(&self.state).token = Some(token.to_owned());
    }

    /// Leaves sizes and digests out of the list of files, and sends tags that are no digests, as some mirrors do.
    pub fn hide_digests(&self) {
        lock(&self.state).lists_digests = false;
    }

    /// Returns the requests so far, and forgets them.
    pub fn take_requests(&self) -> Vec<HubRequest> {
        std::mem::take(&mut lock(&self.state).requests)
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        for address in [self.address, self.content_network] {
            // Wakes the thread; if it has ended, there is none to wake.
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Returns Git's name of a file's content.
pub fn git_sha1(content: &[u8]) -> String {
    hex(Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content))
}

/// Returns the SHA-256 of a file's content, in hexadecimal.
pub fn sha256(content: &[u8]) -> String {
    hex(Sha256::new_with_prefix(content))
}

fn hex(digest: impl Digest) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<Mutex<State>>, is_stopping: &Arc<AtomicBool>) {
    let mut connections = Vec::new();
    for stream in listener.incoming() {
        if is_stopping.load(Ordering::Acquire) {
            break;
        }
        let (Ok(stream), state, is_stopping) = (stream, Arc::clone(state), Arc::clone(is_stopping)) else {
            continue;
        };
        // A client that has gone is no failure.
        connections.push(thread::spawn(move || drop(answer(stream, &state, &is_stopping))));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// Reads one request, answers it and closes the connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>, is_stopping: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let header = |name: &str| headers.get(name).cloned();
    let (authorization, range) = (header("authorization"), header("range"));
    let request = HubRequest { method, path, authorization, range };
    let (head, body, fault) = {
        let mut state = lock(state);
        state.requests.push(request.clone());
        let position = state.faults.iter().position(|(part, _)| request.path.contains(part.as_str()));
        let fault = position.and_then(|position| state.faults.remove(position)).map(|(_, fault)| fault);
        let (head, body) = respond(&state, &request, fault.as_ref());
        (head, body, fault)
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match fault {
        Some(Fault::CutAfter(bytes) | Fault::CutFromStart(bytes)) => {
            stream.write_all(&body[..bytes.min(length)])
        }
        Some(Fault::StallAfter(bytes)) => {
            stream.write_all(&body[..bytes.min(length)])?;
            let step = Duration::from_millis(20);
            let mut waited = Duration::ZERO;
            while waited < MAX_STALL && !is_stopping.load(Ordering::Acquire) {
                thread::sleep(step);
                waited += step;
            }
            Ok(())
        }
        _ => stream.write_all(&body),
    }
}

/// Returns status and headers, and the body.
fn respond(state: &State, request: &HubRequest, fault: Option<&Fault>) -> (String, Vec<u8>) {
    if let Some(Fault::Status(status, headers)) = fault {
        let headers: String = headers.lines().map(|line| format!("\r\n{line}")).collect();
        return (format!("{status} Fault{headers}"), Vec::new());
    }
    let path = request.path.split('?').next().unwrap_or_default();
    if let Some(name) = path.strip_prefix("/cdn/") {
        return content(state, name, request, fault, "200 OK");
    }
    let expected = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if expected.is_some() && request.authorization != expected {
        return ("401 Unauthorized\r\nx-error-code: RepoNotFound".to_owned(), Vec::new());
    }
    let Some(path) = path.strip_prefix(&format!("/api/models/{MODEL}/revision/")) else {
        return match path.strip_prefix(&format!("/{MODEL}/resolve/{COMMIT}/")) {
            Some(name) => resolve(state, name, request, fault),
            None if path.ends_with(".tar.gz") => {
                content(state, path.trim_start_matches('/'), request, fault, "200 OK")
            }
            None => ("404 Not Found\r\nx-error-code: RepoNotFound".to_owned(), Vec::new()),
        };
    };
    if !["main", COMMIT].contains(&path) {
        return ("404 Not Found\r\nx-error-code: RevisionNotFound".to_owned(), Vec::new());
    }
    let siblings = state.files.iter().map(|(name, content)| match (state.lists_digests, is_large(name)) {
        (false, _) => json!({"rfilename": name}),
        (true, false) => json!({"rfilename": name, "size": content.len(), "blobId": git_sha1(content)}),
        (true, true) => {
            let lfs = json!({"sha256": sha256(content), "size": content.len(), "pointerSize": 134});
            json!({"rfilename": name, "size": content.len(), "blobId": git_sha1(b"pointer"), "lfs": lfs})
        }
    });
    let siblings: Vec<_> = siblings.collect();
    let listing = json!({"id": MODEL, "sha": COMMIT, "siblings": siblings});
    ("200 OK\r\ncontent-type: application/json".to_owned(), listing.to_string().into_bytes())
}

/// Answers a request for a file: a small one itself, a large one with a redirect to the content network.
fn resolve(state: &State, name: &str, request: &HubRequest, fault: Option<&Fault>) -> (String, Vec<u8>) {
    let Some(body) = state.files.get(name) else {
        return ("404 Not Found\r\nx-error-code: EntryNotFound".to_owned(), Vec::new());
    };
    if !state.lists_digests {
        let tag = format!("200 OK\r\netag: W/\"tag-{}\"", body.len());
        return content(state, name, request, fault, &tag);
    }
    if is_large(name) {
        let (digest, bytes, to) = (sha256(body), body.len(), &state.content_network);
        let head = format!(
            "302 Found\r\nlocation: {to}/cdn/{name}?signature=secret\r\nx-repo-commit: {COMMIT}\r\n\
             x-linked-etag: \"{digest}\"\r\nx-linked-size: {bytes}"
        );
        return (head, Vec::new());
    }
    let head = format!("200 OK\r\nx-repo-commit: {COMMIT}\r\netag: \"{}\"", git_sha1(body));
    content(state, name, request, fault, &head)
}

/// Sends a file, or the part of it that was asked for.
fn content(
    state: &State,
    name: &str,
    request: &HubRequest,
    fault: Option<&Fault>,
    head: &str,
) -> (String, Vec<u8>) {
    let Some(content) = state.files.get(name) else { return ("404 Not Found".to_owned(), Vec::new()) };
    let mut body = content.clone();
    if matches!(fault, Some(Fault::Damaged)) {
        body[0] ^= 1;
    }
    let range = request
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match range {
        Some(from) if !matches!(fault, Some(Fault::IgnoresRange | Fault::CutFromStart(_))) => {
            let total = body.len();
            if from >= total {
                return ("416 Range Not Satisfiable".to_owned(), Vec::new());
            }
            let head = head.replacen("200 OK", "206 Partial Content", 1);
            (format!("{head}\r\ncontent-range: bytes {from}-{}/{total}", total - 1), body.split_off(from))
        }
        _ => (head.to_owned(), body),
    }
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".onnx"].iter().any(|end| name.ends_with(end))
}
