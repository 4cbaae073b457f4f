//! The remote cache on a real Redis server: stored vectors, failures and recovery.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod redis_server;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use gateway::{
    Registry,
    config::{CacheConfig, Config, ModelConfig},
    load,
    metrics::{Metrics, RedisErrorKind},
    redis_cache::RedisCache,
};
use inference::{CacheKey, Input, Job, RemoteCache, TruncationPolicy};
use redis_server::Server;
use testkit::wait::{TIMEOUT, until};

fn config(server: &Server, password: &str) -> CacheConfig {
    let password = if password.is_empty() { String::new() } else { format!("?pass={password}") };
    // Long, because machines that run tests are busy. The tests of timeouts set their own.
    CacheConfig {
        redis_url: Some(format!("{}{password}", server.url()).as_str().into()),
        redis_timeout: Duration::from_secs(5),
        ..Config::builtin(1).cache
    }
}

fn open(config: &CacheConfig) -> (RedisCache, Metrics) {
    let metrics = Metrics::new(["m"]);
    (RedisCache::new(config, metrics.remote_cache()).unwrap().unwrap(), metrics)
}

fn up(config: &CacheConfig) -> (RedisCache, Metrics) {
    let (cache, metrics) = open(config);
    until("the remote cache is up", || cache.is_up());
    (cache, metrics)
}

fn errors(metrics: &Metrics, kind: RedisErrorKind) -> u64 {
    metrics.remote_cache().redis.errors(kind)
}

fn key(number: u8) -> CacheKey {
    [number; 32]
}

#[test]
fn without_an_address_there_is_no_remote_cache() {
    assert!(
        RedisCache::new(&Config::builtin(1).cache, Metrics::new(["m"]).remote_cache()).unwrap().is_none()
    );
}

#[test]
fn vectors_of_one_server_are_found_by_another_until_they_expire() {
    let server = Server::start(&[]);
    let (one, _) = up(&config(&server, ""));
    let (other, metrics) = up(&config(&server, ""));
    assert_eq!(metrics.remote_cache().redis.up.get(), 1);
    let vectors = [vec![1.5, -0.0, f32::MIN_POSITIVE], vec![2.5]];
    one.put(vec![(key(1), vectors[0].clone()), (key(2), vectors[1].clone())]);
    until("both are there", || other.get(&[key(1), key(2)]).iter().all(Option::is_some));
    let found = other.get(&[key(2), key(3), key(1)]);
    assert_eq!(found, [Some(vectors[1].clone()), None, Some(vectors[0].clone())]);
    assert!(other.get(&[]).is_empty() && other.is_up());

    let mut client = server.client();
    let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    assert!(names.iter().all(|name| name.starts_with(b"embedgate:1:")), "{names:?}");
    let left: i64 = redis::cmd("TTL").arg(&names[0]).query(&mut client).unwrap();
    let most = Config::builtin(1).cache.redis_ttl.as_secs() as i64;
    assert!(left > most - 3600 && left <= most, "{left} s left of {most}");
}

/// One reply with the vectors of thousands of inputs would exceed the timeout even on a healthy server.
#[test]
fn many_keys_are_looked_up_in_chunks() {
    let server = Server::start(&[]);
    let (cache, _) = up(&config(&server, ""));
    let keys: Vec<CacheKey> = (0..200).map(key).collect();
    let stored = |number: u8| (!number.is_multiple_of(3)).then(|| vec![f32::from(number)]);
    cache.put((0..200).filter_map(|number| Some((key(number), stored(number)?))).collect());
    until("the last is there", || cache.get(&[key(199)])[0].is_some());
    let mut client = server.client();
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut client).unwrap();
    assert_eq!(cache.get(&keys), (0..200).map(stored).collect::<Vec<_>>());
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut client).unwrap();
    assert!(stats.contains("cmdstat_mget:calls=4,"), "{stats}");
}

#[test]
fn an_invalid_value_is_a_miss() {
    let server = Server::start(&[]);
    let (cache, _) = up(&config(&server, ""));
    let name = [b"embedgate:1:".as_slice(), &key(1)].concat();
    redis::cmd("SET").arg(name).arg(b"12345").exec(&mut server.client()).unwrap();
    assert_eq!(cache.get(&[key(1)]), [None]);
    assert!(cache.is_up());
}

#[test]
fn a_server_that_disappears_costs_no_lookup_and_is_found_again() {
    let server = Server::start(&[]);
    let (cache, metrics) = up(&config(&server, ""));
    cache.put(vec![(key(1), vec![1.0])]);
    until("it is there", || cache.get(&[key(1)])[0].is_some());
    let folder = server.kill();
    assert_eq!(cache.get(&[key(1), key(2)]), [None, None]);
    // From here on lookups do not touch the network.
    assert!(!cache.is_up());
    assert_eq!(cache.get(&[key(1)]), [None]);
    assert_eq!(metrics.remote_cache().redis.up.get(), 0);
    assert!(errors(&metrics, RedisErrorKind::Connection) > 0);
    // These cannot be written; `put` must not wait.
    for _ in 0..1_000 {
        cache.put(vec![(key(3), vec![0.0; 384])]);
    }
    until("some were dropped", || metrics.remote_cache().dropped.get() > 0);

    let server = Server::start_in(folder, &[]);
    until("it is found again", || cache.is_up());
    assert_eq!(metrics.remote_cache().redis.up.get(), 1);
    cache.put(vec![(key(4), vec![4.0])]);
    until("it keeps again", || cache.get(&[key(4)]) == [Some(vec![4.0])]);
    drop(server);
}

