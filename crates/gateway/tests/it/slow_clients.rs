//! Clients that stop, or send and receive byte by byte, in every state of a connection. Each of these connections is
//! ended after its timeout, and no longer counts as open. Clients that are only slow are served.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    app::{BODY, Builder, SetOnDrop, TestApp, get, wait_for_metric, wait_until},
    http::{Connection, request},
    tls::{Pair, with},
};

/// Each timeout of these servers, long enough for a handshake on a loaded machine.
const LIMIT: Duration = Duration::from_secs(2);

/// Delay of a client between two steps.
const STEP_DELAY: Duration = Duration::from_millis(20);

const GET: &str = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";
/// Head of a request, up to the header about its body.
const POST: &str = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n";
const LENGTH: &str = "content-length: 1000\r\n\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

/// A state in which a client can leave its connection.
struct State {
    name: &'static str,
    /// Sent first, and answered.
    before: &'static str,
    /// Sent next.
    enter: String,
    /// Sent byte by byte by dripping clients, which repeat the last byte.
    drip: &'static [u8],
    /// Statuses that the client receives.
    statuses: &'static [&'static str],
}

/// All states except handshakes and responses, which need other clients.
fn states() -> Vec<State> {
    let head = &b"GET /v1/models HTTP/1.1\r\nx: y"[..];
    let state = |name, enter: &[&str], drip, statuses| State {
        name,
        before: "",
        enter: enter.concat(),
        drip,
        statuses,
    };
    vec![
        state("first head", &[], head, &["408"]),
        State { before: GET, ..state("later head", &["G"], &head[1..], &["200", "408"]) },
        state("body with a length", &[POST, LENGTH], b"x", &["408"]),
        state("size of a chunk", &[POST, CHUNKED], b"0", &["408"]),
        state("extension of a chunk", &[POST, CHUNKED, "1;"], b"x", &["408"]),
        state("data of a chunk", &[POST, CHUNKED, "3e8\r\n"], b"x", &["408"]),
        state("data of small chunks", &[POST, CHUNKED], b"1\r\nx\r\n0", &["408"]),
        state("trailers", &[POST, CHUNKED, "0\r\n"], b"x: y", &["408"]),
        state("chunked body of an answered GET", &["GET / HTTP/1.1\r\nhost: x\r\n", CHUNKED], b"0", &["200"]),
        state("body of an answered GET", &["GET / HTTP/1.1\r\nhost: x\r\n", LENGTH], b"x", &["200"]),
        state("rejected chunked body", &["POST /v1/no HTTP/1.1\r\nhost: x\r\n", CHUNKED], b"0", &["404"]),
        state("rejected body", &["POST /v1/no HTTP/1.1\r\nhost: x\r\n", LENGTH], b"x", &["404"]),
        state("body rejected by its length", &[POST, "content-length: 99999999\r\n\r\n"], b"x", &["413"]),
        state("no HTTP", &["\x16\x03\x01\r\n\r\n"], b"x", &["400"]),
    ]
}

/// A server with short limits, and the address of its metrics.
fn server(builder: Builder, request_timeout: Duration) -> (TestApp, SocketAddr) {
    let (builder, ops) = builder.ops();
    let limits = move |config: &mut gateway::config::Config| {
        let server = &mut config.server;
        (server.client_header_timeout, server.keep_alive, server.send_timeout) = (LIMIT, LIMIT, LIMIT);
        server.request_timeout = request_timeout;
    };
    let app = builder.config(limits).launch();
    wait_until("the server is ready", || get(ops, "/readyz").status == 200);
    (app, ops)
}

/// Waits until exactly these numbers of connections were ended in these phases, and only the test's own is open.
#[track_caller]
fn wait_for_ended(ops: SocketAddr, phases: &[(&str, usize)]) {
    let line = |phase, count| format!("embedgate_connections_ended_total{{phase=\"{phase}\"}} {count}");
    for &(phase, count) in phases {
        wait_for_metric(ops, &line(phase, count));
    }
    wait_for_metric(ops, "embedgate_connections 1");
    for phase in ["handshake", "head", "idle", "send", "linger"] {
        let count = phases.iter().find(|(name, _)| *name == phase).map_or(0, |&(_, count)| count);
        wait_for_metric(ops, &line(phase, count));
    }
}

trait Client: Read + Write + Send {}
impl<T: Read + Write + Send> Client for T {}

