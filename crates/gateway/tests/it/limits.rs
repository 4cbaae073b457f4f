//! What one key may use a minute, counted by one server.

use std::{sync::mpsc, thread, time::Duration};

use inference::EncodeError;
use insta::assert_snapshot;
use serde_json::json;

use crate::{
    app::{Builder, TestApp},
    fake::FAILURES_OF_ENCODER,
    http::{Connection, Reply, request},
    schema::assert_valid,
};

/// As the model counts it: 3 tokens. By the gateway's estimate, too.
const SHORT: &str = r#"{"model":"m","input":"a"}"#;
/// 6 tokens; 4 by the estimate.
const LONGER: &str = r#"{"model":"m","input":"a a a a"}"#;

pub(crate) fn limited(requests: usize, tokens: usize) -> Builder {
    TestApp::builder().config(|config| {
        config.limits.key_requests_per_minute = requests;
        config.limits.key_tokens_per_minute = tokens;
    })
}

#[track_caller]
pub(crate) fn left(reply: &Reply, what: &str) -> u64 {
    reply
        .header(&format!("x-ratelimit-remaining-{what}"))
        .unwrap_or_else(|| panic!("{reply:?}"))
        .parse()
        .unwrap()
}

/// Asserts that a 429 says when to come back, in all four places that clients look at; what it says apart from that.
#[track_caller]
pub(crate) fn too_soon(reply: &Reply) -> String {
    assert_valid("error", &reply.json());
    let number = |name: &str| -> u64 { reply.header(name).unwrap().parse().unwrap() };
    let (seconds, millis) = (number("retry-after"), number("retry-after-ms"));
    assert!((1..=60).contains(&seconds) && (1..=60_000).contains(&millis), "{reply:?}");
    assert_eq!(millis.div_ceil(1000), seconds);
    assert_eq!(reply.header("x-should-retry"), None);
    let text = reply.text();
    let (said, rest) = text.split_once(" Please try again in ").unwrap();
    let (wait, rest) = rest.split_once(".\",").unwrap();
    let known = if millis < 1000 { format!("{millis}ms") } else { format!("{}", millis as f64 / 1000.0) };
    assert!(
        wait.strip_suffix('s') == Some(known.as_str()) || wait == known || wait == "1m0s",
        "{wait}, {known}"
    );
    format!("{}\n{said} … \",{rest}", reply.status)
}

#[test]
fn requests_of_a_minute_are_counted_and_then_refused() {
    let app = limited(2, 0).start();
    for remaining in [1, 0] {
        let reply = app.post(SHORT);
        assert_eq!((reply.status, left(&reply, "requests")), (200, remaining));
        assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("2"));
        assert!(reply.header("x-ratelimit-reset-requests").is_some_and(|reset| reset.ends_with('s')));
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), None, "tokens are not limited");
    }
    let reply = app.post(SHORT);
    assert_snapshot!(too_soon(&reply), @r#"
    429
    {"error":{"message":"Rate limit reached for `tiny` on requests per min (RPM): Limit 2, Used 2, Requested 1. … ","type":"requests","param":null,"code":"rate_limit_exceeded"}}
    "#);
    assert_eq!(left(&reply, "requests"), 0);
    let metrics = app.get("/metrics");
    for line in [
        r#"embedgate_requests_rejected_total{model="tiny",reason="rate_limit"} 1"#,
        r#"embedgate_http_requests_total{code="429",method="POST",route="/v1/embeddings"} 1"#,
        r#"embedgate_request_duration_seconds_count{model="tiny",outcome="client_error"} 1"#,
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "no {line}");
    }
    // Only what costs something is counted.
    assert_eq!(app.get("/v1/models").status, 200);
    assert_eq!(app.post("{").status, 400);
}

