//! Overload, deadlines, failing encoders and clients that disconnect.

use std::{sync::mpsc, thread, time::Duration};

use gateway::config::Bytes;
use inference::EncodeError;
use insta::assert_snapshot;
use serde_json::json;

use crate::{
    app::{TIMEOUT, TestApp, WINDOW},
    fake::{FAILURES_OF_ENCODER, InjectedFault},
    http::{Connection, request},
};

fn body(text: &str) -> String {
    json!({"model": "m", "input": text}).to_string()
}

#[test]
fn a_full_queue_rejects_immediately_and_admitted_requests_are_answered() {
    let app = TestApp::builder().model(|model| model.max_queue_tokens = 4 * WINDOW).start();
    app.control.hold();
    let (sender, replies) = mpsc::channel();
    thread::scope(|scope| {
        for client in 0..40 {
            let (app, sender) = (&app, sender.clone());
            scope.spawn(move || {
                let text = format!("{client} {}", "a ".repeat(WINDOW));
                sender.send(app.post(body(&text))).unwrap();
            });
        }
        drop(sender);
        // Rejections arrive while the encoder is held.
        let rejected = replies.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(rejected.status, 503);
        assert_eq!(rejected.json()["error"]["code"], "server_is_overloaded");
        app.control.release();
        let mut answered = 0;
        for reply in &replies {
            match reply.status {
                200 => answered += 1,
                503 => {
                    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                    assert!((1..=60).contains(&seconds));
                    assert_eq!(reply.header("x-should-retry"), None);
                }
                other => panic!("{other}: {}", reply.text()),
            }
        }
        assert!(answered > 0, "no request was admitted");
    });
    assert_eq!(app.post(body("after the overload")).status, 200);
    let metrics = app.get("/metrics");
    let rejected = metrics.text().lines().find(|line| {
        line.starts_with("embedgate_requests_rejected_total")
            && line.contains("tiny")
            && line.contains("queue_full")
    });
    assert!(rejected.is_some_and(|line| !line.ends_with(" 0")), "{rejected:?}");
}

/// While a body that arrives slowly holds its memory, another large body is rejected and a small one admitted.
#[test]
fn bodies_share_a_bounded_memory() {
    const SIZE: usize = 60_000;
    /// Bytes of each body that are not counted.
    const UNMETERED: usize = 16 << 10;
    let app = TestApp::builder()
        .config(|config| {
            (config.limits.max_body_bytes, config.limits.max_buffered_body_bytes) = (SIZE, Bytes(SIZE));
        })
        .start();
    let large = format!("{:<SIZE$}", body("a"));
    let slow_request = request("POST", "/v1/embeddings", &[], large.as_bytes());
    let (most, last) = slow_request.split_at(slow_request.len() - 1);
    let mut slow = Connection::open(app.address);
    slow.send(most);
    app.wait_for_metric(&format!("embedgate_buffered_body_bytes {}", SIZE - UNMETERED));

    let rejected = app.post(&large);
    assert_eq!((rejected.status, rejected.header("retry-after")), (503, Some("1")));
    assert_eq!(rejected.json()["error"]["code"], "server_is_overloaded");
    app.wait_for_metric(
        r#"embedgate_requests_rejected_total{model="unknown",reason="body_memory_exhausted"} 1"#,
    );
    assert_eq!(app.post(body("a")).status, 200);

    slow.send(last);
    assert_eq!(slow.receive().status, 200);
    assert_eq!(app.post(&large).status, 200);
}

