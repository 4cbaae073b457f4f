//! The engine's guarantees, on a fake encoder: order, isolation, admission, deadlines, cancellation, shutdown.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use inference::{
    EmbedError, EngineConfig, GoldenError, GoldenText, Input, Job, StartError, SubmitError, TruncationPolicy,
};
use proptest::prelude::*;

use crate::harness::{
    DIMENSIONS, EncoderKind, FAIL, Harness, MAX_INPUT_TOKENS, NAN, PANIC, config, job, result, vector_of,
    vectors_of, wait_until,
};

#[test]
fn a_small_job_is_tokenized_on_the_submitting_thread() {
    let harness = Harness::default();
    for number in 1..100 {
        let ticket = harness.submit(&[&[number + 10], &[number + 200]]);
        assert_eq!(harness.observer.lookups.load(Ordering::SeqCst), number as usize);
        result(ticket).unwrap();
    }
}

#[test]
fn vectors_come_in_the_order_of_the_inputs() {
    let harness = Harness::default();
    let inputs: Vec<Vec<u32>> =
        (0..300).map(|n| (0..=n % 13).map(|i| 10 + (n * 7 + i) % 500).collect()).collect();
    let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
    let embeddings = harness.embed(&inputs).unwrap();
    assert_eq!(embeddings.vectors, vectors_of(&job(&inputs)));
    assert_eq!(embeddings.tokens, inputs.iter().map(|ids| ids.len() as u32 + 2).collect::<Vec<_>>());
    assert_eq!(embeddings.total_tokens(), harness.observer.tokens.load(Ordering::SeqCst) as u64);
    assert_eq!(harness.observer.inputs.load(Ordering::SeqCst), 300);
    assert_eq!(harness.observer.waits.load(Ordering::SeqCst), 1);
    let batches = harness.observer.batches.lock().unwrap();
    assert_eq!(batches.iter().map(|batch| batch.inputs).sum::<usize>(), 300);
    assert!(batches.iter().all(|batch| batch.tokens <= 64 && batch.inputs <= 8 && batch.padding == 0));
}

#[test]
fn padding_is_reported() {
    let harness = Harness::with_encoder(EncoderKind::Padding, config()).unwrap();
    harness.embed(&[&[5, 6, 7], &[5]]).unwrap();
    let padding: usize = harness.observer.batches.lock().unwrap().iter().map(|batch| batch.padding).sum();
    assert_eq!(padding, 2);
}

#[test]
fn concurrent_jobs_get_their_own_vectors() {
    let harness = Harness::start(EngineConfig { workers: 3, ..config() }).unwrap();
    std::thread::scope(|scope| {
        for client in 0..8u32 {
            let harness = &harness;
            scope.spawn(move || {
                for round in 0..50 {
                    let ids: Vec<Vec<u32>> =
                        (0..=round % 5).map(|n| vec![10 + client * 60 + round, 10 + n]).collect();
                    let inputs: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
                    let expected = vectors_of(&job(&inputs));
                    assert_eq!(harness.embed(&inputs).unwrap().vectors, expected);
                }
            });
        }
    });
    harness.wait_until_idle();
    assert_eq!(harness.engine.stats().running_requests, 0);
}