/// Connects, over TLS if there is a pair. Reads time out after [`STEP_DELAY`].
fn connect(address: SocketAddr, pair: Option<&Pair>) -> Box<dyn Client> {
    match pair {
        None => {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(STEP_DELAY)).unwrap();
            Box::new(stream)
        }
        Some(pair) => {
            let mut connection = pair.connect(address).unwrap();
            connection.stream().sock.set_read_timeout(Some(STEP_DELAY)).unwrap();
            Box::new(connection.into_stream())
        }
    }
}

/// Returns the statuses of all responses to the client of `state` until `over`. It never closes its side.
fn receive(state: &State, drips: bool, mut client: Box<dyn Client>, over: &AtomicBool) -> Vec<String> {
    let mut received = Vec::new();
    let mut read = |client: &mut Box<dyn Client>| {
        let mut bytes = [0; 4096];
        match client.read(&mut bytes) {
            Ok(count) => received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The server has closed. Without a delay the loops below would spin.
            Err(_) => thread::sleep(STEP_DELAY),
        }
        received.ends_with(b"]}")
    };
    client.write_all(state.before.as_bytes()).unwrap();
    while !state.before.is_empty() && !read(&mut client) {
        assert!(!over.load(Ordering::Acquire), "{} was never entered", state.name);
    }
    client.write_all(state.enter.as_bytes()).unwrap();
    let mut drip = state.drip.iter().chain(std::iter::repeat(state.drip.last().unwrap()));
    while !over.load(Ordering::Acquire) {
        if drips {
            // The connection may be closed.
            let _ = client.write_all(&[*drip.next().unwrap()]);
            thread::sleep(STEP_DELAY);
        }
        read(&mut client);
    }
    let text = String::from_utf8_lossy(&received);
    text.split("HTTP/1.1 ").skip(1).map(|response| response[..3].to_owned()).collect()
}

/// Connects a silent and a dripping client for each state, waits until connections were ended in these phases, and
/// returns the statuses that the clients received.
fn end_clients(
    (app, ops): &(TestApp, SocketAddr),
    pair: Option<&Pair>,
    states: &[State],
    phases: &[(&str, usize)],
) -> Vec<[Vec<String>; 2]> {
    let (address, over) = (app.address, AtomicBool::new(false));
    let over = &over;
    thread::scope(|scope| {
        let end = SetOnDrop(over);
        let spawn = |state, drips| scope.spawn(move || receive(state, drips, connect(address, pair), over));
        let clients: Vec<_> = states.iter().map(|state| [spawn(state, false), spawn(state, true)]).collect();
        wait_for_ended(*ops, phases);
        drop(end);
        clients.into_iter().map(|both| both.map(|client| client.join().unwrap())).collect()
    })
}

/// Calls `check` with the builder of a server with TLS, and with its certificate.
fn in_tls(check: fn(Builder, Option<&Pair>)) {
    let (folder, pair) = (TempDir::new().unwrap(), Pair::new());
    pair.write(folder.path());
    check(with(folder.path()), Some(&pair));
}

fn clients_are_ended_in_every_state(builder: Builder, pair: Option<&Pair>) {
    let states = states();
    let phases = [("head", 4), ("linger", 2 * (states.len() - 2))];
    let received = end_clients(&server(builder, LIMIT), pair, &states, &phases);
    for (state, [silent, dripping]) in states.iter().zip(received) {
        assert_eq!(silent, state.statuses, "{}, silent", state.name);
        assert_eq!(dripping, state.statuses, "{}, dripping", state.name);
    }
}

#[test]
fn silent_and_dripping_clients_are_ended_in_every_state() {
    clients_are_ended_in_every_state(TestApp::builder(), None);
}

#[test]
fn silent_and_dripping_clients_are_ended_in_every_state_of_tls() {
    in_tls(clients_are_ended_in_every_state);
}

#[test]
fn a_tls_handshake_times_out() {
    let folder = TempDir::new().unwrap();
    Pair::new().write(folder.path());
    // The beginning of a ClientHello.
    let hello = State {
        name: "handshake",
        before: "",
        enter: "\x16\x03\x01\x10\x00\x01\x00\x0f".to_owned(),
        drip: b"\0",
        statuses: &[],
    };
    end_clients(&server(with(folder.path()), LIMIT), None, &[hello], &[("handshake", 2)]);
}

/// One client is silent, one sends the empty lines that may precede a request.
fn a_kept_connection_is_ended(builder: Builder, pair: Option<&Pair>) {
    let kept =
        State { name: "kept", before: GET, enter: String::new(), drip: b"\r\n\r\n", statuses: &["200"] };
    let received = end_clients(&server(builder, LIMIT), pair, &[kept], &[("idle", 1), ("head", 1)]);
    assert_eq!(received, [[vec!["200"], vec!["200", "408"]]]);
}

