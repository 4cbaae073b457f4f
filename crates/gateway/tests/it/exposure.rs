//! The listener for probes and metrics, and CORS.

use std::net::SocketAddr;

use crate::{
    app::{BODY, TestApp, get, wait_for_metric, wait_until},
    http::Reply,
};

const PROBES: [&str; 4] = ["/startupz", "/readyz", "/livez", "/metrics"];

#[track_caller]
fn wait_for(address: SocketAddr, path: &str, status: u16) {
    wait_until(&format!("the status of {path} is {status}"), || get(address, path).status == status);
}

#[test]
fn with_ops_listen_probes_and_metrics_are_served_only_there() {
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
fn probes_on_ops_listen_are_answered_while_loading_and_draining() {
    let (builder, ops) = TestApp::builder().ops();
    let (builder, gate) = builder.gate();
    let mut app = builder.launch();
    wait_for(ops, "/livez", 200);
    assert_eq!(get(ops, "/readyz").text(), "loading\n");
    gate.send(()).unwrap();
    wait_for(ops, "/readyz", 200);

    // A request in flight keeps the server draining until its batch is released.
    let mut connection = app.hold_request();
    wait_for_metric(ops, "embedgate_requests_running{model=\"tiny\"} 1");
    app.begin_shutdown();
    wait_for(ops, "/readyz", 503);
    app.wait_for_closed_listener();
    assert_eq!((get(ops, "/readyz").text(), get(ops, "/livez").status), ("draining\n", 200));
    app.control.release();
    assert_eq!(connection.receive().status, 200);
    app.join().unwrap();
    assert!(std::net::TcpStream::connect(ops).is_err(), "the second listener is still open");
}

/// The preflight request that a browser sends before an SDK's request.
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
fn pages_of_configured_origins_may_read_responses() {
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
    // Errors can be read, too.
    let reply = app.send("POST", "/v1/embeddings", &[("origin", "https://app.example")], b"{");
    assert_eq!((reply.status, reply.header("access-control-allow-origin").is_some()), (400, true));
}

#[test]
fn pages_of_other_origins_may_not_read_responses() {
    let app = sharing("https://app.example");
    for origin in ["https://evil.example", "http://app.example", "https://app.example.evil", "null"] {
        assert_eq!(preflight(&app, origin).header("access-control-allow-origin"), None, "{origin}");
        let reply = app.send("POST", "/v1/embeddings", &[("origin", origin)], BODY);
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None), "{origin}");
        assert!(reply.header("vary").unwrap().contains("origin"));
    }
}

#[test]
fn cors_allows_all_origins_with_a_star_and_none_by_default() {
    assert_eq!(
        preflight(&sharing("*"), "https://any.example").header("access-control-allow-origin"),
        Some("*")
    );
    let app = TestApp::start();
    let reply = preflight(&app, "https://any.example");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (405, None));
}