#[test]
fn long_inputs_follow_the_truncation_policy() {
    let harness = Harness::default();
    let long: Vec<u32> = (0..30).map(|n| 10 + n).collect();
    let submit = |truncation| harness.embed_job(Job { truncation, ..job(&[&[7], &long]) });

    let cut = submit(TruncationPolicy::Truncate).unwrap();
    assert_eq!((cut.tokens, cut.truncated), (vec![3, 16], 1));
    assert_eq!(cut.vectors[DIMENSIONS..], vector_of(&long[..14]));
    assert_eq!(harness.observer.truncated.load(Ordering::SeqCst), 1);

    let averaged = submit(TruncationPolicy::Average).unwrap();
    // Windows of 14, 14 and 2 tokens, without special tokens.
    assert_eq!((averaged.tokens, averaged.truncated), (vec![3, 16 + 16 + 4], 0));
    let windows = [(&long[..14], 14.0), (&long[14..28], 14.0), (&long[28..], 2.0)];
    for dimension in 0..DIMENSIONS {
        let sum: f32 = windows.iter().map(|(ids, weight)| weight * vector_of(ids)[dimension]).sum();
        assert!((averaged.vectors[DIMENSIONS + dimension] - sum / 30.0).abs() < 1e-3);
    }

    let rejected = submit(TruncationPolicy::Error).unwrap_err();
    assert!(
        matches!(
            rejected,
            EmbedError::InputTooLong { index: 1, tokens: 32, max_input_tokens: MAX_INPUT_TOKENS }
        ),
        "{rejected:?}"
    );
    harness.wait_until_idle();
}

#[test]
fn a_job_can_lower_max_input_tokens_but_not_raise_it() {
    let harness = Harness::default();
    let long: Vec<u32> = (0..30).map(|n| 10 + n).collect();
    let submit = |truncation, max| {
        harness.embed_job(Job { truncation, max_input_tokens: Some(max), ..job(&[&[7], &long]) })
    };
    let cut = submit(TruncationPolicy::Truncate, 5).unwrap();
    assert_eq!((cut.tokens, cut.truncated), (vec![3, 5], 1));
    assert_eq!(cut.vectors[DIMENSIONS..], vector_of(&long[..3]));
    let rejected = submit(TruncationPolicy::Error, 5).unwrap_err();
    assert!(
        matches!(rejected, EmbedError::InputTooLong { index: 1, tokens: 32, max_input_tokens: 5 }),
        "{rejected:?}"
    );
    for (max, read) in [(MAX_INPUT_TOKENS + 1, MAX_INPUT_TOKENS), (usize::MAX, MAX_INPUT_TOKENS), (0, 3)] {
        assert_eq!(submit(TruncationPolicy::Truncate, max).unwrap().tokens, [3, read as u32], "{max}");
    }
    harness.wait_until_idle();
}

#[test]
fn texts_are_tokenized_and_token_ids_validated() {
    let harness = Harness::default();
    let text = |text: &str| Job { inputs: vec![Input::Text(text.to_owned())], ..job(&[]) };
    let blank = harness.embed_job(text("  \u{1f} ")).unwrap();
    assert_eq!((blank.tokens, blank.vectors), (vec![2], vector_of(&[])));
    let unknown = harness.embed(&[&[5], &[600]]).unwrap_err();
    assert!(matches!(unknown, EmbedError::UnknownToken { index: 1, id: 600 }), "{unknown:?}");
}

#[test]
fn a_job_without_inputs_completes() {
    let embeddings = Harness::default().embed(&[]).unwrap();
    assert_eq!((embeddings.vectors, embeddings.tokens), (vec![], vec![]));
}

#[test]
fn the_tokens_of_a_job_are_limited() {
    let harness = Harness::default();
    let limited = |max_tokens| harness.embed_job(Job { max_tokens, ..job(&[&[5, 6], &[7]]) });
    assert!(limited(7).is_ok());
    let rejected = limited(6).unwrap_err();
    assert!(matches!(rejected, EmbedError::TooManyTokens { tokens: 7, limit: 6 }), "{rejected:?}");
    harness.wait_until_idle();
}

