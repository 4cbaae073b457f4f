//! Limits that servers share in a real Redis: what they count together, and what holds while it is away.
#![cfg(unix)]

use std::{net::TcpListener, sync::mpsc, thread, time::Duration};

use gateway::config::RedisFailureMode;
use insta::assert_snapshot;

use crate::{
    app::{Builder, TestApp},
    http::{Connection, request},
    limits::{left, limited, too_soon},
    redis_server::{Server, TIMEOUT, wait},
};

const BODY: &str = r#"{"model":"m","input":"a"}"#;

/// A server whose limits are in Redis at `url`. It has time: machines that run tests are busy, and only the tests
/// that change that are about time.
fn sharing(url: &str, requests: usize, tokens: usize) -> Builder {
    limited(requests, tokens).config(|config| {
        config.limits.redis_url = Some(url.into());
        config.limits.redis_timeout = Duration::from_secs(5);
    })
}

fn connected(builder: Builder) -> TestApp {
    let app = builder.start();
    app.wait_for_metric("embedgate_rate_limit_redis_up 1");
    app
}

fn closed(builder: Builder) -> Builder {
    builder.config(|config| config.limits.redis_failure_mode = RedisFailureMode::FailClosed)
}

#[test]
fn two_servers_count_together() {
    let redis = Server::start(&[]);
    let apps = [0; 2].map(|_| connected(sharing(&redis.url(), 4, 0).key("team", "sk-very-secret")));
    let post =
        |app: &TestApp| app.send("POST", "/v1/embeddings", &[("api-key", "sk-very-secret")], BODY.as_bytes());
    for (number, remaining) in [(0, 3), (1, 2), (1, 1), (0, 0)] {
        let reply = post(&apps[number]);
        assert_eq!((reply.status, left(&reply, "requests")), (200, remaining));
    }
    assert_snapshot!(too_soon(&post(&apps[0])), @r#"
    429
    {"error":{"message":"Rate limit reached for `tiny` on requests per min (RPM): Limit 4, Used 4, Requested 1. … ","type":"requests","param":null,"code":"rate_limit_exceeded"}}
    "#);
    assert_eq!(post(&apps[1]).status, 429);
    // What is kept there tells nobody whose it is, and goes by itself.
    let mut client = redis.client();
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    assert_eq!(names.len(), 1);
    let number = names[0].strip_prefix("embedgate:limits:1:").unwrap();
    assert!(number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()), "{names:?}");
    let ttl: i64 = redis::cmd("PTTL").arg(&names[0]).query(&mut client).unwrap();
    assert!((1..=61_000).contains(&ttl), "{ttl}");
}

#[test]
fn what_a_request_cost_is_charged_there_too() {
    let redis = Server::start(&[]);
    let [one, other] = [0; 2].map(|_| connected(sharing(&redis.url(), 0, 600)));
    // 4 tokens by the estimate of each, 6 by the model's count.
    let reply = one.post(r#"{"model":"m","input":["a a a a","a a a a"]}"#);
    assert_eq!((reply.status, left(&reply, "tokens")), (200, 588));
    let mut client = redis.client();
    let mut level = || {
        let name: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
        redis::cmd("HGET").arg(&name[0]).arg("tokens").query::<f64>(&mut client).unwrap()
    };
    wait("the rest is charged", || level() < 590.0);
    // Ten tokens a second come back; a busy machine may take some of them.
    let reply = other.post(BODY);
    assert!(reply.status == 200 && left(&reply, "tokens") < 600 - 3, "{reply:?}");
}

/// The same requests, counted in Redis and counted here, end alike.
#[test]
fn the_script_does_what_one_server_does_by_itself() {
    let redis = Server::start(&[]);
    let (shared, alone) = (connected(sharing(&redis.url(), 6, 24)), limited(6, 24).start());
    let texts = ["a", "a a a a", "a a a a a a a a", "a", "a a", "a", "a a a a"];
    for text in texts {
        let body = serde_json::json!({"model": "m", "input": text}).to_string();
        let (one, other) = (shared.post(&body), alone.post(&body));
        assert_eq!(one.status, other.status, "{text}");
        for what in ["requests", "tokens"] {
            let (one, other) = (left(&one, what), left(&other, what));
            // They were asked one after the other, so a little more may have come back.
            assert!(one.abs_diff(other) <= 2, "{text}: {one} and {other} {what}");
        }
    }
    assert_eq!(alone.post(BODY).status, 429);
}

#[test]
fn a_server_that_goes_leaves_each_its_own_limits_and_is_found_again() {
    let redis = Server::start(&[]);
    let app = connected(sharing(&redis.url(), 4, 0));
    assert_eq!(left(&app.post(BODY), "requests"), 3);
    let folder = redis.kill();
    // The first finds out; every one is answered, and what was used before still counts.
    assert_eq!(left(&app.post(BODY), "requests"), 2);
    app.wait_for_metric("embedgate_rate_limit_redis_up 0");
    assert_eq!([app.post(BODY), app.post(BODY), app.post(BODY)].map(|reply| reply.status), [200, 200, 429]);

    let redis = Server::start_in(folder, &[]);
    app.wait_for_metric("embedgate_rate_limit_redis_up 1");
    // It knows nothing of what was counted while it was away.
    assert_eq!(left(&app.post(BODY), "requests"), 3);
    drop(redis);
}

#[test]
fn a_script_that_was_forgotten_is_loaded_again() {
    let redis = Server::start(&[]);
    let app = connected(sharing(&redis.url(), 100, 0));
    assert_eq!(left(&app.post(BODY), "requests"), 99);
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis.client()).unwrap();
    assert_eq!(app.post(BODY).status, 200);
    app.wait_for_metric("embedgate_rate_limit_redis_errors_total{kind=\"other\"} 1");
    app.wait_for_metric("embedgate_rate_limit_redis_up 1");
    // The one in between was counted here alone.
    assert_eq!(left(&app.post(BODY), "requests"), 98);
}

