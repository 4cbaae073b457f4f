//! The cache's second tier on a real Redis: what it keeps, and that nothing it does is in anybody's way.
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
    metrics::Metrics,
    redis_tier::RedisTier,
};
use inference::{CacheKey, Input, Job, RemoteCache, TruncationPolicy};
use redis_server::{PATIENCE, Server, wait};

fn config(server: &Server, password: &str) -> CacheConfig {
    let password = if password.is_empty() { String::new() } else { format!("?pass={password}") };
    // Generous: machines that run tests are busy, and only the tests below are about time.
    CacheConfig {
        redis_url: Some(format!("{}{password}", server.url()).as_str().into()),
        redis_timeout: Duration::from_secs(5),
        ..CacheConfig::default()
    }
}

fn tier(config: &CacheConfig) -> (RedisTier, Metrics) {
    let metrics = Metrics::new(["m"]);
    (RedisTier::new(config, metrics.tier()).unwrap().unwrap(), metrics)
}

fn up(config: &CacheConfig) -> (RedisTier, Metrics) {
    let (tier, metrics) = tier(config);
    wait("the tier is up", || tier.is_up());
    (tier, metrics)
}

fn key(number: u8) -> CacheKey {
    [number; 32]
}

#[test]
fn without_an_address_there_is_no_tier() {
    assert!(RedisTier::new(&CacheConfig::default(), Metrics::new(["m"]).tier()).unwrap().is_none());
}

#[test]
fn what_one_server_puts_another_gets_until_it_expires() {
    let server = Server::start(&[]);
    let (one, _) = up(&config(&server, ""));
    let (other, metrics) = up(&config(&server, ""));
    assert_eq!(metrics.tier().up.get(), 1);
    let vectors = [vec![1.5, -0.0, f32::MIN_POSITIVE], vec![2.5]];
    one.put(vec![(key(1), vectors[0].clone()), (key(2), vectors[1].clone())]);
    wait("both are there", || other.get(&[key(1), key(2)]).iter().all(Option::is_some));
    let found = other.get(&[key(2), key(3), key(1)]);
    assert_eq!(found, [Some(vectors[1].clone()), None, Some(vectors[0].clone())]);
    assert!(other.get(&[]).is_empty() && other.is_up());

    let mut client = server.client();
    let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    assert!(names.iter().all(|name| name.starts_with(b"embedgate:1:")), "{names:?}");
    let left: i64 = redis::cmd("TTL").arg(&names[0]).query(&mut client).unwrap();
    let most = CacheConfig::default().redis_ttl.as_secs() as i64;
    assert!(left > most - 3600 && left <= most, "{left} s left of {most}");
}

/// One reply with the vectors of thousands of texts would take longer than the timeout of a server that is well.
#[test]
fn many_texts_are_asked_for_in_pieces() {
    let server = Server::start(&[]);
    let (tier, _) = up(&config(&server, ""));
    let keys: Vec<CacheKey> = (0..200).map(key).collect();
    let stored = |number: u8| (!number.is_multiple_of(3)).then(|| vec![f32::from(number)]);
    tier.put((0..200).filter_map(|number| Some((key(number), stored(number)?))).collect());
    wait("the last is there", || tier.get(&[key(199)])[0].is_some());
    let mut client = server.client();
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut client).unwrap();
    assert_eq!(tier.get(&keys), (0..200).map(stored).collect::<Vec<_>>());
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut client).unwrap();
    assert!(stats.contains("cmdstat_mget:calls=4,"), "{stats}");
}

#[test]
fn a_value_that_is_no_vector_is_nothing() {
    let server = Server::start(&[]);
    let (tier, _) = up(&config(&server, ""));
    let name = [b"embedgate:1:".as_slice(), &key(1)].concat();
    redis::cmd("SET").arg(name).arg(b"12345").exec(&mut server.client()).unwrap();
    assert_eq!(tier.get(&[key(1)]), [None]);
    assert!(tier.is_up());
}

#[test]
fn a_server_that_goes_is_missed_by_nobody_and_found_again() {
    let server = Server::start(&[]);
    let (tier, metrics) = up(&config(&server, ""));
    tier.put(vec![(key(1), vec![1.0])]);
    wait("it is there", || tier.get(&[key(1)])[0].is_some());
    let folder = server.kill();
    assert_eq!(tier.get(&[key(1), key(2)]), [None, None]);
    // From here on nothing touches the network in a lookup.
    assert!(!tier.is_up());
    assert_eq!(tier.get(&[key(1)]), [None]);
    assert_eq!(metrics.tier().up.get(), 0);
    assert!(metrics.tier().connections.get() > 0);
    // Nobody takes these off our hands, and nobody waits for that.
    for _ in 0..1_000 {
        tier.put(vec![(key(3), vec![0.0; 384])]);
    }
    wait("some were dropped", || metrics.tier().dropped.get() > 0);

    let server = Server::start_in(folder, &[]);
    wait("it is found again", || tier.is_up());
    assert_eq!(metrics.tier().up.get(), 1);
    tier.put(vec![(key(4), vec![4.0])]);
    wait("it keeps again", || tier.get(&[key(4)]) == [Some(vec![4.0])]);
    drop(server);
}

