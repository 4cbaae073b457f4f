//! The engine's promises, on a fake encoder: order, isolation, admission, deadlines, departure, shutdown.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use inference::{
    EmbedError, EncodeError, Encoder, Engine, GoldenError, GoldenText, Input, Job, StartError, SubmitError,
    TruncationPolicy,
};
use proptest::prelude::*;

use crate::rig::{
    DIMENSIONS, FAIL, Kind, NAN, PANIC, Rig, WINDOW, answer, config, framed, job, vector_of, wait_until,
};

/// A search query's tokens are known before a thread would have woken up for them.
#[test]
fn a_small_job_is_tokenized_by_who_brings_it() {
    let rig = Rig::default();
    for number in 1..100 {
        let ticket = rig.submit(&[&[number + 10], &[number + 200]]);
        assert_eq!(rig.counts.joined.load(Ordering::SeqCst), number as usize);
        answer(ticket).unwrap();
    }
}

/// Waits until nothing is in flight any more.
fn settle(engine: &Engine) {
    wait_until("nothing is in flight", || engine.stats().tokens_in_flight == 0);
}

#[test]
fn vectors_come_in_the_callers_order() {
    let rig = Rig::default();
    let inputs: Vec<Vec<u32>> =
        (0..300).map(|n| (0..=n % 13).map(|i| 10 + (n * 7 + i) % 500).collect()).collect();
    let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
    let embeddings = rig.submit(&inputs).wait().unwrap();
    let expected: Vec<f32> = inputs.iter().flat_map(|ids| vector_of(&framed(ids))).collect();
    assert_eq!(embeddings.vectors, expected);
    assert_eq!(embeddings.tokens, inputs.iter().map(|ids| ids.len() as u32 + 2).collect::<Vec<_>>());
    assert_eq!(embeddings.total_tokens(), rig.counts.tokens.load(Ordering::SeqCst) as u64);
    assert_eq!(rig.counts.inputs.load(Ordering::SeqCst), 300);
    assert_eq!(rig.counts.waits.load(Ordering::SeqCst), 1);
    let batches = rig.counts.batches.lock().unwrap();
    assert_eq!(batches.iter().map(|batch| batch.inputs).sum::<usize>(), 300);
    assert!(batches.iter().all(|batch| batch.tokens <= 64 && batch.inputs <= 8 && batch.padding == 0));
}

#[test]
fn padding_is_counted() {
    let rig = Rig::of(Kind::Pads, config()).unwrap();
    rig.submit(&[&[5, 6, 7], &[5]]).wait().unwrap();
    let padding: usize = rig.counts.batches.lock().unwrap().iter().map(|batch| batch.padding).sum();
    assert_eq!(padding, 2);
}

#[test]
fn concurrent_jobs_are_not_mixed_up() {
    let rig = Rig::start(inference::EngineConfig { workers: 3, ..config() }).unwrap();
    std::thread::scope(|scope| {
        for client in 0..8u32 {
            let rig = &rig;
            scope.spawn(move || {
                for round in 0..50 {
                    let ids: Vec<Vec<u32>> =
                        (0..=round % 5).map(|n| vec![10 + client * 60 + round, 10 + n]).collect();
                    let inputs: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
                    let expected: Vec<f32> = inputs.iter().flat_map(|ids| vector_of(&framed(ids))).collect();
                    assert_eq!(rig.submit(&inputs).wait().unwrap().vectors, expected);
                }
            });
        }
    });
    settle(&rig.engine);
    assert_eq!(rig.engine.stats().running_requests, 0);
}

