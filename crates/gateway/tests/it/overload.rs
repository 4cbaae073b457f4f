//! What happens when there is too much to do, or the encoder breaks.

use std::{sync::mpsc, thread, time::Duration};

use gateway::config::Bytes;
use inference::EncodeError;
use insta::assert_snapshot;
use serde_json::json;

use crate::{
    app::{TestApp, WINDOW, wait_until},
    fake::{FAILURES_OF_ENCODER, Misfortune},
    http::{Connection, request},
};

fn body(text: &str) -> String {
    json!({"model": "m", "input": text}).to_string()
}

#[test]
fn a_full_queue_is_refused_at_once_and_what_was_admitted_is_answered() {
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
        // Whoever is refused is answered while the encoder stands still.
        let refused = replies.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(refused.status, 503);
        assert_eq!(refused.json()["error"]["code"], "server_is_overloaded");
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
        assert!(answered > 0, "nobody was admitted");
    });
    assert_eq!(app.post(body("after the storm")).status, 200);
    let metrics = app.get("/metrics");
    let rejected = metrics.text().lines().find(|line| {
        line.starts_with("embedgate_requests_rejected_total")
            && line.contains("tiny")
            && line.contains("queue_full")
    });
    assert!(rejected.is_some_and(|line| !line.ends_with(" 0")), "{rejected:?}");
}

/// Bodies that are slow to come hold their memory, and no more of it than there is; small ones always find room.
#[test]
fn bodies_share_a_bounded_memory() {
    const SIZE: usize = 60_000;
    let app = TestApp::builder()
        .config(|config| {
            (config.limits.max_body_bytes, config.limits.max_buffered_body_bytes) = (SIZE, Bytes(SIZE));
        })
        .start();
    let large = format!("{:<SIZE$}", body("a"));
    let whole = request("POST", "/v1/embeddings", &[], large.as_bytes());
    // Whichever body comes first has the memory: now and then that is not the slow one.
    wait_until("a slow body has the memory", || {
        let mut slow = Connection::open(app.address);
        slow.send(&whole[..whole.len() - 1]);
        let (other, small) = (app.post(&large), app.post(body("a")));
        let sent = slow.try_send(&whole[whole.len() - 1..]);
        if sent.is_err() || slow.try_receive().map_or(0, |reply| reply.status) != 200 || other.status == 200 {
            return false;
        }
        assert_eq!((other.status, other.header("retry-after")), (503, Some("1")));
        assert_eq!(other.json()["error"]["code"], "server_is_overloaded");
        assert_eq!(small.status, 200);
        true
    });
    assert_eq!(app.post(&large).status, 200);
    let metrics = app.get("/metrics");
    let counted = r#"embedgate_requests_rejected_total{model="unknown",reason="body_memory_exhausted"}"#;
    let counted = metrics.text().lines().find_map(|line| line.strip_prefix(counted));
    assert!(counted.is_some_and(|count| count.trim() != "0"), "{counted:?}");
}

#[test]
fn a_missed_deadline_is_a_503_that_says_when_to_come_back() {
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
fn a_panicking_batch_costs_one_500() {
    let app = TestApp::start();
    app.control.next(Misfortune::Panic);
    assert_snapshot!(app.post(body("unlucky")).summary(), @r#"
    500
    content-type: application/json
    {"error":{"message":"The server had an error while processing your request","type":"server_error","param":null,"code":null}}
    "#);
    assert_eq!(app.post(body("lucky")).status, 200);
    assert_eq!(app.get("/livez").status, 200);
}

#[test]
fn a_failing_batch_shows_no_internals_and_only_permanent_faults_forbid_a_retry() {
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

/// It would fail again, so the answer must not make an SDK repeat the request.
#[test]
fn a_text_that_alone_makes_the_encoder_fail_is_a_400_that_names_it() {
    let app = TestApp::start();
    let inputs =
        [(r#""unlucky""#, "input"), (r#"["unlucky"]"#, "input[0]"), (r#"["unlucky","fine"]"#, "input[0]")];
    for (input, place) in inputs {
        // The batch, and then its first text by itself.
        app.control.fail(2, || EncodeError::Other("secret detail".to_owned()));
        let reply = app.post(format!(r#"{{"model":"m","input":{input}}}"#));
        assert_eq!(reply.status, 400, "{}", reply.text());
        let expected = format!("Invalid '{place}': the model `tiny` cannot compute a vector for this text.");
        assert_eq!(reply.message(), expected);
    }
    assert_eq!(app.post(body("lucky")).status, 200);
}

/// The vector would be NaN again, so the answer must not make an SDK repeat the request.
#[test]
fn a_text_without_finite_vector_is_a_400_that_names_it() {
    let app = TestApp::start();
    for (input, place) in [(r#""unlucky""#, "input"), (r#"["unlucky"]"#, "input[0]")] {
        app.control.next(Misfortune::NotFinite);
        let reply = app.post(format!(r#"{{"model":"m","input":{input}}}"#));
        assert_eq!(reply.status, 400, "{}", reply.text());
        let expected =
            format!("Invalid '{place}': the model `tiny` computes no finite vector for this text.");
        assert_eq!(reply.message(), expected);
    }
    assert_eq!(app.post(body("lucky")).status, 200);
}

#[test]
fn the_work_of_a_client_that_hung_up_is_never_done() {
    let app = TestApp::start();
    let before = app.control.encoded();
    app.control.hold();
    let entered = app.control.entered();
    let mut first = Connection::open(app.address);
    first.send(&request("POST", "/v1/embeddings", &[], body("first").as_bytes()));
    app.control.wait_for_batch(entered);
    // The encoder is busy with the first; the second waits in the queue when its client leaves.
    let mut second = Connection::open(app.address);
    second.send(&request("POST", "/v1/embeddings", &[], body("second").as_bytes()));
    app.wait_for_metric("embedgate_requests_waiting{model=\"tiny\"} 1");
    drop(second);
    app.wait_for_metric("embedgate_requests_waiting{model=\"tiny\"} 0");
    app.control.release();
    assert_eq!(first.receive().status, 200);
    assert_eq!(app.post(body("third")).status, 200);
    assert_eq!(app.control.encoded() - before, 2, "the departed client's text reached the encoder");
    app.wait_for_metric("embedgate_request_duration_seconds_count{model=\"tiny\",outcome=\"cancelled\"} 1");
}

/// A half-closed connection looks to a server like one whose client crashed.
#[test]
fn closing_the_sending_side_counts_as_hanging_up() {
    let app = TestApp::start();
    app.control.hold();
    let entered = app.control.entered();
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], body("first").as_bytes()));
    app.control.wait_for_batch(entered);
    connection.half_close();
    assert!(connection.is_closed());
    app.wait_for_metric("embedgate_request_duration_seconds_count{model=\"tiny\",outcome=\"cancelled\"} 1");
}