#[test]
fn a_full_queue_rejects_the_whole_job_and_recovers() {
    let harness = Harness::start(EngineConfig { max_queue_tokens: 20, ..config() }).unwrap();
    let running = harness.occupy_worker();
    let admitted = harness.submit(&[&[5, 6, 7], &[8, 9, 10]]);
    let large = job(&[&[11; 6], &[12; 6]]);
    // First after tokenizing, while the encoder is blocked; then, without credit, on arrival.
    for on_arrival in [false, true] {
        let rejected = rejection(&harness, large.clone(), on_arrival);
        assert!(
            matches!(rejected, SubmitError::Full { retry_after } if (1..=60).contains(&retry_after.as_secs()))
        );
        for _ in 0..10 {
            let _ = harness.engine.submit(large.clone()).map(result);
        }
    }
    assert_eq!(harness.engine.stats().queued_tokens, 10, "the rejected jobs left no tokens in the queue");
    // Tokenizing it takes as long as computing 30 tokens: more than the whole account.
    let huge = Job { inputs: vec![Input::Text("a ".repeat(15 * 256))], ..job(&[]) };
    assert!(matches!(harness.engine.submit(huge).unwrap_err(), SubmitError::Full { .. }));
    harness.release_worker(running);
    result(admitted).unwrap();
    harness.wait_until_idle();
    assert!(!harness.control.saw(11) && !harness.control.saw(12));
    harness.embed(&[&[5, 6, 7], &[8, 9, 10]]).unwrap();
    assert_eq!(
        rejection(&harness, job(&[&[5; 9], &[6; 9]]), false),
        SubmitError::TooLarge { tokens: 22, limit: 20 }
    );
}

/// Its 32 inputs fill the queue at most, but tokenizing them takes as long as computing more tokens than the queue
/// holds.
#[test]
fn an_idle_engine_admits_a_job_within_its_limits_with_long_texts() {
    let (max_input_tokens, inputs, max_queue_tokens) = (128, 32, 4096);
    let harness = Harness::start(EngineConfig { max_input_tokens, max_queue_tokens, ..config() }).unwrap();
    let text = "a ".repeat(17_500);
    assert!(inputs * text.len() > max_queue_tokens * 256);
    let long = Job { inputs: vec![Input::Text(text); inputs], ..job(&[]) };
    for _ in 0..2 {
        assert_eq!(harness.embed_job(long.clone()).unwrap().tokens, vec![128; inputs]);
        harness.wait_until_idle();
    }
    // The memory of many inputs is still limited.
    let many = Job { inputs: vec![Input::Tokens(vec![5]); 1366], ..job(&[]) };
    assert_eq!(
        harness.engine.submit(many).unwrap_err(),
        SubmitError::TooLarge { tokens: 3 * 1366, limit: max_queue_tokens }
    );
}

/// Returns the error with which a job is rejected, on arrival or after tokenizing.
fn rejection(harness: &Harness, job: Job, on_arrival: bool) -> SubmitError {
    match harness.engine.submit(job) {
        Err(rejected) if on_arrival => rejected,
        Ok(ticket) if !on_arrival => match result(ticket).unwrap_err() {
            EmbedError::Rejected(rejected) => rejected,
            other => panic!("{other:?}"),
        },
        other => panic!("{:?}, on arrival: {on_arrival}", other.map(drop)),
    }
}

#[test]
fn a_cancelled_job_never_reaches_the_encoder() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let (cancelled, other) = (harness.submit(&[&[77]]), harness.submit(&[&[88]]));
    drop(cancelled);
    harness.release_worker(running);
    result(other).unwrap();
    assert!(harness.control.saw(88) && !harness.control.saw(77));
    harness.wait_until_idle();
}

#[test]
fn a_job_past_its_deadline_never_reaches_the_encoder() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let deadline = Instant::now() + Duration::from_millis(20);
    let late = harness.engine.submit(Job { deadline, ..job(&[&[77]]) }).unwrap();
    wait_until("the deadline passes", || Instant::now() > deadline);
    harness.control.open_gate();
    let error = result(late).unwrap_err();
    assert!(matches!(error, EmbedError::DeadlineExceeded { .. }), "{error:?}");
    result(running).unwrap();
    assert!(!harness.control.saw(77));
}

#[test]
fn a_panic_fails_only_the_jobs_of_its_batch() {
    let harness = Harness::default();
    let error = harness.embed(&[&[PANIC]]).unwrap_err();
    assert!(matches!(error, EmbedError::Panicked), "{error:?}");
    assert!(harness.embed(&[&[5]]).is_ok());
    assert_eq!(harness.control.built.load(Ordering::SeqCst), 2, "a new encoder replaces the old one");
    assert_eq!(harness.observer.failures.load(Ordering::SeqCst), 1);
    harness.wait_until_idle();
}