#[test]
fn overlong_inputs_follow_the_policy() {
    let rig = Rig::default();
    let long: Vec<u32> = (0..30).map(|n| 10 + n).collect();
    let submit = |truncation| rig.engine.submit(Job { truncation, ..job(&[&[7], &long]) }).unwrap().wait();

    let cut = submit(TruncationPolicy::Truncate).unwrap();
    assert_eq!((cut.tokens, cut.truncated), (vec![3, 16], 1));
    assert_eq!(cut.vectors[DIMENSIONS..], vector_of(&framed(&long[..14])));
    assert_eq!(rig.counts.truncated.load(Ordering::SeqCst), 1);

    let averaged = submit(TruncationPolicy::Average).unwrap();
    // Windows of 14, 14 and 2 tokens beside their special ones.
    assert_eq!((averaged.tokens, averaged.truncated), (vec![3, 16 + 16 + 4], 0));
    let windows = [(&long[..14], 14.0), (&long[14..28], 14.0), (&long[28..], 2.0)];
    for dimension in 0..DIMENSIONS {
        let sum: f32 = windows.iter().map(|(ids, weight)| weight * vector_of(&framed(ids))[dimension]).sum();
        assert!((averaged.vectors[DIMENSIONS + dimension] - sum / 30.0).abs() < 1e-3);
    }

    let refused = submit(TruncationPolicy::Error).unwrap_err();
    assert!(
        matches!(refused, EmbedError::InputTooLong { index: 1, tokens: 32, max_input_tokens: WINDOW }),
        "{refused:?}"
    );
    settle(&rig.engine);
}

#[test]
fn a_job_may_ask_for_a_smaller_window_but_for_no_larger_one() {
    let rig = Rig::default();
    let long: Vec<u32> = (0..30).map(|n| 10 + n).collect();
    let submit = |truncation, most| {
        let job = Job { truncation, max_input_tokens: Some(most), ..job(&[&[7], &long]) };
        rig.engine.submit(job).unwrap().wait()
    };
    let cut = submit(TruncationPolicy::Truncate, 5).unwrap();
    assert_eq!((cut.tokens, cut.truncated), (vec![3, 5], 1));
    assert_eq!(cut.vectors[DIMENSIONS..], vector_of(&framed(&long[..3])));
    let refused = submit(TruncationPolicy::Error, 5).unwrap_err();
    assert!(
        matches!(refused, EmbedError::InputTooLong { index: 1, tokens: 32, max_input_tokens: 5 }),
        "{refused:?}"
    );
    for (most, read) in [(WINDOW + 1, WINDOW), (usize::MAX, WINDOW), (0, 3)] {
        assert_eq!(submit(TruncationPolicy::Truncate, most).unwrap().tokens, [3, read as u32], "{most}");
    }
    settle(&rig.engine);
}

#[test]
fn texts_are_read_as_the_tokenizer_reads_them() {
    let rig = Rig::default();
    let text = |text: &str| Job { inputs: vec![Input::Text(text.to_owned())], ..job(&[]) };
    let blank = rig.engine.submit(text("  \u{1f} ")).unwrap().wait().unwrap();
    assert_eq!((blank.tokens, blank.vectors), (vec![2], vector_of(&framed(&[]))));
    let unknown = rig.engine.submit(job(&[&[5], &[600]])).unwrap().wait().unwrap_err();
    assert!(matches!(unknown, EmbedError::UnknownToken { index: 1, id: 600 }), "{unknown:?}");
}

#[test]
fn a_job_without_inputs_is_answered() {
    let embeddings = Rig::default().submit(&[]).wait().unwrap();
    assert_eq!((embeddings.vectors, embeddings.tokens), (vec![], vec![]));
}

#[test]
fn the_whole_jobs_tokens_are_limited() {
    let rig = Rig::default();
    let limited = |max_tokens| rig.engine.submit(Job { max_tokens, ..job(&[&[5, 6], &[7]]) }).unwrap().wait();
    assert!(limited(7).is_ok());
    let refused = limited(6).unwrap_err();
    assert!(matches!(refused, EmbedError::TooManyTokens { tokens: 7, limit: 6 }), "{refused:?}");
    settle(&rig.engine);
}