#[test]
fn a_missed_deadline_is_a_503_with_retry_after() {
    let app = TestApp::builder()
        .config(|config| config.server.request_timeout = Duration::from_millis(200))
        .start();
    app.control.hold();
    let reply = app.post(body("late"));
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
    app.control.release();
    assert_snapshot!(reply.text(), @r#"{"error":{"message":"The engine is currently overloaded, please try again later","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}}"#);
}

#[test]
fn a_panicking_batch_fails_one_request_with_500() {
    let app = TestApp::start();
    app.control.inject(InjectedFault::Panic);
    assert_snapshot!(app.post(body("unlucky")).summary(), @r#"
    500
    content-type: application/json
    {"error":{"message":"The server had an error while processing your request","type":"server_error","param":null,"code":null}}
    "#);
    assert_eq!(app.post(body("lucky")).status, 200);
    assert_eq!(app.get("/livez").status, 200);
}

#[test]
fn a_failing_batch_shows_no_internals_and_only_permanent_errors_forbid_a_retry() {
    let app = TestApp::start();
    let errors: [(fn() -> EncodeError, _); 2] = [
        (|| EncodeError::Other("secret detail".to_owned()), None),
        (|| EncodeError::Shape { found: vec![1], expected: vec![2] }, Some("false")),
    ];
    for (error, should_retry) in errors {
        app.control.fail(FAILURES_OF_ENCODER, error);
        let reply = app.post(body("unlucky"));
        assert_eq!((reply.status, reply.header("x-should-retry")), (500, should_retry));
        assert_eq!(reply.message(), "The server had an error while processing your request");
    }
    assert_eq!(app.post(body("lucky")).status, 200);
}

/// A retry would fail again, so the status must not make an SDK retry.
#[test]
fn an_input_that_alone_makes_the_encoder_fail_is_a_400_that_names_it() {
    let app = TestApp::start();
    let inputs =
        [(r#""unlucky""#, "input"), (r#"["unlucky"]"#, "input[0]"), (r#"["unlucky","fine"]"#, "input[0]")];
    for (input, place) in inputs {
        // The batch, and then its first input alone.
        app.control.fail(2, || EncodeError::Other("secret detail".to_owned()));
        let message = app.post_invalid(format!(r#"{{"model":"m","input":{input}}}"#));
        let expected = format!("Invalid '{place}': the model `tiny` cannot compute a vector for this text.");
        assert_eq!(message, expected);
    }
    assert_eq!(app.post(body("lucky")).status, 200);
}

/// A retry would give NaN again, so the status must not make an SDK retry.
#[test]
fn an_input_without_finite_vector_is_a_400_that_names_it() {
    let app = TestApp::start();
    for (input, place) in [(r#""unlucky""#, "input"), (r#"["unlucky"]"#, "input[0]")] {
        app.control.inject(InjectedFault::NotFinite);
        let message = app.post_invalid(format!(r#"{{"model":"m","input":{input}}}"#));
        let expected =
            format!("Invalid '{place}': the model `tiny` computes no finite vector for this text.");
        assert_eq!(message, expected);
    }
    assert_eq!(app.post(body("lucky")).status, 200);
}

#[test]
fn a_queued_request_of_a_disconnected_client_is_never_encoded() {
    let app = TestApp::start();
    let before = app.control.encoded();
    let mut first = app.hold_request_on(Connection::open(app.address), body("first").as_bytes());
    // The second request is in the queue when its client disconnects.
    let mut second = Connection::open(app.address);
    second.send(&request("POST", "/v1/embeddings", &[], body("second").as_bytes()));
    app.wait_for_metric("embedgate_requests_waiting{model=\"tiny\"} 1");
    drop(second);
    app.wait_for_metric("embedgate_requests_waiting{model=\"tiny\"} 0");
    app.control.release();
    assert_eq!(first.receive().status, 200);
    assert_eq!(app.post(body("third")).status, 200);
    assert_eq!(app.control.encoded() - before, 2, "the disconnected client's input reached the encoder");
    app.wait_for_cancelled();
}

/// For a server, a half-closed connection looks like that of a crashed client.
#[test]
fn closing_the_sending_side_counts_as_a_disconnect() {
    let app = TestApp::start();
    let mut connection = app.hold_request();
    connection.half_close();
    assert!(connection.is_closed());
    app.wait_for_cancelled();
}