#[test]
fn an_idle_connection_is_ended() {
    a_kept_connection_is_ended(TestApp::builder(), None);
}

#[test]
fn an_idle_connection_is_ended_in_tls() {
    in_tls(a_kept_connection_is_ended);
}

fn clients_that_do_not_read_are_ended(builder: Builder, pair: Option<&Pair>) {
    let (app, ops) = server(builder, 10 * LIMIT);
    let [mut silent, mut dripping] = [(); 2].map(|()| connect(app.address, pair));
    let body = serde_json::json!({"model": "m", "input": vec!["a"; 2048]}).to_string();
    // Their responses are larger than the sockets' buffers.
    let requests = request("POST", "/v1/embeddings", &[], body.as_bytes()).repeat(16);
    for client in [&mut silent, &mut dripping] {
        client.write_all(&requests).unwrap();
    }
    // One byte per step is below the rate, even if TLS reads a whole record.
    wait_until("both are ended", || {
        let _ = dripping.read(&mut [0]);
        let ended = "embedgate_connections_ended_total{phase=\"send\"} 2";
        get(ops, "/metrics").text().lines().any(|line| line == ended)
    });
    wait_for_ended(ops, &[("send", 2)]);
}

#[test]
fn a_client_that_does_not_read_its_response_is_ended() {
    clients_that_do_not_read_are_ended(TestApp::builder(), None);
}

#[test]
fn a_client_that_does_not_read_its_response_is_ended_in_tls() {
    in_tls(clients_that_do_not_read_are_ended);
}

#[test]
fn a_request_is_answered_after_stopped_uploads_held_every_connection() {
    let (app, _) = server(
        TestApp::builder().config(|config| {
            (config.server.http_workers, config.server.max_connections) = (1, 50);
        }),
        LIMIT,
    );
    let held: Vec<_> = (0..50)
        .map(|_| {
            let mut connection = Connection::open(app.address);
            connection.send(format!("{POST}{CHUNKED}5\r\nhello").as_bytes());
            connection
        })
        .collect();
    assert_eq!(app.get("/v1/models").status, 200);
    drop(held);
}

/// The timeouts apply only while the server waits for the client. A second client, whose connection is ended in the
/// meantime, proves that the timeout has passed.
#[test]
fn the_head_timeout_does_not_apply_while_computing_or_between_requests() {
    let app = TestApp::builder()
        .config(|config| {
            config.server.client_header_timeout = LIMIT;
            config.server.send_timeout = LIMIT;
        })
        .start();
    let mut connection = app.hold_request();
    let silent_client_is_ended = || assert_eq!(Connection::open(app.address).receive().status, 408);
    silent_client_is_ended();
    app.control.release();
    assert_eq!(connection.receive().status, 200);
    silent_client_is_ended();
    connection.send(&request("POST", "/v1/embeddings", &[], BODY));
    assert_eq!(connection.receive().status, 200);
}

/// Each request is read and answered before the connection waits again. A second client, which is idle throughout,
/// proves that the timeout has passed.
#[test]
fn a_connection_in_use_outlives_the_idle_timeout() {
    let app = TestApp::builder().config(|config| config.server.keep_alive = LIMIT).start();
    let (mut connection, mut idle) = (Connection::open(app.address), Connection::open(app.address));
    for client in [&mut connection, &mut idle] {
        client.send(GET.as_bytes());
        assert_eq!(client.receive().status, 200);
    }
    let (ended, is_ended) = std::sync::mpsc::channel();
    let waiting = thread::spawn(move || ended.send(idle.is_closed()));
    let is_ended = || is_ended.recv_timeout(LIMIT / 8) == Ok(true);
    let mut rounds = 0;
    while !is_ended() {
        rounds += 1;
        connection.send(GET.as_bytes());
        assert_eq!(connection.receive().status, 200, "round {rounds}");
        assert!(rounds < 100, "the idle client is not ended");
    }
    waiting.join().unwrap().unwrap();
    assert!(rounds > 0);
    connection.send(GET.as_bytes());
    assert_eq!(connection.receive().status, 200);
}

#[test]
fn a_rejected_upload_receives_its_response_while_it_sends() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    connection.send(format!("POST /v1/no HTTP/1.1\r\nhost: x\r\n{CHUNKED}").as_bytes());
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    for _ in 0..64 {
        connection.send(chunk.as_bytes());
    }
    let reply = connection.receive();
    assert_eq!((reply.status, reply.header("connection")), (404, Some("close")));
    assert!(connection.is_closed());
}
