//! Rate limits that several servers share in a real Redis, and both failure modes while it is unavailable.
#![cfg(unix)]

use std::{net::TcpListener, sync::mpsc, thread, time::Duration};

use gateway::config::RedisFailureMode;
use insta::assert_snapshot;

use crate::{
    app::{BODY, Builder, TIMEOUT, TestApp, wait_until},
    http::{Connection, request},
    limits::{left, limited, too_soon},
    redis_server::Server,
};

/// A server with limits in Redis at `url`. The timeout is long, because a machine that runs tests may be busy.
fn shared(url: &str, requests: usize, tokens: usize) -> Builder {
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

fn fail_closed(builder: Builder) -> Builder {
    builder.config(|config| config.limits.redis_failure_mode = RedisFailureMode::FailClosed)
}

#[test]
fn two_servers_share_one_limit() {
    let redis = Server::start(&[]);
    let apps = [0; 2].map(|_| connected(shared(&redis.url(), 4, 0).key("team", "sk-very-secret")));
    let post = |app: &TestApp| app.send("POST", "/v1/embeddings", &[("api-key", "sk-very-secret")], BODY);
    for (number, remaining) in [(0, 3), (1, 2), (1, 1), (0, 0)] {
        let reply = post(&apps[number]);
        assert_eq!((reply.status, left(&reply, "requests")), (200, remaining));
    }
    assert_snapshot!(too_soon(&post(&apps[0])), @r#"
    429
    {"error":{"message":"Rate limit reached for `tiny` on requests per min (RPM): Limit 4, Used 4, Requested 1. … ","type":"requests","param":null,"code":"rate_limit_exceeded"}}
    "#);
    assert_eq!(post(&apps[1]).status, 429);
    // The stored key does not reveal the API key, and expires.
    let mut client = redis.client();
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    assert_eq!(names.len(), 1);
    let number = names[0].strip_prefix("embedgate:limits:1:").unwrap();
    assert!(number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()), "{names:?}");
    let ttl: i64 = redis::cmd("PTTL").arg(&names[0]).query(&mut client).unwrap();
    assert!((1..=61_000).contains(&ttl), "{ttl}");
}

#[test]
fn the_exact_cost_is_settled_in_redis() {
    let redis = Server::start(&[]);
    let [one, other] = [0; 2].map(|_| connected(shared(&redis.url(), 0, 600)));
    // Each input has 4 tokens by the estimate, and 6 by the model's count.
    let reply = one.post(r#"{"model":"m","input":["a a a a","a a a a"]}"#);
    assert_eq!((reply.status, left(&reply, "tokens")), (200, 588));
    let mut client = redis.client();
    let mut level = || {
        let name: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
        redis::cmd("HGET").arg(&name[0]).arg("tokens").query::<f64>(&mut client).unwrap()
    };
    wait_until("the rest is debited", || level() < 590.0);
    // Ten tokens per second are refilled.
    let reply = other.post(BODY);
    assert!(reply.status == 200 && left(&reply, "tokens") < 600 - 3, "{reply:?}");
}

/// The script in Redis and the buckets of one server give the same results for the same requests.
#[test]
fn the_script_and_the_local_buckets_agree() {
    let redis = Server::start(&[]);
    let (shared, alone) = (connected(shared(&redis.url(), 6, 24)), limited(6, 24).start());
    let texts = ["a", "a a a a", "a a a a a a a a", "a", "a a", "a", "a a a a"];
    for text in texts {
        let body = serde_json::json!({"model": "m", "input": text}).to_string();
        let (one, other) = (shared.post(&body), alone.post(&body));
        assert_eq!(one.status, other.status, "{text}");
        for what in ["requests", "tokens"] {
            let (one, other) = (left(&one, what), left(&other, what));
            // The requests are sent one after the other, so a little more may be refilled.
            assert!(one.abs_diff(other) <= 2, "{text}: {one} and {other} {what}");
        }
    }
    assert_eq!(alone.post(BODY).status, 429);
}

#[test]
fn local_limits_apply_while_redis_is_down_and_shared_ones_after_its_restart() {
    let redis = Server::start(&[]);
    let app = connected(shared(&redis.url(), 4, 0));
    assert_eq!(left(&app.post(BODY), "requests"), 3);
    let folder = redis.kill();
    // The first request finds out. Every request is answered, and the ones before still count.
    assert_eq!(left(&app.post(BODY), "requests"), 2);
    app.wait_for_metric("embedgate_rate_limit_redis_up 0");
    assert_eq!([app.post(BODY), app.post(BODY), app.post(BODY)].map(|reply| reply.status), [200, 200, 429]);

    let redis = Server::start_in(folder, &[]);
    app.wait_for_metric("embedgate_rate_limit_redis_up 1");
    // The new server does not know the requests that were counted locally.
    assert_eq!(left(&app.post(BODY), "requests"), 3);
    drop(redis);
}

#[test]
fn a_flushed_script_is_loaded_again() {
    let redis = Server::start(&[]);
    let app = connected(shared(&redis.url(), 100, 0));
    assert_eq!(left(&app.post(BODY), "requests"), 99);
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis.client()).unwrap();
    assert_eq!(app.post(BODY).status, 200);
    app.wait_for_metric("embedgate_rate_limit_redis_errors_total{kind=\"other\"} 1");
    app.wait_for_metric("embedgate_rate_limit_redis_up 1");
    // The request in between was only counted locally.
    assert_eq!(left(&app.post(BODY), "requests"), 98);
}

/// Makes Redis postpone all scripts until [`resume`], and all other commands run.
fn pause(client: &mut redis::Connection) {
    redis::cmd("CLIENT").arg("PAUSE").arg(600_000).arg("WRITE").exec(client).unwrap();
}

fn resume(client: &mut redis::Connection) {
    redis::cmd("CLIENT").arg("UNPAUSE").exec(client).unwrap();
}

/// Waits until a script is postponed by [`pause`].
#[track_caller]
fn wait_for_postponed_script(client: &mut redis::Connection) {
    wait_until("a script is postponed", || {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(client).unwrap();
        clients.lines().any(|line| line.contains(" flags=b") && line.contains(" cmd=evalsha "))
    });
}

#[test]
fn a_debit_whose_client_disconnected_is_refunded() {
    let redis = Server::start(&[]);
    let app = connected(shared(&redis.url(), 100, 0));
    let mut client = redis.client();
    pause(&mut client);
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], BODY));
    wait_for_postponed_script(&mut client);
    drop(connection);
    app.wait_for_cancelled();
    resume(&mut client);
    assert_eq!(left(&app.post(BODY), "requests"), 99);
}

