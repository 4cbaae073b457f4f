//! Probes, metrics and the page at `/`.

use crate::{
    app::{BODY, TestApp},
    http::{Connection, request},
};

#[test]
fn probes_answer_any_of_their_methods() {
    let app = TestApp::start();
    for path in ["/startupz", "/readyz", "/livez"] {
        let reply = app.get(path);
        assert_eq!((reply.status, reply.text()), (200, "ok\n"), "{path}");
        assert_eq!(app.send("POST", path, &[], b"").status, 405);
    }
}

#[test]
fn head_gets_only_the_headers() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    connection.send(&[request("HEAD", "/readyz", &[], b""), request("GET", "/livez", &[], b"")].concat());
    let head = connection.receive_head();
    assert_eq!((head.status, head.header("content-length")), (200, Some("3")));
    assert_eq!(connection.receive().text(), "ok\n");
}

#[test]
fn requests_get_503_while_models_load() {
    let (builder, gate) = TestApp::builder().gate();
    let app = builder.launch();
    app.wait_for("/livez", 200);
    for path in ["/startupz", "/readyz"] {
        let reply = app.get(path);
        assert_eq!((reply.status, reply.text()), (503, "loading\n"), "{path}");
    }
    for reply in [app.post(BODY), app.get("/v1/models")] {
        assert_eq!(reply.status, 503);
        assert_eq!(reply.json()["error"]["code"], "server_is_overloaded");
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(app.get("/metrics").status, 200);
    assert!(app.get("/").text().contains("Loading"));
    gate.send(()).unwrap();
    app.wait_for("/startupz", 200);
    assert_eq!(app.post(BODY).status, 200);
}

#[test]
fn metrics_count_requests_by_outcome() {
    let app = TestApp::start();
    app.post(r#"{"model":"m","input":["a","b"]}"#);
    app.post(r#"{"model":"m","input":[]}"#);
    app.post(r#"{"model":"unknown","input":"a"}"#);
    let kind = app.get("/metrics").header("content-type").unwrap().to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    for line in [
        r#"embedgate_request_duration_seconds_count{model="tiny",outcome="success"} 1"#,
        r#"embedgate_request_duration_seconds_count{model="unknown",outcome="client_error"} 2"#,
        r#"embedgate_inputs_total{model="tiny"} 2"#,
        r#"embedgate_input_tokens_total{model="tiny"} 6"#,
        "embedgate_ready 1",
    ] {
        app.wait_for_metric(line);
    }
}
