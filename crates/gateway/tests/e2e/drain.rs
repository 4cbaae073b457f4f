//! SIGTERM: accepted requests are answered, and the exit code is 0.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, ScopedJoinHandle},
};

use testkit::wait;

use crate::{
    reference::{Example, assert_same, listable},
    server::{Server, body, vectors},
};

const CLIENTS: usize = 8;

/// Texts long enough that requests queue up behind each other.
fn long() -> Vec<&'static Example> {
    let mut examples = listable();
    examples.sort_by_key(|example| std::cmp::Reverse(example.tokens));
    examples.truncate(6);
    examples
}

/// The texts of `examples`, and three long unique ones: equal texts of all clients are computed once, and would be
/// answered before the signal.
fn texts(examples: &[&Example], sender: &str) -> Vec<String> {
    let own = (0..3).map(|number| format!("{sender} {number}{}", " and so on".repeat(80)));
    examples.iter().map(|example| example.text.clone()).chain(own).collect()
}

/// Tells the clients to stop when dropped.
struct LeaveGuard<'a>(&'a AtomicBool);

impl Drop for LeaveGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Clients behave like those behind a load balancer: they send until `/readyz` fails, respect `connection: close`, and
/// must get every response.
#[test]
fn sigterm_under_load_loses_no_request() {
    let server = Server::start(&["--shutdown-delay", "500ms"]);
    let examples = long();
    let (answered, leave) = (AtomicUsize::new(0), AtomicBool::new(false));
    let after = thread::scope(|scope| {
        let mut clients = Vec::new();
        for client_number in 0..CLIENTS {
            let (server, examples, answered, leave) = (&server, &examples, &answered, &leave);
            clients.push(scope.spawn(move || {
                let mut kept = None;
                for round in (0..).take_while(|_| !leave.load(Ordering::SeqCst)) {
                    let mut client = kept.take().unwrap_or_else(|| server.connect());
                    client.send(
                        "POST",
                        "/v1/embeddings",
                        &body(texts(examples, &format!("{client_number} {round}"))),
                    );
                    let reply = client.receive();
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    for (vector, example) in vectors(&reply).0.iter().zip(examples) {
                        assert_same(vector, example);
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                    // Every second client opens a connection for each request.
                    if reply.header("connection") != Some("close") && client_number % 2 == 1 {
                        kept = Some(client);
                    }
                }
            }));
        }
        // Also after a panic, which would otherwise wait for the clients without an end.
        let _guard = LeaveGuard(&leave);
        wait::until("two responses per client", || {
            assert!(!clients.iter().any(ScopedJoinHandle::is_finished), "a client failed");
            answered.load(Ordering::SeqCst) >= 2 * CLIENTS
        });
        server.terminate();
        wait::until("/readyz fails", || server.connect().get("/readyz").status == 503);
        assert_eq!(server.connect().get("/livez").status, 200);
        answered.load(Ordering::SeqCst)
    });
    assert!(answered.load(Ordering::SeqCst) > after, "no request was under way when the clients left");
    let address = server.address();
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(TcpStream::connect(address).is_err(), "something still listens");
}

/// Without a shutdown delay, accepted requests must still be answered.
#[test]
fn sigterm_waits_for_everything_that_was_accepted() {
    let server = Server::start(&[]);
    // Seconds of work in total, so that most of it remains at the time of the signal.
    let examples: Vec<_> = long().into_iter().cycle().take(12).collect();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send("POST", "/v1/embeddings", &body(texts(&examples, &number.to_string())));
    }
    let mut observer = server.connect();
    let unanswered = wait::poll(wait::TIMEOUT, || {
        let metrics = observer.get("/metrics");
        let value = |start: &str| -> usize {
            let line = metrics.text().lines().find(|line| line.starts_with(start));
            let line = line.unwrap_or_else(|| panic!("no {start} in:\n{}", metrics.text()));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let answered =
            value("embedgate_request_duration_seconds_count{model=\"all-MiniLM-L6-v2\",outcome=\"success\"}");
        let unanswered = value("embedgate_requests_waiting{") + value("embedgate_requests_running{");
        (answered + unanswered >= CLIENTS).then_some(unanswered)
    });
    let unanswered = unanswered.expect("all requests are accepted");
    assert!(unanswered > 0, "everything was answered before the signal");
    server.terminate();
    for client in &mut clients {
        let reply = client.receive();
        assert_eq!(reply.status, 200, "{}", reply.text());
        for (vector, example) in vectors(&reply).0.iter().zip(&examples) {
            assert_same(vector, example);
        }
    }
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}
