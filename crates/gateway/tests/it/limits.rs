//! Rate limits of one server.

use std::{sync::mpsc, thread};

use inference::EncodeError;
use insta::assert_snapshot;
use serde_json::json;

use crate::{
    app::{BODY, Builder, TIMEOUT, TestApp},
    fake::FAILURES_OF_ENCODER,
    http::{Connection, Reply},
    schema::assert_valid,
};

/// 3 tokens, by the model's count and by the estimate.
const SHORT: &[u8] = BODY;
/// 6 tokens by the model's count, 4 by the estimate.
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

/// Asserts that the four places where clients find the retry delay of a 429 agree. Returns the rest of the response.
#[track_caller]
pub(crate) fn too_soon(reply: &Reply) -> String {
    assert_valid("error", &reply.json());
    let number = |name: &str| -> u64 { reply.header(name).unwrap().parse().unwrap() };
    let (seconds, millis) = (number("retry-after"), number("retry-after-ms"));
    assert!((1..=60).contains(&seconds) && (1..=60_000).contains(&millis), "{reply:?}");
    assert_eq!(millis.div_ceil(1000), seconds);
    assert_eq!(reply.header("x-should-retry"), None);
    let text = reply.text();
    let (reason, rest) = text.split_once(" Please try again in ").unwrap();
    let (wait, rest) = rest.split_once(".\",").unwrap();
    let known = if millis < 1000 { format!("{millis}ms") } else { format!("{}", millis as f64 / 1000.0) };
    assert!(
        wait.strip_suffix('s') == Some(known.as_str()) || wait == known || wait == "1m0s",
        "{wait}, {known}"
    );
    format!("{}\n{reason} … \",{rest}", reply.status)
}

#[test]
fn requests_beyond_the_limit_per_minute_are_rejected() {
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
    for line in [
        r#"embedgate_requests_rejected_total{model="tiny",reason="rate_limit"} 1"#,
        r#"embedgate_http_requests_total{code="429",method="POST",route="/v1/embeddings"} 1"#,
        r#"embedgate_request_duration_seconds_count{model="tiny",outcome="client_error"} 1"#,
    ] {
        app.wait_for_metric(line);
    }
    // Only valid requests for embeddings are counted.
    assert_eq!(app.get("/v1/models").status, 200);
    assert_eq!(app.post("{").status, 400);
}

#[test]
fn tokens_are_settled_by_the_models_exact_count() {
    let app = limited(0, 18).start();
    let reply = app.post(LONGER);
    assert_eq!((reply.status, left(&reply, "tokens")), (200, 12));
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), Some("18"));
    assert_eq!(reply.header("x-ratelimit-limit-requests"), None, "requests are not limited");
    assert_eq!(left(&app.post(LONGER), "tokens"), 6);
    // The estimate fits into the bucket, so the request is admitted.
    assert_eq!(left(&app.post(LONGER), "tokens"), 0);
    assert_snapshot!(too_soon(&app.post(LONGER)), @r#"
    429
    {"error":{"message":"Rate limit reached for `tiny` on tokens per min (TPM): Limit 18, Used 18, Requested 4. … ","type":"tokens","param":null,"code":"rate_limit_exceeded"}}
    "#);
}

#[test]
fn each_key_has_its_own_buckets_and_without_keys_all_clients_share_one_pair() {
    let app = limited(1, 0).key("one", "sk-one").key("other", "sk-other").start();
    let send = |key: &str| app.send("POST", "/v1/embeddings", &[("api-key", key)], SHORT).status;
    assert_eq!([send("sk-one"), send("sk-one"), send("sk-other"), send("sk-other")], [200, 429, 200, 429]);
    assert_eq!(send("sk-unknown"), 401);

    let open = limited(1, 0).start();
    let send = |key: &str| open.send("POST", "/v1/embeddings", &[("api-key", key)], SHORT).status;
    assert_eq!([send("anything"), send("something else")], [200, 429]);
}

/// The rate limit would never admit it, so the client must not be told to retry.
#[test]
fn more_tokens_than_the_limit_per_minute_is_a_400_without_a_debit() {
    let app = limited(0, 20).start();
    let many = json!({"model": "m", "input": vec!["a"; 7]}).to_string();
    let reply = app.post(&many);
    assert_snapshot!(reply.summary(), @r#"
    400
    content-type: application/json
    {"error":{"message":"Invalid 'input': maximum request size is 20 tokens per request.","type":"invalid_request_error","param":null,"code":null}}
    "#);
    assert_eq!(left(&reply, "tokens"), 20);
    // A request that fits is answered, although its estimate is above the limit.
    let spaces = json!({"model": "m", "input": vec![format!("a{}", " ".repeat(40)); 6]}).to_string();
    let reply = app.post(&spaces);
    assert_eq!((reply.status, left(&reply, "tokens")), (200, 2));
}

#[test]
fn tokens_of_a_failed_request_are_refunded() {
    let app = limited(0, 30).start();
    app.control.fail(FAILURES_OF_ENCODER, || EncodeError::Other("injected".to_owned()));
    let reply = app.post(LONGER);
    assert_eq!((reply.status, left(&reply, "tokens")), (500, 30));
}

/// Otherwise a client could have embeddings computed at no cost.
#[test]
fn tokens_of_a_disconnected_client_stay_debited() {
    let app = limited(0, 30).start();
    drop(app.hold_request_on(Connection::open(app.address), LONGER.as_bytes()));
    app.wait_for_cancelled();
    app.control.release();
    let before = left(&app.post(SHORT), "tokens");
    assert!(before < 27, "{before} left of 30 after a disconnected request and one of 3 tokens");
}

/// The estimate is debited before the exact count is known, so that concurrent requests cannot spend one bucket twice.
#[test]
fn concurrent_requests_get_no_more_than_sequential_ones() {
    let app = limited(0, 18).start();
    app.control.hold();
    let (sender, replies) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..10 {
            let (app, sender) = (&app, sender.clone());
            scope.spawn(move || sender.send(app.post(SHORT).status).unwrap());
        }
        let next = || replies.recv_timeout(TIMEOUT).unwrap();
        assert_eq!([next(), next(), next(), next()], [429; 4]);
        app.control.release();
        assert_eq!([next(), next(), next(), next(), next(), next()], [200; 6]);
    });
}

#[test]
fn without_limits_there_are_no_rate_limit_headers() {
    let reply = TestApp::start().post(SHORT);
    assert!(!reply.headers().any(|(name, _)| name.starts_with("x-ratelimit")), "{reply:?}");
}