#[test]
fn a_full_queue_refuses_the_whole_job_and_recovers() {
    let rig = Rig::start(inference::EngineConfig { max_queue_tokens: 20, ..config() }).unwrap();
    let running = rig.occupy();
    let admitted = rig.submit(&[&[5, 6, 7], &[8, 9, 10]]);
    let large = job(&[&[11; 6], &[12; 6]]);
    // First after tokenizing, while the encoder is blocked; then, without credit, at the door.
    for at_the_door in [false, true] {
        let refused = refusal(&rig, large.clone(), at_the_door);
        assert!(
            matches!(refused, SubmitError::Full { retry_after } if (1..=60).contains(&retry_after.as_secs()))
        );
        for _ in 0..10 {
            let _ = rig.engine.submit(large.clone()).map(answer);
        }
    }
    assert_eq!(rig.engine.stats().queued_tokens, 10, "the refused jobs left no tokens behind");
    // Tokenizing it takes as long as the inference of 30 tokens: the whole account.
    let huge = Job { inputs: vec![Input::Text("a ".repeat(15 * 256))], ..job(&[]) };
    assert!(matches!(rig.engine.submit(huge).unwrap_err(), SubmitError::Full { .. }));
    rig.stage.open_gate();
    running.wait().unwrap();
    admitted.wait().unwrap();
    settle(&rig.engine);
    assert!(!rig.stage.saw(11) && !rig.stage.saw(12));
    rig.submit(&[&[5, 6, 7], &[8, 9, 10]]).wait().unwrap();
    assert_eq!(
        refusal(&rig, job(&[&[5; 9], &[6; 9]]), false),
        SubmitError::TooLarge { tokens: 22, limit: 20 }
    );
}

/// Its 32 inputs fill the queue at most, and tokenizing them takes as long as the inference of more tokens.
#[test]
fn an_idle_engine_admits_a_legal_job_however_long_its_texts() {
    let (window, inputs, max_queue_tokens) = (128, 32, 4096);
    let rig = Rig::start(inference::EngineConfig { max_input_tokens: window, max_queue_tokens, ..config() })
        .unwrap();
    let text = "a ".repeat(17_500);
    assert!(inputs * text.len() > max_queue_tokens * 256);
    let long = Job { inputs: vec![Input::Text(text); inputs], ..job(&[]) };
    for _ in 0..2 {
        assert_eq!(answer(rig.engine.submit(long.clone()).unwrap()).unwrap().tokens, vec![128; inputs]);
        settle(&rig.engine);
    }
    // The memory that inputs need stays limited.
    let many = Job { inputs: vec![Input::Tokens(vec![5]); 1366], ..job(&[]) };
    assert_eq!(
        rig.engine.submit(many).unwrap_err(),
        SubmitError::TooLarge { tokens: 3 * 1366, limit: max_queue_tokens }
    );
}

/// The error with which a job is refused, at the door or after tokenizing.
fn refusal(rig: &Rig, job: Job, at_the_door: bool) -> SubmitError {
    match rig.engine.submit(job) {
        Err(refused) if at_the_door => refused,
        Ok(ticket) if !at_the_door => match answer(ticket).unwrap_err() {
            EmbedError::Rejected(refused) => refused,
            other => panic!("{other:?}"),
        },
        other => panic!("{:?}, at the door: {at_the_door}", other.map(drop)),
    }
}

#[test]
fn a_caller_who_leaves_never_reaches_the_encoder() {
    let rig = Rig::default();
    let running = rig.occupy();
    let (leaves, stays) = (rig.submit(&[&[77]]), rig.submit(&[&[88]]));
    drop(leaves);
    rig.stage.open_gate();
    running.wait().unwrap();
    stays.wait().unwrap();
    assert!(rig.stage.saw(88) && !rig.stage.saw(77));
    settle(&rig.engine);
}

#[test]
fn a_late_job_never_reaches_the_encoder() {
    let rig = Rig::default();
    let running = rig.occupy();
    let late = rig
        .engine
        .submit(Job { deadline: Instant::now() + Duration::from_millis(20), ..job(&[&[77]]) })
        .unwrap();
    std::thread::sleep(Duration::from_millis(40));
    rig.stage.open_gate();
    let error = late.wait().unwrap_err();
    assert!(matches!(error, EmbedError::DeadlineExceeded { .. }), "{error:?}");
    running.wait().unwrap();
    assert!(!rig.stage.saw(77));
}

#[test]
fn a_panicking_batch_fails_alone() {
    let rig = Rig::default();
    let error = rig.submit(&[&[PANIC]]).wait().unwrap_err();
    assert!(matches!(error, EmbedError::Panicked), "{error:?}");
    assert!(rig.submit(&[&[5]]).wait().is_ok());
    assert_eq!(rig.stage.built.load(Ordering::SeqCst), 2, "a new encoder takes the place of the old");
    assert_eq!(rig.counts.failures.load(Ordering::SeqCst), 1);
    settle(&rig.engine);
}