#[test]
fn fail_closed_rejects_every_request_without_redis() {
    let redis = Server::start(&[]);
    let app = connected(fail_closed(shared(&redis.url(), 100, 0)));
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

/// A server that accepts connections and never responds, and a closed port.
#[test]
fn a_redis_that_was_never_reachable_delays_no_request() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), closed_port] {
        let url = format!("redis://{address}/0");
        let quick =
            |config: &mut gateway::config::Config| config.limits.redis_timeout = Duration::from_millis(10);
        let open = shared(&url, 2, 0).config(quick).start();
        assert_eq!([0; 3].map(|_| open.post(BODY).status), [200, 200, 429]);
        let closed = fail_closed(shared(&url, 2, 0).config(quick)).start();
        assert_eq!(closed.post(BODY).status, 503);
        wait_until("the failure is counted", || has_redis_error(&open, ""));
    }
}

/// Returns true if an error of this kind was counted; any kind if it is empty.
fn has_redis_error(app: &TestApp, kind: &str) -> bool {
    let metrics = app.get("/metrics");
    let mut errors = metrics.text().lines().filter(|line| {
        line.contains("rate_limit_redis_errors_total{") && line.contains(&format!("kind=\"{kind}"))
    });
    errors.any(|line| !line.ends_with(" 0"))
}

/// There is one HTTP thread, which must not block on Redis.
#[test]
fn a_request_that_waits_for_redis_delays_no_other() {
    let redis = Server::start(&[]);
    let app = connected(shared(&redis.url(), 100, 0).config(|config| {
        config.server.http_workers = 1;
        config.limits.redis_timeout = TIMEOUT;
    }));
    let mut client = redis.client();
    pause(&mut client);
    let (sender, answered) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| sender.send(app.post(BODY).status).unwrap());
        wait_for_postponed_script(&mut client);
        for _ in 0..20 {
            assert_eq!(app.get("/livez").status, 200);
        }
        assert!(answered.try_recv().is_err(), "the request did not wait for Redis");
        resume(&mut client);
        assert_eq!(answered.recv_timeout(TIMEOUT).unwrap(), 200);
    });
}

#[test]
fn a_redis_that_stops_responding_is_abandoned_after_the_timeout() {
    let redis = Server::start(&[]);
    let app = connected(
        shared(&redis.url(), 100, 0)
            .config(|config| config.limits.redis_timeout = Duration::from_millis(500)),
    );
    // Without WRITE, all commands are postponed, also those of a new connection.
    redis::cmd("CLIENT").arg("PAUSE").arg(600_000).exec(&mut redis.client()).unwrap();
    assert_eq!(app.post(BODY).status, 200);
    app.wait_for_metric("embedgate_rate_limit_redis_up 0");
    wait_until("the timeout is counted", || has_redis_error(&app, "timeout"));
}