#[test]
fn a_failing_text_is_named_if_the_encoder_computes_the_probe() {
    let harness = Harness::default();
    let error = harness.embed(&[&[FAIL]]).unwrap_err();
    assert!(
        matches!(&error, EmbedError::Unencodable { index: 0, source } if source.to_string() == "told to fail"),
        "{error:?}"
    );
    assert_eq!(harness.control.count(FAIL), 2);
    assert_eq!(harness.control.arrivals(), 3, "the text twice, then the probe");
    assert!(harness.embed(&[&[5]]).is_ok());
    assert_eq!(harness.control.built.load(Ordering::SeqCst), 1);
    harness.wait_until_idle();
}

/// Two jobs in one batch, each with a text that fails.
#[test]
fn several_texts_of_a_batch_can_be_at_fault() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let failing = [harness.submit(&[&[FAIL]]), harness.submit(&[&[FAIL, 6]])];
    harness.release_worker(running);
    for ticket in failing {
        let error = result(ticket).unwrap_err();
        assert!(matches!(error, EmbedError::Unencodable { index: 0, .. }), "{error:?}");
    }
    harness.wait_until_idle();
}

#[test]
fn no_text_is_blamed_if_the_encoder_fails_on_the_probe_too() {
    // Faults of the batch, of each text in a batch of its own, and of the probe.
    let cases: [(&[&[u32]], &[bool]); 3] = [
        (&[&[6]], &[true, true, true]),
        (&[&[6], &[7]], &[true, true, true, true]),
        (&[&[6], &[7]], &[true, false, true, true]),
    ];
    for (texts, faults) in cases {
        let harness = Harness::default();
        harness.control.faults.lock().unwrap().extend(faults);
        let error = harness.embed(texts).unwrap_err();
        assert!(
            matches!(&error, EmbedError::Encoder(source) if source.to_string() == "told to fail"),
            "{faults:?}: {error:?}"
        );
        assert!(harness.embed(&[&[8]]).is_ok());
        harness.wait_until_idle();
    }
}

#[test]
fn a_transient_fault_fails_no_text() {
    let harness = Harness::default();
    harness.control.faults.lock().unwrap().push_back(true);
    assert_eq!(harness.embed(&[&[6]]).unwrap().vectors, vector_of(&[6]));
    assert_eq!(harness.observer.failures.load(Ordering::SeqCst), 1);
    harness.wait_until_idle();
}

#[test]
fn other_texts_in_the_batch_of_a_failing_text_are_computed() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let (before, bad, after) =
        (harness.submit(&[&[5]]), harness.submit(&[&[6], &[FAIL]]), harness.submit(&[&[7]]));
    harness.release_worker(running);
    let error = result(bad).unwrap_err();
    assert!(matches!(error, EmbedError::Unencodable { index: 1, .. }), "{error:?}");
    assert_eq!(result(before).unwrap().vectors, vector_of(&[5]));
    assert_eq!(result(after).unwrap().vectors, vector_of(&[7]));
    assert_eq!(harness.control.count(FAIL), 2, "once with the others, once in a batch of its own");
    assert_eq!(harness.observer.failures.load(Ordering::SeqCst), 2);
    harness.wait_until_idle();
}

#[test]
fn nan_fails_only_its_own_job() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    // Both jobs wait, so they run in one batch.
    let (bad, good) = (harness.submit(&[&[6], &[NAN]]), harness.submit(&[&[5]]));
    harness.release_worker(running);
    let error = result(bad).unwrap_err();
    assert!(matches!(error, EmbedError::NotFinite { index: 1 }), "{error:?}");
    assert_eq!(result(good).unwrap().vectors, vector_of(&[5]));
}

