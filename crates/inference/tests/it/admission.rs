//! Jobs are rejected by the tokens that must be computed for them, without those saved by caches and request
//! coalescing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use inference::{EmbedError, Job, SubmitError};

use crate::{
    harness::{Harness, long_job, result, vectors_of, wait_until},
    remote_cache::{self, Store},
};

/// Number of jobs in flight together.
const JOBS: usize = 60;
/// Number of inputs of each job, and of their tokens.
const TEXTS: u32 = 2048;
const TOKENS: usize = 5 * TEXTS as usize;

/// A job of 2,048 inputs, different for each `id`.
fn large_job(id: u32, deadline: Duration) -> Job {
    Job { deadline: Instant::now() + deadline, ..long_job(id, TEXTS) }
}

/// Makes the engine measure at least 50 ms for 16 tokens: at most 320 tokens per second.
fn measure_low_throughput(harness: &Harness) {
    harness.control.close_gate();
    let before = harness.control.arrivals();
    let ticket = harness.submit(&[&[7; 14]]);
    wait_until("the encoder has the batch", || harness.control.arrivals() > before);
    let end = Instant::now() + Duration::from_millis(50);
    wait_until("50 ms have passed", || Instant::now() >= end);
    harness.control.open_gate();
    result(ticket).unwrap();
}

/// The encoder is blocked, and too slow for the upper estimate of any of these jobs.
#[test]
fn cached_jobs_are_not_rejected_because_of_a_slow_encoder() {
    let store = Arc::new(Store::default());
    let expected = vectors_of(&large_job(501, Duration::ZERO));
    {
        let other = remote_cache::harness(&store, "a", 1 << 20);
        let found = other.embed_job(large_job(501, Duration::from_secs(60))).unwrap();
        assert!(found.vectors == expected);
        // Stopping the engine completes all writes to the store.
    }
    let harness = remote_cache::harness(&store, "a", 1 << 20);
    measure_low_throughput(&harness);
    let running = harness.occupy_worker();
    for cache in ["remote cache", "local cache"] {
        let submit = |_| harness.engine.submit(large_job(501, Duration::from_secs(30)));
        let tickets: Vec<_> = (0..JOBS).map(submit).collect();
        for ticket in tickets {
            let found = result(ticket.unwrap_or_else(|error| panic!("{cache}: {error}"))).unwrap();
            assert!(found.vectors == expected, "{cache}");
        }
    }
    assert!(!harness.control.saw(501));
    harness.release_worker(running);
}

#[test]
fn jobs_of_equal_texts_count_once_in_the_wait_estimate() {
    let harness = Harness::default();
    measure_low_throughput(&harness);
    harness.control.close_gate();
    // Enough for one job, even on an encoder that is 50 times slower, but not for 60.
    let deadline = Duration::from_secs(2400);
    let tickets: Vec<_> =
        (0..JOBS).map(|_| harness.engine.submit(large_job(501, deadline)).unwrap()).collect();
    wait_until("all jobs are coalesced", || harness.observer.cache()[3] >= (JOBS - 1) * TEXTS as usize);
    wait_until("their texts are queued once", || harness.engine.stats().tokens_in_flight == TOKENS);
    harness.control.open_gate();
    let expected = vectors_of(&large_job(501, deadline));
    for ticket in tickets {
        assert!(result(ticket).unwrap().vectors == expected);
    }
    assert_eq!(harness.control.count(501), TEXTS as usize);
}

#[test]
fn a_job_that_cannot_be_computed_in_time_is_rejected_before_the_encoder() {
    let harness = Harness::default();
    measure_low_throughput(&harness);
    let running = harness.occupy_worker();
    // It takes at least 32 s.
    let late = harness.engine.submit(large_job(501, Duration::from_secs(20))).unwrap();
    let error = result(late).unwrap_err();
    assert!(matches!(error, EmbedError::Rejected(SubmitError::DeadlineUnmeetable { .. })), "{error:?}");
    assert_eq!(harness.engine.stats().queued_tokens, 0);
    // A job with a later deadline still gets vectors for the same texts.
    let patient = large_job(501, Duration::from_secs(3600));
    let patient = Job { inputs: patient.inputs[..9].to_vec(), ..patient };
    let expected = vectors_of(&patient);
    let patient = harness.engine.submit(patient).unwrap();
    harness.control.open_gate();
    assert!(result(patient).unwrap().vectors == expected);
    assert_eq!(harness.control.count(501), 9);
    result(running).unwrap();
}