#[test]
fn a_text_that_fails_is_named_if_the_encoder_computes_the_probe() {
    let rig = Rig::default();
    let error = rig.submit(&[&[FAIL]]).wait().unwrap_err();
    assert!(
        matches!(&error, EmbedError::Unencodable { index: 0, source } if source.to_string() == "told to fail"),
        "{error:?}"
    );
    assert_eq!(rig.stage.count(FAIL), 2);
    assert_eq!(rig.stage.arrivals(), 3, "the text twice, then the probe");
    assert!(rig.submit(&[&[5]]).wait().is_ok());
    assert_eq!(rig.stage.built.load(Ordering::SeqCst), 1);
    settle(&rig.engine);
}

/// Two jobs in one batch, each with a text that fails.
#[test]
fn all_texts_of_a_batch_can_be_at_fault() {
    let rig = Rig::default();
    let running = rig.occupy();
    let failing = [rig.submit(&[&[FAIL]]), rig.submit(&[&[FAIL, 6]])];
    rig.stage.open_gate();
    running.wait().unwrap();
    for ticket in failing {
        let error = ticket.wait().unwrap_err();
        assert!(matches!(error, EmbedError::Unencodable { index: 0, .. }), "{error:?}");
    }
    settle(&rig.engine);
}

#[test]
fn no_text_is_blamed_if_the_encoder_fails_on_the_probe_too() {
    // The batch, each text by itself, and the probe.
    let cases: [(&[&[u32]], &[bool]); 3] = [
        (&[&[6]], &[true, true, true]),
        (&[&[6], &[7]], &[true, true, true, true]),
        (&[&[6], &[7]], &[true, false, true, true]),
    ];
    for (texts, faults) in cases {
        let rig = Rig::default();
        rig.stage.faults.lock().unwrap().extend(faults);
        let error = rig.submit(texts).wait().unwrap_err();
        assert!(
            matches!(&error, EmbedError::Encoder(source) if source.to_string() == "told to fail"),
            "{faults:?}: {error:?}"
        );
        assert!(rig.submit(&[&[8]]).wait().is_ok());
        settle(&rig.engine);
    }
}

#[test]
fn a_fault_that_passes_fails_no_text() {
    let rig = Rig::default();
    rig.stage.faults.lock().unwrap().push_back(true);
    assert_eq!(rig.submit(&[&[6]]).wait().unwrap().vectors, vector_of(&framed(&[6])));
    assert_eq!(rig.counts.failures.load(Ordering::SeqCst), 1);
    settle(&rig.engine);
}

/// The encoder refuses a batch, whichever of its texts is to blame.
#[test]
fn the_company_of_a_failing_text_is_answered() {
    let rig = Rig::default();
    let running = rig.occupy();
    let (before, bad, after) = (rig.submit(&[&[5]]), rig.submit(&[&[6], &[FAIL]]), rig.submit(&[&[7]]));
    rig.stage.open_gate();
    running.wait().unwrap();
    let error = bad.wait().unwrap_err();
    assert!(matches!(error, EmbedError::Unencodable { index: 1, .. }), "{error:?}");
    assert_eq!(before.wait().unwrap().vectors, vector_of(&framed(&[5])));
    assert_eq!(after.wait().unwrap().vectors, vector_of(&framed(&[7])));
    assert_eq!(rig.stage.count(FAIL), 2, "once with the others, once alone");
    assert_eq!(rig.counts.failures.load(Ordering::SeqCst), 2);
    settle(&rig.engine);
}

#[test]
fn nan_fails_its_own_job_only() {
    let rig = Rig::default();
    let running = rig.occupy();
    // Both wait, so both come into one batch.
    let (bad, good) = (rig.submit(&[&[6], &[NAN]]), rig.submit(&[&[5]]));
    rig.stage.open_gate();
    running.wait().unwrap();
    let error = bad.wait().unwrap_err();
    assert!(matches!(error, EmbedError::NotFinite { index: 1 }), "{error:?}");
    assert_eq!(good.wait().unwrap().vectors, vector_of(&framed(&[5])));
}

#[test]
fn draining_finishes_what_was_admitted_and_nothing_else() {
    let rig = Rig::default();
    let running = rig.occupy();
    let admitted = rig.submit(&[&[5, 6], &[7]]);
    rig.engine.drain();
    assert_eq!(rig.engine.submit(job(&[&[5]])).unwrap_err(), SubmitError::Draining);
    rig.stage.open_gate();
    assert!(rig.engine.stop(Duration::from_secs(10)));
    assert!(running.wait().is_ok() && admitted.wait().is_ok());
}

