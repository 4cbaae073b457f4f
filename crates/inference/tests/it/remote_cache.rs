//! The remote cache: vectors that it holds are not computed, and its failures are survived.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use inference::{CacheConfig, CacheKey, EngineConfig, RemoteCache};

use crate::harness::{Harness, config, job, result, vector_of, wait_until};

/// Behavior of the store in a lookup.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum FailureMode {
    #[default]
    None,
    WrongLength,
    NotFinite,
    TooFewResults,
    Panics,
}

#[derive(Default)]
pub(crate) struct Store {
    vectors: Mutex<HashMap<CacheKey, Vec<f32>>>,
    failure_mode: FailureMode,
}

impl RemoteCache for Store {
    fn get(&self, keys: &[CacheKey]) -> Vec<Option<Vec<f32>>> {
        match self.failure_mode {
            FailureMode::None => {
                let vectors = self.vectors.lock().unwrap();
                keys.iter().map(|key| vectors.get(key).cloned()).collect()
            }
            FailureMode::WrongLength => vec![Some(vec![1.0; 3]); keys.len()],
            FailureMode::NotFinite => vec![Some(vec![1.0, f32::NAN, 1.0, 1.0]); keys.len()],
            FailureMode::TooFewResults => vec![Some(vec![1.0; 4]); keys.len() - 1],
            FailureMode::Panics => panic!("told to panic"),
        }
    }

    fn put(&self, entries: Vec<(CacheKey, Vec<f32>)>) {
        assert!(self.failure_mode != FailureMode::Panics, "told to panic");
        self.vectors.lock().unwrap().extend(entries);
    }
}

pub(crate) fn harness(store: &Arc<Store>, fingerprint: &str, bytes: usize) -> Harness {
    let remote: Arc<dyn RemoteCache> = Arc::clone(store) as _;
    let cache = CacheConfig { bytes, fingerprint: fingerprint.to_owned(), remote: Some(remote) };
    Harness::start(EngineConfig { cache: Some(cache), ..config() }).unwrap()
}

#[test]
fn an_engine_reuses_vectors_that_another_engine_computed() {
    let store = Arc::new(Store::default());
    let expected = [vector_of(&[50]), vector_of(&[60])].concat();
    let first = harness(&store, "a", 1 << 20);
    assert_eq!(first.embed(&[&[50], &[60]]).unwrap().vectors, expected);
    assert_eq!(first.observer.cache(), [0, 0, 2, 0]);
    wait_until("the vectors are stored", || store.vectors.lock().unwrap().len() == 2);

    let second = harness(&store, "a", 1 << 20);
    let running = second.occupy_worker();
    // The only worker waits at the gate, so nothing is computed: not in the remote lookup, nor in the local one after
    // it.
    for lookup in 1..3 {
        assert_eq!(second.embed(&[&[50], &[60]]).unwrap().vectors, expected);
        assert_eq!(second.observer.cache(), [2 * (lookup - 1), 2, 1, 0]);
    }
    let partly_shared = second.submit_and_wait_for_lookup(job(&[&[60], &[5]]));
    second.control.open_gate();
    assert_eq!(result(partly_shared).unwrap().vectors[4..], result(running).unwrap().vectors);
    assert_eq!([5, 50, 60].map(|id| second.control.count(id)), [1, 0, 0]);

    // An engine with another fingerprint does not use these vectors.
    let other = harness(&store, "b", 1 << 20);
    other.embed(&[&[50]]).unwrap();
    assert_eq!((other.control.count(50), other.observer.cache()), (1, [0, 0, 1, 0]));
}

#[test]
fn a_remote_cache_works_without_a_local_cache() {
    let store = Arc::new(Store::default());
    let harness = harness(&store, "a", 0);
    let first = harness.embed(&[&[50]]).unwrap();
    wait_until("the vector is stored", || store.vectors.lock().unwrap().len() == 1);
    assert_eq!(harness.embed(&[&[50], &[60]]).unwrap().vectors[..4], first.vectors);
    assert_eq!((harness.control.count(50), harness.control.count(60)), (1, 1));
    assert_eq!((harness.observer.cache(), harness.engine.stats().cache_entries), ([0, 1, 2, 0], 0));
}

#[test]
fn invalid_results_and_panics_are_misses() {
    for failure_mode in
        [FailureMode::WrongLength, FailureMode::NotFinite, FailureMode::TooFewResults, FailureMode::Panics]
    {
        let store = Arc::new(Store { failure_mode, ..Store::default() });
        let harness = harness(&store, "a", 1 << 20);
        for id in [50, 60] {
            let found = harness.embed(&[&[id], &[id + 1], &[id]]).unwrap();
            let [a, b] = [vector_of(&[id]), vector_of(&[id + 1])];
            assert_eq!(found.vectors, [a.clone(), b, a].concat(), "{failure_mode:?}");
        }
        assert_eq!(harness.observer.cache(), [0, 0, 4, 2], "{failure_mode:?}");
        assert_eq!(harness.embed(&[&[50]]).unwrap().vectors, vector_of(&[50]));
        assert_eq!(harness.control.count(50), 1, "{failure_mode:?}: the local cache has it");
    }
}

#[test]
fn stopping_the_engine_ends_all_jobs() {
    let store = Arc::new(Store::default());
    let harness = harness(&store, "a", 1 << 20);
    let running = harness.occupy_worker();
    let tickets: Vec<_> = (50..60).map(|id| harness.submit(&[&[id]])).collect();
    harness.control.open_gate();
    harness.engine.stop(std::time::Duration::ZERO);
    assert!(result(running).is_ok());
    // Each of them has a result or an error.
    for ticket in tickets {
        let _ = result(ticket);
    }
}

#[test]
fn a_job_that_waits_for_the_remote_cache_is_not_a_stall() {
    let store = Arc::new(Store::default());
    let harness = harness(&store, "a", 1 << 20);
    // The store blocks the lookup.
    let held = store.vectors.lock().unwrap();
    let ticket = harness.submit(&[&[50]]);
    assert_eq!(harness.engine.stats().waiting_requests, 1);
    assert_eq!(harness.engine.stalled_for(), None);
    drop(held);
    result(ticket).unwrap();
}
