//! Deduplication: equal sequences in flight are computed once, those in the local cache not at all.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use inference::{CacheConfig, EmbedError, EngineConfig, GoldenText, Input, Job, TruncationPolicy};

use crate::harness::{
    DIMENSIONS, FAIL, Harness, PANIC, config, job, result, vector_of, wait_until, with_special_tokens,
};

fn with_cache(bytes: usize) -> Harness {
    let cache = Some(CacheConfig { bytes, fingerprint: "fake".to_owned(), remote: None });
    Harness::start(EngineConfig { normalize: true, cache, ..config() }).unwrap()
}

fn bits(vectors: &[f32]) -> Vec<u32> {
    vectors.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn equal_inputs_of_a_job_are_computed_once() {
    let harness = Harness::default();
    let found = harness.embed(&[&[50], &[60, 61], &[50], &[50]]).unwrap();
    let [a, b] = [vector_of(&[50]), vector_of(&[60, 61])];
    assert_eq!(found.vectors, [a.clone(), b, a.clone(), a].concat());
    assert_eq!(found.tokens, [3, 4, 3, 3]);
    assert_eq!((harness.control.count(50), harness.control.count(60)), (1, 1));
    assert_eq!(harness.observer.cache(), [0, 0, 0, 2]);
}

#[test]
fn equal_windows_are_computed_once() {
    let harness = Harness::default();
    // Two windows of 14 ids each, and one of the same ids as an input of its own.
    let window: Vec<u32> = (50..64).collect();
    let long = [window.clone(), window.clone()].concat();
    let job = Job { truncation: TruncationPolicy::Average, ..job(&[&long, &window]) };
    let found = harness.embed_job(job).unwrap();
    let vector = vector_of(&window);
    assert_eq!(found.vectors, [vector.clone(), vector].concat());
    assert_eq!((found.tokens, harness.control.count(50)), (vec![32, 16], 1));
}

#[test]
fn equal_inputs_of_jobs_in_flight_are_computed_once() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let first = harness.submit_and_wait_for_lookup(job(&[&[77], &[78]]));
    let second = harness.submit_and_wait_for_lookup(job(&[&[79], &[77]]));
    // A job also subscribes to a sequence that is being computed.
    let late = harness.submit_and_wait_for_lookup(job(&[&[5]]));
    harness.control.open_gate();
    let expect = |ids: [u32; 2]| ids.map(|id| vector_of(&[id])).concat();
    assert_eq!(result(first).unwrap().vectors, expect([77, 78]));
    assert_eq!(result(second).unwrap().vectors, expect([79, 77]));
    assert_eq!(result(late).unwrap().vectors, result(running).unwrap().vectors);
    assert_eq!([5, 77, 78, 79].map(|id| harness.control.count(id)), [1; 4]);
    assert_eq!(harness.observer.cache(), [0, 0, 0, 2]);
}

#[test]
fn a_cancelled_job_does_not_affect_jobs_with_equal_texts() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let cancelled = harness.submit_and_wait_for_lookup(job(&[&[77], &[78]]));
    let other = harness.submit_and_wait_for_lookup(job(&[&[77]]));
    drop(cancelled);
    harness.control.open_gate();
    assert_eq!(result(other).unwrap().vectors, vector_of(&[77]));
    result(running).unwrap();
    // A text that only the cancelled job needs is not computed.
    harness.embed(&[&[79]]).unwrap();
    assert_eq!([77, 78].map(|id| harness.control.count(id)), [1, 0]);
    assert_eq!(harness.engine.stats().queued_tokens, 0);
}

#[test]
fn a_late_job_does_not_affect_jobs_with_equal_texts() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let deadline = Instant::now() + Duration::from_millis(20);
    let late = harness.submit_and_wait_for_lookup(Job { deadline, ..job(&[&[77], &[78]]) });
    let patient = harness.submit_and_wait_for_lookup(job(&[&[77]]));
    wait_until("the deadline passes", || Instant::now() > deadline);
    harness.control.open_gate();
    assert!(matches!(result(late).unwrap_err(), EmbedError::DeadlineExceeded { .. }));
    assert_eq!(result(patient).unwrap().vectors, vector_of(&[77]));
    result(running).unwrap();
    assert_eq!([77, 78].map(|id| harness.control.count(id)), [1, 0]);
}

