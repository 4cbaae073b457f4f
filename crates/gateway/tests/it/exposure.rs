//! How the server shows itself: the second listener for metrics and probes, and other origins' web pages.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use crate::{
    app::TestApp,
    http::{Connection, Reply, request},
};

const PROBES: [&str; 4] = ["/startupz", "/readyz", "/livez", "/metrics"];
const BODY: &[u8] = br#"{"model":"m","input":"a"}"#;

fn get(address: SocketAddr, path: &str) -> Reply {
    let mut connection = Connection::open(address);
    connection.send(&request("GET", path, &[], b""));
    connection.receive()
}

#[track_caller]
fn wait_for(address: SocketAddr, path: &str, status: u16) {
    let limit = Instant::now() + Duration::from_secs(20);
    while get(address, path).status != status {
        assert!(Instant::now() < limit, "{path} never said {status}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn with_a_second_listener_probes_and_metrics_answer_there_alone() {
    let (builder, ops) = TestApp::builder().key("team", "secret").ops();
    let app = builder.launch();
    wait_for(ops, "/readyz", 200);
    for path in PROBES {
        assert_eq!((get(ops, path).status, app.get(path).status), (200, 404), "{path}");
    }
    for path in ["/", "/v1/models", "/v1/embeddings"] {
        assert_eq!(get(ops, path).status, 404, "{path}");
    }
    let key = [("authorization", "Bearer secret")];
    assert_eq!(app.send("POST", "/v1/embeddings", &key, BODY).status, 200);
    assert!(get(ops, "/metrics").text().contains("route=\"/v1/embeddings\"} 1"));
}

#[test]
fn the_second_listener_answers_before_the_first_is_ready_and_while_it_drains() {
    let (builder, ops) = TestApp::builder().ops();
    let (builder, gate) = builder.gate();
    let mut app = builder.launch();
    wait_for(ops, "/livez", 200);
    assert_eq!(get(ops, "/readyz").text(), "loading\n");
    gate.send(()).unwrap();
    wait_for(ops, "/readyz", 200);

    // A request in flight keeps the server draining until it is let go.
    app.control.hold();
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], BODY));
    let running = "embedgate_requests_running{model=\"tiny\"} 1";
    let limit = Instant::now() + Duration::from_secs(20);
    while !get(ops, "/metrics").text().lines().any(|line| line == running) {
        assert!(Instant::now() < limit, "the request never began");
        thread::sleep(Duration::from_millis(2));
    }
    app.begin_shutdown();
    wait_for(ops, "/readyz", 503);
    let limit = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(app.address).is_ok() {
        assert!(Instant::now() < limit, "the listener is still open");
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!((get(ops, "/readyz").text(), get(ops, "/livez").status), ("draining\n", 200));
    app.control.release();
    assert_eq!(connection.receive().status, 200);
    app.join().unwrap();
    assert!(std::net::TcpStream::connect(ops).is_err(), "the second listener is still open");
}

/// What browsers send before an SDK's request from a page.
fn preflight(app: &TestApp, origin: &str) -> Reply {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-stainless-os"),
    ];
    app.send("OPTIONS", "/v1/embeddings", &headers, b"")
}

fn sharing(origins: &str) -> TestApp {
    TestApp::builder().config(|config| config.cors.origins = origins.into()).start()
}

#[test]
fn pages_of_the_origins_that_are_named_may_read_answers() {
    let app = sharing("https://app.example");
    let reply = preflight(&app, "https://app.example");
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(reply.header("access-control-allow-methods").unwrap().contains("POST"));
    let allowed = reply.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("authorization") && allowed.contains("x-stainless-os"));

    let reply = app.send("POST", "/v1/embeddings", &[("origin", "https://app.example")], BODY);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(reply.header("access-control-expose-headers").unwrap().contains("x-request-id"));
    // An error, too: a page should see why.
    let reply = app.send("POST", "/v1/embeddings", &[("origin", "https://app.example")], b"{");
    assert_eq!((reply.status, reply.header("access-control-allow-origin").is_some()), (400, true));
}

#[test]
fn pages_of_other_origins_may_not() {
    let app = sharing("https://app.example");
    for origin in ["https://evil.example", "http://app.example", "https://app.example.evil", "null"] {
        assert_eq!(preflight(&app, origin).header("access-control-allow-origin"), None, "{origin}");
        let reply = app.send("POST", "/v1/embeddings", &[("origin", origin)], BODY);
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None), "{origin}");
        assert!(reply.header("vary").unwrap().contains("origin"));
    }
}

#[test]
fn every_page_may_where_the_setting_says_so_and_none_by_default() {
    assert_eq!(
        preflight(&sharing("*"), "https://any.example").header("access-control-allow-origin"),
        Some("*")
    );
    let app = TestApp::start();
    let reply = preflight(&app, "https://any.example");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (405, None));
}