#[test]
fn a_wrong_password_leaves_the_remote_cache_unavailable() {
    let server = Server::start(&["--requirepass", "right"]);
    let (cache, metrics) = open(&config(&server, "wrong"));
    until("the error is counted", || {
        errors(&metrics, RedisErrorKind::Other) + errors(&metrics, RedisErrorKind::Connection) > 0
    });
    assert!(!cache.is_up());
    assert_eq!(cache.get(&[key(1)]), [None]);
    up(&config(&server, "right"));
}

/// A server that accepts connections and never answers: lookups do not wait, and dropping the cache ends.
#[test]
fn a_silent_server_costs_no_lookup() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/0", silent.local_addr().unwrap());
    let config = CacheConfig { redis_url: Some(url.as_str().into()), ..Config::builtin(1).cache };
    let (cache, metrics) = open(&config);
    assert_eq!(cache.get(&[key(1)]), [None]);
    until("the timeout is counted", || errors(&metrics, RedisErrorKind::Timeout) > 0);
    assert!(!cache.is_up());
}

/// A server that stops answering: one lookup waits for the timeout, the next does not.
#[test]
fn a_server_that_stops_answering_costs_one_timeout() {
    let server = Server::start(&[]);
    let config = CacheConfig { redis_timeout: Duration::from_millis(5), ..config(&server, "") };
    let (cache, metrics) = up(&config);
    // Every command but this one waits from here on.
    redis::cmd("CLIENT").arg("PAUSE").arg(60_000).exec(&mut server.client()).unwrap();
    assert_eq!(cache.get(&[key(1)]), [None]);
    assert!(!cache.is_up());
    assert_eq!(errors(&metrics, RedisErrorKind::Timeout), 1);
}

/// A full server rejects every write, but still answers lookups.
#[test]
fn a_full_server_still_answers_lookups() {
    let server = Server::start(&[]);
    let (cache, metrics) = up(&config(&server, ""));
    cache.put(vec![(key(1), vec![1.0])]);
    until("it is there", || cache.get(&[key(1)])[0].is_some());
    let mut client = server.client();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec(&mut client).unwrap();
    for number in 2..5 {
        cache.put(vec![(key(number), vec![2.0])]);
    }
    until("all are dropped", || metrics.remote_cache().dropped.get() == 3);
    assert!(cache.is_up());
    assert_eq!(cache.get(&[key(1), key(2)]), [Some(vec![1.0]), None]);
    assert_eq!(
        (errors(&metrics, RedisErrorKind::Connection), errors(&metrics, RedisErrorKind::Timeout)),
        (0, 0)
    );
}

/// The backoff of a server that accepts connections but is too slow doubles until a lookup succeeds, regardless of
/// pending writes.
#[test]
fn attempts_to_reach_a_slow_server_back_off() {
    let server = Server::start(&[]);
    let config = CacheConfig { redis_timeout: Duration::from_millis(20), ..config(&server, "") };
    let (cache, metrics) = up(&config);
    redis::cmd("CLIENT").arg("PAUSE").arg(60_000).exec(&mut server.client()).unwrap();
    for number in 0..200 {
        assert_eq!(cache.get(&[key(1)]), [None]);
        cache.put(vec![(key(number), vec![1.0])]);
    }
    // One lookup, and the attempts since then: after one second, after two more, …
    let errors = errors(&metrics, RedisErrorKind::Timeout) + errors(&metrics, RedisErrorKind::Connection);
    assert!((1..=5).contains(&errors), "{errors} errors in 200 lookups");
}

/// Two gateways with one remote cache: the second does not compute what the first has computed.
#[test]
fn servers_share_computed_vectors() {
    let server = Server::start(&[]);
    let model = tempfile::tempdir().unwrap();
    testkit::model::copy_tiny("bert-mean", model.path()).unwrap();
    let config = Config {
        models: vec![ModelConfig::builtin("tiny".to_owned(), model.path().to_owned(), 2)],
        aliases: Default::default(),
        default_model: "tiny".to_owned(),
        cache: config(&server, ""),
        onnxruntime_path: library(),
        ..Config::builtin(2)
    };
    let start = || {
        let metrics = Metrics::new(["tiny"]);
        let registry = load(&config, &metrics, &AtomicBool::new(false)).unwrap();
        until("the remote cache is up", || metrics.remote_cache().redis.up.get() == 1);
        (registry, metrics)
    };
    let (first, _) = start();
    let computed = embed(&first, "shared between servers");
    let mut client = server.client();
    until("it is written", || redis::cmd("DBSIZE").query::<u64>(&mut client).unwrap() == 1);

    let (second, metrics) = start();
    assert_eq!(embed(&second, "shared between servers"), computed);
    let text = metrics.render(true, &[]).unwrap();
    let hit = "embedgate_cache_requests_total{model=\"tiny\",result=\"remote_hit\"} 1";
    assert!(text.contains(hit), "no {hit:?} in:\n{text}");

    server.kill();
    for number in 0..20 {
        embed(&second, &format!("without the remote cache {number}"));
    }
}

fn embed(registry: &Registry, text: &str) -> Vec<f32> {
    let job = Job {
        inputs: vec![Input::Text(text.to_owned())],
        prompt: None,
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + TIMEOUT,
        max_tokens: usize::MAX,
        caller: None,
    };
    registry.find("tiny").unwrap().loaded().unwrap().engine.submit(job).unwrap().wait().unwrap().vectors
}

/// Needed if there are no native kernels for this CPU.
fn library() -> Option<PathBuf> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/onnxruntime/libonnxruntime.so");
    library.exists().then_some(library)
}
