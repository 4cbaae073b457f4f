//! Jobs are refused by the tokens that must be computed for them, without those that caches and single-flight save.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use inference::{EmbedError, Input, Job, SubmitError};

use crate::{
    rig::{Rig, answer, framed, job, vector_of, wait_until},
    tier::{self, Store},
};

/// Jobs that are in flight together.
const JOBS: usize = 60;
/// Inputs of each, and their tokens.
const TEXTS: u32 = 2048;
const TOKENS: usize = 5 * TEXTS as usize;

/// 2,048 inputs that no job with another `id` has.
fn large_job(id: u32, deadline: Duration) -> Job {
    let inputs = (0..TEXTS).map(|n| Input::Tokens(vec![id, 10 + n / 50, 100 + n % 50])).collect();
    Job { inputs, deadline: Instant::now() + deadline, ..job(&[]) }
}

fn vectors(job: &Job) -> Vec<f32> {
    let vector = |input: &Input| match input {
        Input::Tokens(ids) => vector_of(&framed(ids)),
        Input::Text(text) => panic!("{text}"),
    };
    job.inputs.iter().flat_map(vector).collect()
}

/// Has the engine learn that 16 tokens take 50 ms or more, so that it computes 320 tokens per second at most.
fn learn_to_be_slow(rig: &Rig) {
    rig.stage.close_gate();
    let before = rig.stage.arrivals();
    let ticket = rig.submit(&[&[7; 14]]);
    wait_until("the encoder has the batch", || rig.stage.arrivals() > before);
    let end = Instant::now() + Duration::from_millis(50);
    wait_until("the batch has taken its time", || Instant::now() >= end);
    rig.stage.open_gate();
    answer(ticket).unwrap();
}

/// The encoder is blocked, and would be far too slow for the upper estimate of any of these jobs.
#[test]
fn jobs_answered_by_a_cache_are_not_refused_however_slow_the_encoder() {
    let store = Arc::new(Store::default());
    let expected = vectors(&large_job(501, Duration::ZERO));
    {
        let other = tier::rig(&store, "a", 1 << 20);
        let found = answer(other.engine.submit(large_job(501, Duration::from_secs(60))).unwrap()).unwrap();
        assert!(found.vectors == expected);
        // When the engine has stopped, all puts have arrived in the store.
    }
    let rig = tier::rig(&store, "a", 1 << 20);
    learn_to_be_slow(&rig);
    let running = rig.occupy();
    for cache in ["the remote cache", "memory"] {
        let submit = |_| rig.engine.submit(large_job(501, Duration::from_secs(30)));
        let tickets: Vec<_> = (0..JOBS).map(submit).collect();
        for ticket in tickets {
            let found = answer(ticket.unwrap_or_else(|error| panic!("{cache}: {error}"))).unwrap();
            assert!(found.vectors == expected, "{cache}");
        }
    }
    assert!(!rig.stage.saw(501));
    rig.stage.open_gate();
    answer(running).unwrap();
}

#[test]
fn jobs_of_equal_texts_are_expected_to_take_as_long_as_one() {
    let rig = Rig::default();
    learn_to_be_slow(&rig);
    rig.stage.close_gate();
    // Enough for one job, even if the encoder were 50 times slower still, but not for 60.
    let deadline = Duration::from_secs(2400);
    let tickets: Vec<_> = (0..JOBS).map(|_| rig.engine.submit(large_job(501, deadline)).unwrap()).collect();
    wait_until("all have joined", || rig.counts.cache()[3] >= (JOBS - 1) * TEXTS as usize);
    wait_until("their texts are queued once", || rig.engine.stats().tokens_in_flight == TOKENS);
    rig.stage.open_gate();
    let expected = vectors(&large_job(501, deadline));
    for ticket in tickets {
        assert!(answer(ticket).unwrap().vectors == expected);
    }
    assert_eq!(rig.stage.count(501), TEXTS as usize);
}

#[test]
fn a_job_whose_tokens_cannot_be_computed_in_time_is_refused_before_the_encoder() {
    let rig = Rig::default();
    learn_to_be_slow(&rig);
    let running = rig.occupy();
    // 32 s of work or more.
    let late = rig.engine.submit(large_job(501, Duration::from_secs(20))).unwrap();
    let error = answer(late).unwrap_err();
    assert!(matches!(error, EmbedError::Rejected(SubmitError::DeadlineUnmeetable { .. })), "{error:?}");
    assert_eq!(rig.engine.stats().queued_tokens, 0);
    // Other jobs with more time still get vectors for the same texts.
    let patient = large_job(501, Duration::from_secs(3600));
    let patient = Job { inputs: patient.inputs[..9].to_vec(), ..patient };
    let expected = vectors(&patient);
    let patient = rig.engine.submit(patient).unwrap();
    rig.stage.open_gate();
    assert!(answer(patient).unwrap().vectors == expected);
    assert_eq!(rig.stage.count(501), 9);
    answer(running).unwrap();
}
