//! The order of batches, and preemption.

use inference::{Batch, EmbedError, EngineConfig, Ticket};

use crate::harness::{
    EncoderKind, FAIL, Harness, PANIC, config, job, long_job, result, vector_of, vectors_of, wait_until,
};

/// An id that every input of a long job holds, and no other input.
const LONG: u32 = 501;

fn contains(batch: &Batch, id: u32) -> bool {
    batch.ids().contains(&id)
}

/// A harness in which every worker runs a batch of a long job of 100 inputs, which does not end before the gate opens.
fn with_long_job_running(workers: usize) -> (Harness, Ticket) {
    let config = EngineConfig { workers, ..config() };
    let harness = Harness::with_encoder(EncoderKind::Preemptible(LONG), config).unwrap();
    harness.control.close_gate();
    let long = harness.engine.submit(long_job(LONG, 100)).unwrap();
    wait_until("every worker is in a batch", || harness.control.arrivals() == workers);
    (harness, long)
}

#[test]
fn a_single_text_runs_before_the_rest_of_a_long_job() {
    for workers in 1..4 {
        let harness = Harness::start(EngineConfig { workers, ..config() }).unwrap();
        harness.control.close_gate();
        let long = harness.engine.submit(long_job(LONG, 2048)).unwrap();
        wait_until("every worker is at the gate", || harness.control.arrivals() == workers);
        let queued = harness.engine.stats().queued_tokens;
        let single = harness.submit(&[&[502]]);
        wait_until("the text is queued", || harness.engine.stats().queued_tokens == queued + 3);
        harness.control.let_one_pass();
        wait_until("a worker took the next batch", || harness.control.arrivals() == workers + 1);
        let next = harness.control.arrived.lock().unwrap()[workers].0.clone();
        assert!(contains(&next, 502) && next.len() == 1, "{workers} workers: {next:?}");
        harness.control.open_gate();
        result(single).unwrap();
        result(long).unwrap();
        let arrived = harness.control.arrived.lock().unwrap();
        assert_eq!(arrived.iter().map(|(batch, _)| batch.len()).sum::<usize>(), 2049);
    }
}

#[test]
fn a_single_text_preempts_a_batch_of_a_long_job() {
    for workers in 1..4 {
        let (harness, long) = with_long_job_running(workers);
        assert_eq!(harness.embed(&[&[502]]).unwrap().vectors, vector_of(&[502]));
        assert_eq!(harness.control.count(LONG), 0);
        harness.control.open_gate();
        assert!(result(long).unwrap().vectors == vectors_of(&long_job(LONG, 100)));
    }
}

#[test]
fn a_batch_is_preempted_by_at_most_its_own_tokens() {
    let (harness, long) = with_long_job_running(1);
    // The batch has 8 texts of 5 tokens. Of texts of 3 tokens, 14 start before 40 tokens have run.
    for id in 100..114 {
        harness.embed(&[&[id]]).unwrap();
    }
    let next = harness.submit_and_wait_for_lookup(job(&[&[114]]));
    // The long job's next batch runs first, and the text preempts it.
    harness.control.let_one_pass();
    result(next).unwrap();
    let ran: Vec<bool> =
        harness.control.arrived.lock().unwrap().iter().map(|(batch, _)| contains(batch, LONG)).collect();
    assert_eq!(ran, [&[true], [false; 14].as_slice(), &[true, false]].concat());
    harness.control.open_gate();
    result(long).unwrap();
}

#[test]
fn a_preempted_batch_survives_a_panic_of_the_preempting_one() {
    let (harness, long) = with_long_job_running(1);
    assert!(matches!(harness.embed(&[&[PANIC]]), Err(EmbedError::Panicked)));
    assert!(matches!(harness.embed(&[&[FAIL]]), Err(EmbedError::Unencodable { index: 0, .. })));
    harness.embed(&[&[502]]).unwrap();
    harness.control.open_gate();
    result(long).unwrap();
}

#[test]
fn jobs_of_one_text_share_full_batches() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let tickets: Vec<_> = (100..500).map(|id| harness.submit_and_wait_for_lookup(job(&[&[id]]))).collect();
    wait_until("all are queued", || harness.engine.stats().queued_tokens == 400 * 3);
    harness.release_worker(running);
    for (ticket, id) in tickets.into_iter().zip(100..) {
        assert_eq!(result(ticket).unwrap().vectors, vector_of(&[id]));
    }
    // Eight in each batch, after the one at the gate.
    assert_eq!(harness.control.arrivals(), 1 + 400 / 8);
    assert_eq!(harness.engine.stats().queued_tokens, 0);
}

#[test]
fn the_rest_of_a_cancelled_long_job_is_not_computed() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    let long = harness.engine.submit(long_job(LONG, 500)).unwrap();
    wait_until("the job is queued", || harness.engine.stats().queued_tokens == 500 * 5);
    let single = harness.submit_and_wait_for_lookup(job(&[&[502]]));
    drop(long);
    harness.release_worker(running);
    result(single).unwrap();
    assert!(!harness.control.saw(LONG));
    assert_eq!(harness.engine.stats().queued_tokens, 0);
}

/// An engine with three workers, at least two of them idle.
fn with_idle_workers() -> Harness {
    let harness =
        Harness::start(EngineConfig { workers: 3, max_batch_tokens: 512, max_batch_inputs: 512, ..config() })
            .unwrap();
    let idle_workers = || harness.control.arrived.lock().unwrap().last().map(|(_, idle)| *idle);
    let mut ids = 10..500;
    wait_until("two workers are idle while one works", || {
        harness.embed(&[&[ids.next().unwrap()]]).unwrap();
        idle_workers() == Some(2)
    });
    harness.control.arrived.lock().unwrap().clear();
    harness
}

#[test]
fn the_encoder_is_told_the_number_of_idle_workers() {
    let harness = with_idle_workers();
    harness.embed(&[&[501]]).unwrap();
    let arrived = harness.control.arrived.lock().unwrap();
    assert!((1..=2).contains(&arrived[0].1), "{} idle workers", arrived[0].1);
}

#[test]
fn the_last_tokens_are_split_between_idle_workers() {
    let harness = with_idle_workers();
    harness.control.close_gate();
    let ticket = harness.engine.submit(long_job(LONG, 60)).unwrap();
    wait_until("all texts are in batches", || {
        let arrived = harness.control.arrived.lock().unwrap();
        arrived.iter().map(|(batch, _)| batch.len()).sum::<usize>() == 60
    });
    // 300 tokens would fit one batch, but at least one other worker was idle.
    assert!(harness.control.arrived.lock().unwrap().iter().all(|(batch, _)| batch.tokens() <= 150));
    harness.control.open_gate();
    result(ticket).unwrap();
}