#[test]
fn tokens_are_charged_as_the_model_counted_them() {
    let app = limited(0, 18).start();
    let reply = app.post(LONGER);
    assert_eq!((reply.status, left(&reply, "tokens")), (200, 12));
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), Some("18"));
    assert_eq!(reply.header("x-ratelimit-limit-requests"), None, "requests are not limited");
    assert_eq!(left(&app.post(LONGER), "tokens"), 6);
    // The estimate still fits, and so it is answered.
    assert_eq!(left(&app.post(LONGER), "tokens"), 0);
    assert_snapshot!(too_soon(&app.post(LONGER)), @r#"
    429
    {"error":{"message":"Rate limit reached for `tiny` on tokens per min (TPM): Limit 18, Used 18, Requested 4. … ","type":"tokens","param":null,"code":"rate_limit_exceeded"}}
    "#);
}

#[test]
fn each_key_has_its_own_and_without_keys_everybody_shares_one() {
    let app = limited(1, 0).key("one", "sk-one").key("other", "sk-other").start();
    let send = |key: &str| app.send("POST", "/v1/embeddings", &[("api-key", key)], SHORT.as_bytes()).status;
    assert_eq!([send("sk-one"), send("sk-one"), send("sk-other"), send("sk-other")], [200, 429, 200, 429]);
    assert_eq!(send("sk-nobody"), 401);

    let open = limited(1, 0).start();
    let send = |key: &str| open.send("POST", "/v1/embeddings", &[("api-key", key)], SHORT.as_bytes()).status;
    assert_eq!([send("anything"), send("something else")], [200, 429]);
}

/// It would be refused for ever: a client should not be told to try again.
#[test]
fn more_tokens_than_a_minute_has_is_a_400_that_costs_nothing() {
    let app = limited(0, 20).start();
    let many = json!({"model": "m", "input": vec!["a"; 7]}).to_string();
    let reply = app.post(&many);
    assert_snapshot!(reply.summary(), @r#"
    400
    content-type: application/json
    {"error":{"message":"Invalid 'input': maximum request size is 20 tokens per request.","type":"invalid_request_error","param":null,"code":null}}
    "#);
    assert_eq!(left(&reply, "tokens"), 20);
    // What fits is answered, though the estimate, by its bytes, says more than a minute has.
    let spaces = json!({"model": "m", "input": vec![format!("a{}", " ".repeat(40)); 6]}).to_string();
    let reply = app.post(&spaces);
    assert_eq!((reply.status, left(&reply, "tokens")), (200, 2));
}

#[test]
fn what_comes_to_nothing_gives_its_tokens_back() {
    let app = limited(0, 30).start();
    app.control.fail(FAILURES_OF_ENCODER, || EncodeError::Other("unlucky".to_owned()));
    let reply = app.post(LONGER);
    assert_eq!((reply.status, left(&reply, "tokens")), (500, 30));
}

/// Otherwise a caller could have everything computed for nothing, and never look at it.
#[test]
fn whoever_hangs_up_has_used_the_tokens() {
    let app = limited(0, 30).start();
    app.control.hold();
    let entered = app.control.entered();
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], LONGER.as_bytes()));
    app.control.wait_for_batch(entered);
    drop(connection);
    app.wait_for_metric("embedgate_request_duration_seconds_count{model=\"tiny\",outcome=\"cancelled\"} 1");
    app.control.release();
    let before = left(&app.post(SHORT), "tokens");
    assert!(before < 27, "{before} left of 30 after one that hung up and one of 3");
}

/// Their tokens are taken before they are known, so that a crowd cannot pass a bucket that looks full to each.
#[test]
fn many_at_once_get_no_more_than_one_after_the_other() {
    let app = limited(0, 18).start();
    app.control.hold();
    let (sender, replies) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..10 {
            let (app, sender) = (&app, sender.clone());
            scope.spawn(move || sender.send(app.post(SHORT).status).unwrap());
        }
        let next = || replies.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!([next(), next(), next(), next()], [429; 4]);
        app.control.release();
        assert_eq!([next(), next(), next(), next(), next(), next()], [200; 6]);
    });
}

#[test]
fn without_limits_no_header_speaks_of_them() {
    let reply = TestApp::start().post(SHORT);
    assert!(!reply.headers().any(|(name, _)| name.starts_with("x-ratelimit")), "{reply:?}");
}