#[test]
fn a_wrong_password_leaves_the_tier_away() {
    let server = Server::start(&["--requirepass", "right"]);
    let (tier, metrics) = tier(&config(&server, "wrong"));
    wait("the refusal is counted", || metrics.tier().others.get() + metrics.tier().connections.get() > 0);
    assert!(!tier.is_up());
    assert_eq!(tier.get(&[key(1)]), [None]);
    up(&config(&server, "right"));
}

/// A stranger that accepts and never answers: the tier is never up, a lookup never waits, dropping ends.
#[test]
fn a_silent_server_costs_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/0", silent.local_addr().unwrap());
    let config = CacheConfig { redis_url: Some(url.as_str().into()), ..CacheConfig::default() };
    let (tier, metrics) = tier(&config);
    assert_eq!(tier.get(&[key(1)]), [None]);
    wait("the silence is counted", || metrics.tier().timeouts.get() > 0);
    assert!(!tier.is_up());
}

/// A server that answers its first questions and then no more: one lookup waits for the timeout, the next does not.
#[test]
fn a_server_that_falls_silent_is_asked_once() {
    let server = Server::start(&[]);
    let config = CacheConfig { redis_timeout: Duration::from_millis(5), ..config(&server, "") };
    let (tier, metrics) = up(&config);
    // Every command but this one waits from here on.
    redis::cmd("CLIENT").arg("PAUSE").arg(60_000).exec(&mut server.client()).unwrap();
    assert_eq!(tier.get(&[key(1)]), [None]);
    assert!(!tier.is_up());
    assert_eq!(metrics.tier().timeouts.get(), 1);
}

/// A server that is full says so to every vector. It is not away for that: what it holds is still found.
#[test]
fn a_full_server_is_still_asked() {
    let server = Server::start(&[]);
    let (tier, metrics) = up(&config(&server, ""));
    tier.put(vec![(key(1), vec![1.0])]);
    wait("it is there", || tier.get(&[key(1)])[0].is_some());
    let mut client = server.client();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec(&mut client).unwrap();
    for number in 2..5 {
        tier.put(vec![(key(number), vec![2.0])]);
    }
    wait("all are dropped", || metrics.tier().dropped.get() == 3);
    assert!(tier.is_up());
    assert_eq!(tier.get(&[key(1), key(2)]), [Some(vec![1.0]), None]);
    assert_eq!((metrics.tier().connections.get(), metrics.tier().timeouts.get()), (0, 0));
}

/// One that can be reached but is too slow is left alone for longer and longer: the pauses double until a lookup
/// succeeds, whatever is to be written meanwhile.
#[test]
fn a_slow_server_is_left_alone() {
    let server = Server::start(&[]);
    let config = CacheConfig { redis_timeout: Duration::from_millis(20), ..config(&server, "") };
    let (tier, metrics) = up(&config);
    redis::cmd("CLIENT").arg("PAUSE").arg(60_000).exec(&mut server.client()).unwrap();
    for number in 0..200 {
        assert_eq!(tier.get(&[key(1)]), [None]);
        tier.put(vec![(key(number), vec![1.0])]);
    }
    // One lookup, and what can have been attempted since: after one second, after two more, …
    let errors = metrics.tier().timeouts.get() + metrics.tier().connections.get();
    assert!((1..=5).contains(&errors), "{errors} errors in 200 lookups");
}

/// Two gateways with one second tier: what the first computed, the second need not.
#[test]
fn servers_share_what_they_computed() {
    let server = Server::start(&[]);
    let model = tempfile::tempdir().unwrap();
    copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-import/tests/tiny-models/bert-mean"),
        model.path(),
    );
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
        wait("the tier is up", || metrics.tier().up.get() == 1);
        (registry, metrics)
    };
    let (first, _) = start();
    let computed = embed(&first, "shared between servers");
    let mut client = server.client();
    wait("it is written", || redis::cmd("DBSIZE").query::<u64>(&mut client).unwrap() == 1);

    let (second, metrics) = start();
    assert_eq!(embed(&second, "shared between servers"), computed);
    let text = metrics.render(true, &[]).unwrap();
    let hit = "embedgate_cache_requests_total{model=\"tiny\",result=\"tier_hit\"} 1";
    assert!(text.contains(hit), "no {hit:?} in:\n{text}");

    server.kill();
    for number in 0..20 {
        embed(&second, &format!("without the second tier {number}"));
    }
}

fn embed(registry: &Registry, text: &str) -> Vec<f32> {
    let job = Job {
        inputs: vec![Input::Text(text.to_owned())],
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + PATIENCE,
        max_tokens: usize::MAX,
        caller: None,
    };
    registry.find("tiny").unwrap().engine.submit(job).unwrap().wait().unwrap().vectors
}

/// Needed where this processor has no kernels of our own.
fn library() -> Option<PathBuf> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/onnxruntime/libonnxruntime.so");
    library.exists().then_some(library)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
