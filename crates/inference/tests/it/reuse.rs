//! Never twice: equal sequences in flight are computed once, those in the cache not at all.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use inference::{CacheConfig, EmbedError, EngineConfig, GoldenText, Input, Job, TruncationPolicy};

use crate::rig::{DIMENSIONS, FAIL, PANIC, Rig, answer, config, framed, job, vector_of, wait_until};

fn cached(bytes: usize) -> Rig {
    let cache = Some(CacheConfig { bytes, fingerprint: "fake".to_owned(), remote: None });
    Rig::start(EngineConfig { normalize: true, cache, ..config() }).unwrap()
}

fn bits(vectors: &[f32]) -> Vec<u32> {
    vectors.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn equal_inputs_of_a_request_are_computed_once() {
    let rig = Rig::default();
    let found = answer(rig.submit(&[&[50], &[60, 61], &[50], &[50]])).unwrap();
    let [a, b] = [vector_of(&framed(&[50])), vector_of(&framed(&[60, 61]))];
    assert_eq!(found.vectors, [a.clone(), b, a.clone(), a].concat());
    assert_eq!(found.tokens, [3, 4, 3, 3]);
    assert_eq!((rig.stage.count(50), rig.stage.count(60)), (1, 1));
    assert_eq!(rig.counts.cache(), [0, 0, 0, 2]);
}

#[test]
fn equal_windows_are_computed_once() {
    let rig = Rig::default();
    // Two windows of 14 ids each, and one of the same ids as an input of its own.
    let window: Vec<u32> = (50..64).collect();
    let long = [window.clone(), window.clone()].concat();
    let job = Job { truncation: TruncationPolicy::Average, ..job(&[&long, &window]) };
    let found = answer(rig.engine.submit(job).unwrap()).unwrap();
    let vector = vector_of(&framed(&window));
    assert_eq!(found.vectors, [vector.clone(), vector].concat());
    assert_eq!((found.tokens, rig.stage.count(50)), (vec![32, 16], 1));
}

#[test]
fn equal_inputs_of_requests_in_flight_are_computed_once() {
    let rig = Rig::default();
    let running = rig.occupy();
    let first = rig.join(job(&[&[77], &[78]]));
    let second = rig.join(job(&[&[79], &[77]]));
    // What is being computed is joined, too.
    let late = rig.join(job(&[&[5]]));
    rig.stage.open_gate();
    let expect = |ids: [u32; 2]| ids.map(|id| vector_of(&framed(&[id]))).concat();
    assert_eq!(answer(first).unwrap().vectors, expect([77, 78]));
    assert_eq!(answer(second).unwrap().vectors, expect([79, 77]));
    assert_eq!(answer(late).unwrap().vectors, answer(running).unwrap().vectors);
    assert_eq!([5, 77, 78, 79].map(|id| rig.stage.count(id)), [1; 4]);
    assert_eq!(rig.counts.cache(), [0, 0, 0, 2]);
}

#[test]
fn whoever_leaves_takes_nothing_from_the_others() {
    let rig = Rig::default();
    let running = rig.occupy();
    let leaves = rig.join(job(&[&[77], &[78]]));
    let stays = rig.join(job(&[&[77]]));
    drop(leaves);
    rig.stage.open_gate();
    assert_eq!(answer(stays).unwrap().vectors, vector_of(&framed(&[77])));
    answer(running).unwrap();
    // Nor is anything computed for nobody.
    answer(rig.submit(&[&[79]])).unwrap();
    assert_eq!([77, 78].map(|id| rig.stage.count(id)), [1, 0]);
    assert_eq!(rig.engine.stats().queued_tokens, 0);
}

#[test]
fn a_deadline_takes_nothing_from_the_others() {
    let rig = Rig::default();
    let running = rig.occupy();
    let deadline = Instant::now() + Duration::from_millis(20);
    let late = rig.join(Job { deadline, ..job(&[&[77], &[78]]) });
    let patient = rig.join(job(&[&[77]]));
    wait_until("the deadline passes", || Instant::now() > deadline);
    rig.stage.open_gate();
    assert!(matches!(answer(late).unwrap_err(), EmbedError::DeadlineExceeded { .. }));
    assert_eq!(answer(patient).unwrap().vectors, vector_of(&framed(&[77])));
    answer(running).unwrap();
    assert_eq!([77, 78].map(|id| rig.stage.count(id)), [1, 0]);
}

#[test]
fn a_failed_batch_fails_all_who_wait_and_is_begun_anew() {
    // After an error a text is tried once more.
    for (id, panics, tries) in [(FAIL, false, 2), (PANIC, true, 1)] {
        let rig = cached(1 << 20);
        let running = rig.occupy();
        let waiting = [rig.join(job(&[&[id]])), rig.join(job(&[&[id]]))];
        rig.stage.open_gate();
        answer(running).unwrap();
        for ticket in waiting {
            let error = answer(ticket).unwrap_err();
            assert_eq!(matches!(error, EmbedError::Panicked), panics, "{error:?}");
        }
        assert_eq!(rig.stage.count(id), tries);
        assert!(answer(rig.submit(&[&[id]])).is_err());
        assert_eq!(rig.stage.count(id), 2 * tries);
        assert_eq!(rig.counts.failures.load(Ordering::SeqCst), 2 * tries);
    }
}

#[test]
fn a_hit_is_the_same_to_the_bit_and_needs_no_worker() {
    let rig = cached(1 << 20);
    let first = answer(rig.submit(&[&[50, 51], &[60]])).unwrap();
    let stats = rig.engine.stats();
    assert_eq!((stats.cache_entries, stats.cache_evictions), (2, 0));
    assert!(stats.cache_bytes > 2 * DIMENSIONS * 4);
    let running = rig.occupy();
    // The only worker is at the gate.
    let again = answer(rig.submit(&[&[50, 51], &[60]])).unwrap();
    assert_eq!(bits(&again.vectors), bits(&first.vectors));
    assert_eq!((again.tokens, again.truncated), (first.tokens, 0));
    assert_eq!(rig.counts.cache(), [2, 0, 3, 0]);
    rig.stage.open_gate();
    answer(running).unwrap();
    let norm: f32 = first.vectors[..DIMENSIONS].iter().map(|value| value * value).sum();
    assert!((norm - 1.0).abs() < 1e-6, "the cache holds final vectors");
}

#[test]
fn hits_and_misses_of_a_request_keep_their_order() {
    let rig = cached(1 << 20);
    answer(rig.submit(&[&[50], &[60], &[70]])).unwrap();
    rig.stage.seen.lock().unwrap().clear();
    let ids = [70, 80, 50, 90, 60, 80];
    let inputs: Vec<[u32; 1]> = ids.map(|id| [id]).to_vec();
    let inputs: Vec<&[u32]> = inputs.iter().map(<[u32; 1]>::as_slice).collect();
    let mixed = answer(rig.submit(&inputs)).unwrap();
    let mut computed = std::mem::take(&mut *rig.stage.seen.lock().unwrap());
    computed.sort_unstable();
    assert_eq!(computed, [framed(&[80]), framed(&[90])]);
    for (row, input) in mixed.vectors.chunks_exact(DIMENSIONS).zip(&inputs) {
        assert_eq!(row, answer(rig.submit(&[input])).unwrap().vectors);
    }
    // Three misses first, then as the request says, then six hits.
    assert_eq!(rig.counts.cache(), [3 + 6, 0, 3 + 2, 1]);
}

#[test]
fn a_full_cache_stays_below_its_bound() {
    let rig = cached(4096);
    for id in 10..300 {
        answer(rig.submit(&[&[id]])).unwrap();
        assert!(rig.engine.stats().cache_bytes <= 4096);
    }
    let stats = rig.engine.stats();
    assert!(stats.cache_entries > 4 && stats.cache_evictions > 200, "{stats:?}");
}

#[test]
fn without_a_cache_nothing_is_kept() {
    for rig in [Rig::default(), cached(0)] {
        for _ in 0..2 {
            answer(rig.submit(&[&[50]])).unwrap();
        }
        assert_eq!((rig.stage.count(50), rig.counts.cache()), (2, [0; 4]));
        assert_eq!(rig.engine.stats().cache_entries, 0);
    }
}

#[test]
fn golden_texts_are_always_computed_and_never_kept() {
    let rig = cached(1 << 20);
    let text = |text: &str| Job { inputs: vec![Input::Text(text.to_owned())], ..job(&[]) };
    let vector = answer(rig.engine.submit(text("")).unwrap()).unwrap().vectors;
    let golden = GoldenText { text: "", tokens: 2, vector: &vector };
    for checks in 1..3 {
        rig.engine.check_golden(&[golden, golden], 0.99999).unwrap();
        assert_eq!(rig.stage.seen.lock().unwrap().len(), 1 + 2 * checks, "equal texts are computed apart");
    }
    let counts = &rig.counts;
    assert_eq!((counts.cache(), counts.inputs.load(Ordering::SeqCst)), ([0, 0, 1, 0], 1));
    assert_eq!((counts.batches.lock().unwrap().len(), counts.waits.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(rig.engine.stats().cache_entries, 1);
    // Checked first, a text is a miss all the same.
    let rig = cached(1 << 20);
    rig.engine.check_golden(&[golden], 0.99999).unwrap();
    assert_eq!(rig.engine.stats().cache_entries, 0);
    answer(rig.engine.submit(text("")).unwrap()).unwrap();
    assert_eq!(rig.counts.cache(), [0, 0, 1, 0]);
}