#[test]
fn stopping_without_grace_fails_what_waits() {
    let rig = Rig::default();
    let running = rig.occupy();
    let waiting = rig.submit(&[&[6]]);
    let stage = Arc::clone(&rig.stage);
    // The running batch ends only when the waiting job was failed.
    let waiting = std::thread::spawn(move || {
        let result = waiting.wait();
        stage.open_gate();
        result
    });
    assert!(!rig.engine.stop(Duration::ZERO));
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error, EmbedError::Stopped), "{error:?}");
    assert!(running.wait().is_ok());
}

#[test]
fn a_stall_is_noticed_and_idleness_is_none() {
    let rig = Rig::default();
    assert_eq!(rig.engine.stalled_for(), None);
    let running = rig.occupy();
    std::thread::sleep(Duration::from_millis(30));
    assert!(rig.engine.stalled_for().unwrap() >= Duration::from_millis(20));
    rig.stage.open_gate();
    running.wait().unwrap();
    settle(&rig.engine);
    assert_eq!(rig.engine.stalled_for(), None);
}

#[test]
fn contradictory_settings_do_not_start() {
    for (broken, expected) in [
        (
            inference::EngineConfig { max_input_tokens: 2, ..config() },
            "no room for text next to 2 special tokens",
        ),
        (inference::EngineConfig { workers: 0, ..config() }, "workers must be at least 1"),
        (inference::EngineConfig { dimensions: 5, ..config() }, "yields 4 dimensions, the settings say 5"),
    ] {
        let error = Rig::start(broken).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_failing_warm_up_does_not_start() {
    struct Broken;
    impl Encoder for Broken {
        fn dimensions(&self) -> usize {
            DIMENSIONS
        }
        fn needs_padding(&self) -> bool {
            false
        }
        fn encode(
            &mut self,
            _: &inference::Batch,
            _: &mut dyn FnMut() -> usize,
            _: &mut [f32],
        ) -> Result<(), EncodeError> {
            Err(EncodeError::Other("no".to_owned()))
        }
    }
    let encoders: inference::EncoderFactory = Arc::new(|| Ok(Box::new(Broken)));
    assert!(matches!(Engine::start(config(), &encoders, Arc::new(())), Err(StartError::Warmup(_))));
}

#[test]
fn golden_texts_hold_or_say_what_differs() {
    let rig = Rig::default();
    let right = vector_of(&framed(&[]));
    let mut wrong = right.clone();
    wrong[0] = -wrong[0];
    let check =
        |tokens, vector: &[f32]| rig.engine.check_golden(&[GoldenText { text: "", tokens, vector }], 0.99999);
    let report = check(2, &right).unwrap();
    assert!(report.texts == 1 && report.worst_cosine > 0.999_999);
    // The first values alone do, too.
    assert!(check(2, &right[..2]).is_ok());
    assert!(matches!(check(3, &right), Err(GoldenError::Tokens { index: 0, found: 2, expected: 3, .. })));
    assert!(matches!(check(2, &wrong), Err(GoldenError::Vector { index: 0, .. })));
    assert!(matches!(check(2, &[0.0; 5]), Err(GoldenError::Dimensions { found: 5, dimensions: 4, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the budgets, the padding and the company: a text's vector is its own.
    #[test]
    fn any_job_gets_its_own_vectors(
        inputs in prop::collection::vec(prop::collection::vec(10u32..500, 0..20), 1..60),
        max_batch_tokens in 1usize..200,
        max_batch_inputs in 1usize..20,
        workers in 1usize..4,
        kind in prop::sample::select(&[Kind::Ragged, Kind::Pads, Kind::Pauses(10)]),
    ) {
        let config = inference::EngineConfig { max_batch_tokens, max_batch_inputs, workers, ..config() };
        let rig = Rig::of(kind, config).unwrap();
        let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
        let found = rig.submit(&inputs).wait().unwrap();
        let expected: Vec<f32> =
            inputs.iter().flat_map(|ids| vector_of(&framed(&ids[..ids.len().min(WINDOW - 2)]))).collect();
        prop_assert_eq!(found.vectors, expected);
    }
}
