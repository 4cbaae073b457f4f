//! Start and shutdown of the server.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use gateway::{LoadError, RunError};

use crate::{
    app::{BODY, SetOnDrop, TestApp, wait_until},
    http::{Connection, request},
};

/// The clients behave like those behind a load balancer: they stop sending requests once `/readyz` fails, and obey
/// `connection: close`. Until then the status of every request must be 200.
#[test]
fn a_shutdown_under_load_loses_no_request() {
    const CLIENTS: usize = 8;
    let mut app =
        TestApp::builder().config(|config| config.server.shutdown_delay = Duration::from_secs(2)).start();
    let (answered, leave) = (AtomicUsize::new(0), AtomicBool::new(false));
    let address = app.address;
    thread::scope(|scope| {
        let stop = SetOnDrop(&leave);
        for client in 0..CLIENTS {
            let (answered, leave) = (&answered, &leave);
            scope.spawn(move || {
                let mut connection = Connection::open(address);
                while !leave.load(Ordering::SeqCst) {
                    connection.send(&request("POST", "/v1/embeddings", &[], BODY));
                    let reply = connection.receive();
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    answered.fetch_add(1, Ordering::SeqCst);
                    let close = reply.header("connection").is_some_and(|value| value == "close");
                    // Every other client opens a new connection for each request.
                    if close || client % 2 == 0 {
                        connection = Connection::open(address);
                    }
                }
            });
        }
        wait_until("the clients are busy", || answered.load(Ordering::SeqCst) >= 20 * CLIENTS);
        app.begin_shutdown();
        app.wait_for("/readyz", 503);
        assert_eq!(app.get("/livez").status, 200);
        let reply = app.get("/readyz");
        assert_eq!((reply.text(), reply.header("connection")), ("draining\n", Some("close")));
        drop(stop);
    });
    app.join().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err(), "the listener is still open");
}

#[test]
fn a_request_in_flight_is_finished_after_the_listener_closed() {
    let mut app = TestApp::start();
    let connection = app.hold_request();
    assert_eq!(app.drain(connection).header("connection"), Some("close"));
}

#[test]
fn a_shutdown_while_loading_is_clean() {
    let (builder, gate) = TestApp::builder().gate();
    let mut app = builder.launch();
    app.wait_for("/livez", 200);
    app.begin_shutdown();
    drop(gate);
    app.join().unwrap();
}

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// A read from a volume that does not respond never ends.
#[test]
fn a_load_that_hangs_is_abandoned_after_the_drain_timeout_or_a_second_stop_request() {
    for (drain_timeout, stop_requests) in [(Duration::from_millis(100), 1), (NEVER, 2)] {
        let (builder, _gate) = TestApp::builder().gate();
        let mut app = builder.config(|config| config.server.drain_timeout = drain_timeout).launch();
        app.wait_for("/livez", 200);
        (0..stop_requests).for_each(|_| app.begin_shutdown());
        let ended = app.join();
        assert!(matches!(ended, Err(RunError::StartHangs { .. })), "{ended:?}");
    }
}

#[test]
fn a_second_stop_request_ends_the_shutdown_delay_and_loses_no_request() {
    let mut app = TestApp::builder().config(|config| config.server.shutdown_delay = NEVER).start();
    let connection = app.hold_request();
    app.begin_shutdown();
    app.wait_for("/readyz", 503);
    // Requests to stop a second time.
    app.drain(connection);
}

/// The second one ends the drain, the third one the wait for the running batch.
#[test]
fn further_stop_requests_end_the_drain_with_an_error() {
    let mut app = TestApp::builder().config(|config| config.server.drain_timeout = NEVER).start();
    let _connection = app.hold_request();
    app.begin_shutdown();
    app.wait_for_closed_listener();
    app.begin_shutdown();
    app.begin_shutdown();
    let ended = app.join();
    assert!(matches!(ended, Err(RunError::DrainInterrupted)), "{ended:?}");
}

#[test]
fn an_alias_of_an_unknown_model_is_a_start_up_error() {
    let mut app = TestApp::builder()
        .config(|config| drop(config.aliases.insert("x".to_owned(), "unknown".into())))
        .launch();
    let error = app.join().unwrap_err();
    assert!(matches!(error, RunError::Load(LoadError::Alias(_))));
    assert_eq!(
        error.to_string(),
        "the alias `x` stands for `unknown`, which is not configured; the models are: tiny"
    );
}
