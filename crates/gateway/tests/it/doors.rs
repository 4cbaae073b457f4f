//! Requests and checks that the tests of other vendors' routes share.

use serde_json::Value;

use crate::{app::TestApp, http::Reply};

/// Posts JSON to `path`.
pub(crate) fn post(app: &TestApp, path: &str, body: &Value) -> Reply {
    app.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
}

/// The numbers of a vector.
#[track_caller]
pub(crate) fn numbers(vector: &Value) -> Vec<f64> {
    vector.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The vectors of a list.
#[track_caller]
pub(crate) fn rows(list: &Value) -> Vec<Vec<f64>> {
    list.as_array().unwrap().iter().map(numbers).collect()
}

/// Asserts that every kind of error of `POST path` has its message in the field `field` and only the fields `fields`:
/// those of the handler, of the body, of authentication, of the rate limit and of the route table. `body` is a valid
/// request.
#[track_caller]
pub(crate) fn assert_error_shape(path: &str, body: &Value, field: &str, fields: &[&str]) {
    let assert_shape = |reply: &Reply, status: u16| {
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        let error = reply.json();
        let found: Vec<_> = error.as_object().unwrap().keys().collect();
        assert_eq!(found, fields, "{path}: {error}");
        assert!(error[field].as_str().is_some_and(|message| !message.is_empty()), "{path}: {error}");
        assert!(reply.header("x-request-id").is_some());
        assert_eq!(reply.header("content-type"), Some("application/json"));
    };
    let app = TestApp::builder()
        .key("team", "secret")
        .config(|config| {
            config.limits.max_body_bytes = 1000;
            config.limits.key_requests_per_minute = 2;
        })
        .start();
    let send = |method: &str, key: &str, coding: &str, body: &[u8]| {
        app.send(method, path, &[("authorization", key), ("content-encoding", coding)], body)
    };
    let (key, valid) = ("Bearer secret", body.to_string());
    assert_shape(&send("POST", "", "", b"{}"), 401);
    assert_shape(&send("POST", key, "", b"{"), 400);
    assert_shape(&send("POST", key, "", b"{}"), 400);
    assert_shape(&send("POST", key, "", &[b' '; 1001]), 413);
    assert_shape(&send("POST", key, "compress", b"a"), 415);
    assert_shape(&send("DELETE", key, "", b""), 405);
    for _ in 0..2 {
        let reply = send("POST", key, "", valid.as_bytes());
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert!(reply.header("x-ratelimit-remaining-requests").is_some());
    }
    let limited = send("POST", key, "", valid.as_bytes());
    assert_shape(&limited, 429);
    assert!(limited.header("retry-after").is_some());

    let (builder, gate) = TestApp::builder().gate();
    let app = builder.launch();
    app.wait_for("/livez", 200);
    assert_shape(&post(&app, path, body), 503);
    drop(gate);
}