#[test]
fn a_failure_fails_all_subscribers_and_is_not_cached() {
    // After an error, but not after a panic, a text is computed once more.
    for (id, panics, tries) in [(FAIL, false, 2), (PANIC, true, 1)] {
        let harness = with_cache(1 << 20);
        let running = harness.occupy_worker();
        let waiting = [
            harness.submit_and_wait_for_lookup(job(&[&[id]])),
            harness.submit_and_wait_for_lookup(job(&[&[id]])),
        ];
        harness.control.open_gate();
        result(running).unwrap();
        for ticket in waiting {
            let error = result(ticket).unwrap_err();
            assert_eq!(matches!(error, EmbedError::Panicked), panics, "{error:?}");
        }
        assert_eq!(harness.control.count(id), tries);
        assert!(harness.embed(&[&[id]]).is_err());
        assert_eq!(harness.control.count(id), 2 * tries);
        assert_eq!(harness.observer.failures.load(Ordering::SeqCst), 2 * tries);
    }
}

#[test]
fn a_cache_hit_is_bitwise_equal_and_needs_no_worker() {
    let harness = with_cache(1 << 20);
    let first = harness.embed(&[&[50, 51], &[60]]).unwrap();
    let stats = harness.engine.stats();
    assert_eq!((stats.cache_entries, stats.cache_evictions), (2, 0));
    assert!(stats.cache_bytes > 2 * DIMENSIONS * 4);
    let running = harness.occupy_worker();
    // The only worker waits at the gate.
    let again = harness.embed(&[&[50, 51], &[60]]).unwrap();
    assert_eq!(bits(&again.vectors), bits(&first.vectors));
    assert_eq!((again.tokens, again.truncated), (first.tokens, 0));
    assert_eq!(harness.observer.cache(), [2, 0, 3, 0]);
    harness.release_worker(running);
    let norm: f32 = first.vectors[..DIMENSIONS].iter().map(|value| value * value).sum();
    assert!((norm - 1.0).abs() < 1e-6, "the cache holds normalized vectors");
}

#[test]
fn hits_and_misses_of_a_job_keep_their_order() {
    let harness = with_cache(1 << 20);
    harness.embed(&[&[50], &[60], &[70]]).unwrap();
    harness.control.seen.lock().unwrap().clear();
    let ids = [70, 80, 50, 90, 60, 80];
    let inputs: Vec<[u32; 1]> = ids.map(|id| [id]).to_vec();
    let inputs: Vec<&[u32]> = inputs.iter().map(<[u32; 1]>::as_slice).collect();
    let mixed = harness.embed(&inputs).unwrap();
    let mut computed = std::mem::take(&mut *harness.control.seen.lock().unwrap());
    computed.sort_unstable();
    assert_eq!(computed, [with_special_tokens(&[80]), with_special_tokens(&[90])]);
    for (row, input) in mixed.vectors.chunks_exact(DIMENSIONS).zip(&inputs) {
        assert_eq!(row, harness.embed(&[input]).unwrap().vectors);
    }
    // Three misses of the first job; three hits, two misses and a duplicate of the second; then six hits.
    assert_eq!(harness.observer.cache(), [3 + 6, 0, 3 + 2, 1]);
}

#[test]
fn a_full_cache_stays_below_its_capacity() {
    let harness = with_cache(4096);
    for id in 10..300 {
        harness.embed(&[&[id]]).unwrap();
        assert!(harness.engine.stats().cache_bytes <= 4096);
    }
    let stats = harness.engine.stats();
    assert!(stats.cache_entries > 4 && stats.cache_evictions > 200, "{stats:?}");
}

#[test]
fn without_a_cache_no_vector_is_kept() {
    for harness in [Harness::default(), with_cache(0)] {
        for _ in 0..2 {
            harness.embed(&[&[50]]).unwrap();
        }
        assert_eq!((harness.control.count(50), harness.observer.cache()), (2, [0; 4]));
        assert_eq!(harness.engine.stats().cache_entries, 0);
    }
}

#[test]
fn golden_texts_are_always_computed_and_never_cached() {
    let harness = with_cache(1 << 20);
    let text = |text: &str| Job { inputs: vec![Input::Text(text.to_owned())], ..job(&[]) };
    let vector = harness.embed_job(text("")).unwrap().vectors;
    let golden = GoldenText { text: "", tokens: 2, vector: &vector };
    for checks in 1..3 {
        harness.engine.check_golden(&[golden, golden], 0.99999).unwrap();
        assert_eq!(
            harness.control.seen.lock().unwrap().len(),
            1 + 2 * checks,
            "equal texts are computed separately"
        );
    }
    let counts = &harness.observer;
    assert_eq!((counts.cache(), counts.inputs.load(Ordering::SeqCst)), ([0, 0, 1, 0], 1));
    assert_eq!((counts.batches.lock().unwrap().len(), counts.waits.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(harness.engine.stats().cache_entries, 1);
    // After a golden check, the same text is a miss.
    let harness = with_cache(1 << 20);
    harness.engine.check_golden(&[golden], 0.99999).unwrap();
    assert_eq!(harness.engine.stats().cache_entries, 0);
    harness.embed_job(text("")).unwrap();
    assert_eq!(harness.observer.cache(), [0, 0, 1, 0]);
}
