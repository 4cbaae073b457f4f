//! The errands to a second tier: what it holds is not computed, whatever it does wrong is survived.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use inference::{CacheConfig, CacheKey, EngineConfig, RemoteCache};

use crate::rig::{Rig, answer, config, framed, job, vector_of, wait_until};

/// What a tier does when it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mood {
    #[default]
    Honest,
    TooShort,
    NotFinite,
    FewAnswers,
    Panics,
}

#[derive(Default)]
pub(crate) struct Store {
    vectors: Mutex<HashMap<CacheKey, Vec<f32>>>,
    mood: Mood,
}

impl RemoteCache for Store {
    fn get(&self, keys: &[CacheKey]) -> Vec<Option<Vec<f32>>> {
        match self.mood {
            Mood::Honest => {
                let vectors = self.vectors.lock().unwrap();
                keys.iter().map(|key| vectors.get(key).cloned()).collect()
            }
            Mood::TooShort => vec![Some(vec![1.0; 3]); keys.len()],
            Mood::NotFinite => vec![Some(vec![1.0, f32::NAN, 1.0, 1.0]); keys.len()],
            Mood::FewAnswers => vec![Some(vec![1.0; 4]); keys.len() - 1],
            Mood::Panics => panic!("told to panic"),
        }
    }

    fn put(&self, entries: Vec<(CacheKey, Vec<f32>)>) {
        assert!(self.mood != Mood::Panics, "told to panic");
        self.vectors.lock().unwrap().extend(entries);
    }
}

pub(crate) fn rig(store: &Arc<Store>, fingerprint: &str, bytes: usize) -> Rig {
    let tier: Arc<dyn RemoteCache> = Arc::clone(store) as _;
    let cache = CacheConfig { bytes, fingerprint: fingerprint.to_owned(), remote: Some(tier) };
    Rig::start(EngineConfig { cache: Some(cache), ..config() }).unwrap()
}

#[test]
fn what_one_engine_computes_another_need_not() {
    let store = Arc::new(Store::default());
    let expected = [vector_of(&framed(&[50])), vector_of(&framed(&[60]))].concat();
    let first = rig(&store, "a", 1 << 20);
    assert_eq!(answer(first.submit(&[&[50], &[60]])).unwrap().vectors, expected);
    assert_eq!(first.counts.cache(), [0, 0, 2, 0]);
    wait_until("the vectors are put", || store.vectors.lock().unwrap().len() == 2);

    let second = rig(&store, "a", 1 << 20);
    let running = second.occupy();
    // The only worker is at the gate: nothing is computed, neither now nor when memory has it.
    for round in 1..3 {
        assert_eq!(answer(second.submit(&[&[50], &[60]])).unwrap().vectors, expected);
        assert_eq!(second.counts.cache(), [2 * (round - 1), 2, 1, 0]);
    }
    let joined = second.join(job(&[&[60], &[5]]));
    second.stage.open_gate();
    assert_eq!(answer(joined).unwrap().vectors[4..], answer(running).unwrap().vectors);
    assert_eq!([5, 50, 60].map(|id| second.stage.count(id)), [1, 0, 0]);

    // Another model's vectors are not ours.
    let other = rig(&store, "b", 1 << 20);
    answer(other.submit(&[&[50]])).unwrap();
    assert_eq!((other.stage.count(50), other.counts.cache()), (1, [0, 0, 1, 0]));
}

#[test]
fn a_tier_serves_without_memory_in_front() {
    let store = Arc::new(Store::default());
    let rig = rig(&store, "a", 0);
    let first = answer(rig.submit(&[&[50]])).unwrap();
    wait_until("the vector is put", || store.vectors.lock().unwrap().len() == 1);
    assert_eq!(answer(rig.submit(&[&[50], &[60]])).unwrap().vectors[..4], first.vectors);
    assert_eq!((rig.stage.count(50), rig.stage.count(60)), (1, 1));
    assert_eq!((rig.counts.cache(), rig.engine.stats().cache_entries), ([0, 1, 2, 0], 0));
}

#[test]
fn damage_and_panics_are_misses() {
    for mood in [Mood::TooShort, Mood::NotFinite, Mood::FewAnswers, Mood::Panics] {
        let store = Arc::new(Store { mood, ..Store::default() });
        let rig = rig(&store, "a", 1 << 20);
        for id in [50, 60] {
            let found = answer(rig.submit(&[&[id], &[id + 1], &[id]])).unwrap();
            let [a, b] = [vector_of(&framed(&[id])), vector_of(&framed(&[id + 1]))];
            assert_eq!(found.vectors, [a.clone(), b, a].concat(), "{mood:?}");
        }
        assert_eq!(rig.counts.cache(), [0, 0, 4, 2], "{mood:?}");
        assert_eq!(answer(rig.submit(&[&[50]])).unwrap().vectors, vector_of(&framed(&[50])));
        assert_eq!(rig.stage.count(50), 1, "{mood:?}: memory has it");
    }
}

#[test]
fn stopping_leaves_nobody_behind() {
    let store = Arc::new(Store::default());
    let rig = rig(&store, "a", 1 << 20);
    let running = rig.occupy();
    let tickets: Vec<_> = (50..60).map(|id| rig.submit(&[&[id]])).collect();
    rig.stage.open_gate();
    rig.engine.stop(std::time::Duration::ZERO);
    assert!(answer(running).is_ok());
    // Answered or failed, each of them.
    for ticket in tickets {
        let _ = answer(ticket);
    }
}

#[test]
fn a_job_that_waits_for_no_worker_is_no_stall() {
    let store = Arc::new(Store::default());
    let rig = rig(&store, "a", 1 << 20);
    // The tier does not answer yet.
    let held = store.vectors.lock().unwrap();
    let ticket = rig.submit(&[&[50]]);
    assert_eq!(rig.engine.stats().waiting_requests, 1);
    assert_eq!(rig.engine.stalled_for(), None);
    drop(held);
    answer(ticket).unwrap();
}