#[test]
fn draining_finishes_admitted_jobs_and_rejects_new_ones() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let admitted = harness.submit(&[&[5, 6], &[7]]);
    harness.engine.drain();
    assert_eq!(harness.engine.submit(job(&[&[5]])).unwrap_err(), SubmitError::Draining);
    harness.control.open_gate();
    assert!(harness.engine.stop(Duration::from_secs(10)));
    assert!(result(running).is_ok() && result(admitted).is_ok());
}

#[test]
fn stopping_without_grace_fails_waiting_jobs() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let waiting = harness.submit(&[&[6]]);
    let control = Arc::clone(&harness.control);
    // The running batch ends only after the waiting job has failed.
    let waiting = std::thread::spawn(move || {
        let outcome = result(waiting);
        control.open_gate();
        outcome
    });
    assert!(!harness.engine.stop(Duration::ZERO));
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error, EmbedError::Stopped), "{error:?}");
    assert!(result(running).is_ok());
}

#[test]
fn a_stall_is_reported_and_an_idle_engine_is_not_stalled() {
    let harness = Harness::default();
    assert_eq!(harness.engine.stalled_for(), None);
    let running = harness.occupy_worker();
    wait_until("the stall is reported", || {
        harness.engine.stalled_for().unwrap() >= Duration::from_millis(20)
    });
    harness.release_worker(running);
    harness.wait_until_idle();
    assert_eq!(harness.engine.stalled_for(), None);
}

#[test]
fn an_engine_with_impossible_settings_does_not_start() {
    for (broken, expected) in [
        (EngineConfig { max_input_tokens: 2, ..config() }, "no room for text next to 2 special tokens"),
        (EngineConfig { workers: 0, ..config() }, "workers must be at least 1"),
        (EngineConfig { dimensions: 5, ..config() }, "yields 4 dimensions, the settings say 5"),
    ] {
        let error = Harness::start(broken).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_engine_whose_warm_up_fails_does_not_start() {
    let started = Harness::with_encoder(EncoderKind::Failing, config());
    assert!(matches!(started, Err(StartError::Warmup(_))));
}

#[test]
fn the_golden_check_names_the_difference() {
    let harness = Harness::default();
    let right = vector_of(&[]);
    let mut wrong = right.clone();
    wrong[0] = -wrong[0];
    let check = |tokens, vector: &[f32]| {
        harness.engine.check_golden(&[GoldenText { text: "", tokens, vector }], 0.99999)
    };
    let report = check(2, &right).unwrap();
    assert!(report.texts == 1 && report.worst_cosine > 0.999_999);
    // The first values of a vector are enough.
    assert!(check(2, &right[..2]).is_ok());
    assert!(matches!(check(3, &right), Err(GoldenError::Tokens { index: 0, found: 2, expected: 3, .. })));
    assert!(matches!(check(2, &wrong), Err(GoldenError::Vector { index: 0, .. })));
    assert!(matches!(check(2, &[0.0; 5]), Err(GoldenError::Dimensions { found: 5, dimensions: 4, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// For any budgets, padding and batches, a text's vector does not depend on other texts.
    #[test]
    fn vectors_do_not_depend_on_batches(
        inputs in prop::collection::vec(prop::collection::vec(10u32..500, 0..20), 1..60),
        max_batch_tokens in 1usize..200,
        max_batch_inputs in 1usize..20,
        workers in 1usize..4,
        kind in prop::sample::select(&[EncoderKind::Ragged, EncoderKind::Padding, EncoderKind::Preemptible(10)]),
    ) {
        let config = EngineConfig { max_batch_tokens, max_batch_inputs, workers, ..config() };
        let harness = Harness::with_encoder(kind, config).unwrap();
        let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
        let found = harness.embed(&inputs).unwrap();
        let truncated: Vec<_> = inputs.iter().map(|ids| &ids[..ids.len().min(MAX_INPUT_TOKENS - 2)]).collect();
        prop_assert_eq!(found.vectors, vectors_of(&job(&truncated)));
    }
}