/// A client that hangs up while its question is with Redis has used nothing up.
#[test]
fn what_nobody_waited_for_is_given_back() {
    let redis = Server::start(&[]);
    let app = connected(sharing(&redis.url(), 100, 0));
    redis::cmd("CLIENT").arg("PAUSE").arg(1_000).exec(&mut redis.client()).unwrap();
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], BODY.as_bytes()));
    // Long enough for the question to be on its way; if it is not, there is nothing to give back.
    thread::sleep(Duration::from_millis(200));
    drop(connection);
    app.wait_for_metric("embedgate_request_duration_seconds_count{model=\"tiny\",outcome=\"cancelled\"} 1");
    assert_eq!(left(&app.post(BODY), "requests"), 99);
}

#[test]
fn where_the_choice_is_closed_nobody_passes_without_the_server() {
    let redis = Server::start(&[]);
    let app = connected(closed(sharing(&redis.url(), 100, 0)));
    assert_eq!(app.post(BODY).status, 200);
    let folder = redis.kill();
    assert_snapshot!(app.post(BODY).summary(), @r#"
    503
    content-type: application/json
    retry-after: 1
    {"error":{"message":"The engine is currently overloaded, please try again later","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}}
    "#);
    assert_eq!([0; 2].map(|_| app.post(BODY).status), [503; 2]);
    let rejected = r#"embedgate_requests_rejected_total{model="tiny",reason="rate_limiter_unavailable"} 3"#;
    app.wait_for_metric(rejected);
    assert_eq!(app.get("/readyz").status, 200);
    let _redis = Server::start_in(folder, &[]);
    app.wait_for_metric("embedgate_rate_limit_redis_up 1");
    assert_eq!(app.post(BODY).status, 200);
}

/// A stranger that accepts and never answers, and no server at all: nothing waits for either.
#[test]
fn a_server_that_was_never_there_costs_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), nobody] {
        let url = format!("redis://{address}/0");
        let quick =
            |config: &mut gateway::config::Config| config.limits.redis_timeout = Duration::from_millis(10);
        let open = sharing(&url, 2, 0).config(quick).start();
        assert_eq!([0; 3].map(|_| open.post(BODY).status), [200, 200, 429]);
        let shut = closed(sharing(&url, 2, 0).config(quick)).start();
        assert_eq!(shut.post(BODY).status, 503);
        wait("the failure is counted", || {
            let metrics = open.get("/metrics");
            let mut errors =
                metrics.text().lines().filter(|line| line.contains("rate_limit_redis_errors_total{"));
            errors.any(|line| !line.ends_with(" 0"))
        });
    }
}

/// While one request waits for Redis, the one HTTP thread answers others; when it does not wait any longer, it is
/// answered.
#[test]
fn a_server_that_falls_silent_holds_up_nobody_else() {
    let redis = Server::start(&[]);
    let app = connected(sharing(&redis.url(), 100, 0).config(|config| {
        config.server.http_workers = 1;
        config.limits.redis_timeout = Duration::from_secs(2);
    }));
    // Every command but this one waits from here on.
    redis::cmd("CLIENT").arg("PAUSE").arg(60_000).exec(&mut redis.client()).unwrap();
    let (sender, answered) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| sender.send(app.post(BODY).status).unwrap());
        // Its connection is accepted before or after this one; either way this one is answered first.
        for _ in 0..20 {
            assert_eq!(app.get("/livez").status, 200);
        }
        assert!(answered.try_recv().is_err(), "it did not wait at all");
        assert_eq!(answered.recv_timeout(TIMEOUT).unwrap(), 200);
    });
    app.wait_for_metric("embedgate_rate_limit_redis_up 0");
    app.wait_for_metric("embedgate_rate_limit_redis_errors_total{kind=\"timeout\"} 1");
}
