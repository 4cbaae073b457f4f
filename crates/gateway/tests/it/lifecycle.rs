//! Start and end: what fails to start says so, what was accepted is answered.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use gateway::{LoadError, RunError};

use crate::{
    app::{TestApp, wait_until},
    http::{Connection, request},
};

const BODY: &[u8] = br#"{"model":"m","input":"a"}"#;

/// Clients behave as those behind a load balancer do: they stop sending new requests here once `/readyz`
/// says no, and heed `connection: close`. Until then every request must be answered with 200.
#[test]
fn a_shutdown_under_load_loses_no_request() {
    const CLIENTS: usize = 8;
    let mut app =
        TestApp::builder().config(|config| config.server.shutdown_delay = Duration::from_secs(2)).start();
    let (answered, leave) = (AtomicUsize::new(0), AtomicBool::new(false));
    let address = app.address;
    thread::scope(|scope| {
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
                    // Every other client never keeps a connection.
                    if close || client % 2 == 0 {
                        connection = Connection::open(address);
                    }
                }
            });
        }
        while answered.load(Ordering::SeqCst) < 20 * CLIENTS {
            thread::yield_now();
        }
        app.begin_shutdown();
        app.wait_for("/readyz", 503);
        assert_eq!(app.get("/livez").status, 200);
        let reply = app.get("/readyz");
        assert_eq!((reply.text(), reply.header("connection")), ("draining\n", Some("close")));
        leave.store(true, Ordering::SeqCst);
    });
    app.join().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err(), "the listener is still open");
}

#[test]
fn a_request_in_flight_is_finished_after_the_listener_closed() {
    let mut app = TestApp::start();
    app.control.hold();
    let entered = app.control.entered();
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], BODY));
    app.control.wait_for_batch(entered);
    app.begin_shutdown();
    while std::net::TcpStream::connect(app.address).is_ok() {
        thread::sleep(Duration::from_millis(5));
    }
    app.control.release();
    let reply = connection.receive();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    app.join().unwrap();
}

#[test]
fn a_shutdown_while_loading_ends_in_order() {
    let (builder, gate) = TestApp::builder().gate();
    let mut app = builder.launch();
    app.wait_for("/livez", 200);
    app.begin_shutdown();
    drop(gate);
    app.join().unwrap();
}

/// Longer than any test may take.
const NEVER: Duration = Duration::from_secs(3600);

/// A read from a volume that does not answer never ends.
#[test]
fn a_load_that_hangs_is_abandoned_after_the_drain_timeout() {
    let (builder, _gate) = TestApp::builder().gate();
    let mut app = builder.config(|config| config.server.drain_timeout = Duration::from_millis(100)).launch();
    app.wait_for("/livez", 200);
    app.begin_shutdown();
    wait_until("the server has ended", || app.has_ended());
    let ended = app.join();
    assert!(matches!(ended, Err(RunError::StartHangs { .. })), "{ended:?}");
}

#[test]
fn a_second_request_to_stop_abandons_a_load_that_hangs() {
    let (builder, _gate) = TestApp::builder().gate();
    let mut app = builder.config(|config| config.server.drain_timeout = NEVER).launch();
    app.wait_for("/livez", 200);
    app.begin_shutdown();
    app.begin_shutdown();
    wait_until("the server has ended", || app.has_ended());
    let ended = app.join();
    assert!(matches!(ended, Err(RunError::StartHangs { .. })), "{ended:?}");
}

#[test]
fn a_second_request_to_stop_ends_the_pause_and_loses_nothing() {
    let mut app = TestApp::builder().config(|config| config.server.shutdown_delay = NEVER).start();
    app.control.hold();
    let entered = app.control.entered();
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], BODY));
    app.control.wait_for_batch(entered);
    app.begin_shutdown();
    app.wait_for("/readyz", 503);
    app.begin_shutdown();
    wait_until("the listener is closed", || std::net::TcpStream::connect(app.address).is_err());
    app.control.release();
    assert_eq!(connection.receive().status, 200);
    wait_until("the server has ended", || app.has_ended());
    app.join().unwrap();
}

/// The second one ends the drain, the third one the wait for the batch that the engine runs.
#[test]
fn further_requests_to_stop_end_the_drain_and_say_what_was_lost() {
    let mut app = TestApp::builder().config(|config| config.server.drain_timeout = NEVER).start();
    app.control.hold();
    let entered = app.control.entered();
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], BODY));
    app.control.wait_for_batch(entered);
    app.begin_shutdown();
    wait_until("the listener is closed", || std::net::TcpStream::connect(app.address).is_err());
    app.begin_shutdown();
    app.begin_shutdown();
    wait_until("the server has ended", || app.has_ended());
    let ended = app.join();
    assert!(matches!(ended, Err(RunError::DrainInterrupted)), "{ended:?}");
}

#[test]
fn an_alias_of_no_model_is_a_start_up_error() {
    let mut app = TestApp::builder()
        .config(|config| drop(config.aliases.insert("x".to_owned(), "nobody".to_owned())))
        .launch();
    let error = app.join().unwrap_err();
    assert!(matches!(error, RunError::Load(LoadError::Alias(_))));
    assert_eq!(
        error.to_string(),
        "the alias `x` stands for `nobody`, which is not configured; the models are: tiny"
    );
}
