//! Whose turn it is, counted in batches.

use inference::{Batch, EmbedError, EngineConfig};

use crate::rig::{FAIL, Kind, PANIC, Rig, answer, config, framed, job, vector_of, wait_until};

fn holds(batch: &Batch, id: u32) -> bool {
    batch.ids().contains(&id)
}

/// Inputs that no other job has: `id` and two that count.
fn long_job(id: u32, texts: u32) -> Vec<[u32; 3]> {
    (0..texts).map(|n| [id, 10 + n / 50, 100 + n % 50]).collect()
}

#[test]
fn a_single_text_is_next_however_long_the_job_before_it() {
    for workers in 1..4 {
        let rig = Rig::start(EngineConfig { workers, ..config() }).unwrap();
        rig.stage.close_gate();
        let long = long_job(501, 2048);
        let long: Vec<&[u32]> = long.iter().map(<[u32; 3]>::as_slice).collect();
        let large = rig.submit(&long);
        wait_until("every worker is at the gate", || rig.stage.arrivals() == workers);
        let queued = rig.engine.stats().queued_tokens;
        let single = rig.submit(&[&[502]]);
        wait_until("the text is queued", || rig.engine.stats().queued_tokens == queued + 3);
        rig.stage.let_one_through();
        wait_until("a worker took the next batch", || rig.stage.arrivals() == workers + 1);
        let next = rig.stage.arrived.lock().unwrap()[workers].0.clone();
        assert!(holds(&next, 502) && next.len() == 1, "{workers} workers: {next:?}");
        rig.stage.open_gate();
        answer(single).unwrap();
        answer(large).unwrap();
        let arrived = rig.stage.arrived.lock().unwrap();
        assert_eq!(arrived.iter().map(|(batch, _)| batch.len()).sum::<usize>(), 2049);
    }
}

/// Every worker is in the middle of a long job's batch that does not end.
#[test]
fn a_single_text_is_answered_while_a_batch_pauses() {
    for workers in 1..4 {
        let rig = Rig::of(Kind::Pauses(501), EngineConfig { workers, ..config() }).unwrap();
        rig.stage.close_gate();
        let long = long_job(501, 100);
        let long: Vec<&[u32]> = long.iter().map(<[u32; 3]>::as_slice).collect();
        let large = rig.submit(&long);
        wait_until("every worker is in a batch", || rig.stage.arrivals() == workers);
        assert_eq!(answer(rig.submit(&[&[502]])).unwrap().vectors, vector_of(&framed(&[502])));
        assert_eq!(rig.stage.count(501), 0);
        rig.stage.open_gate();
        let found = answer(large).unwrap().vectors;
        let expected: Vec<f32> = long.iter().flat_map(|ids| vector_of(&framed(ids))).collect();
        assert!(found == expected);
    }
}

#[test]
fn a_batch_gives_way_to_no_more_than_itself() {
    let rig = Rig::of(Kind::Pauses(501), config()).unwrap();
    rig.stage.close_gate();
    let long = long_job(501, 100);
    let long: Vec<&[u32]> = long.iter().map(<[u32; 3]>::as_slice).collect();
    let large = rig.submit(&long);
    wait_until("the worker is in a batch", || rig.stage.arrivals() == 1);
    // Eight texts of 5 tokens: 14 texts of 3 begin before as many have run.
    for id in 100..114 {
        answer(rig.submit(&[&[id]])).unwrap();
    }
    let next = rig.join(job(&[&[114]]));
    // The next batch is the long job's again, and the text runs in the middle of that.
    rig.stage.let_one_through();
    answer(next).unwrap();
    let ran: Vec<bool> =
        rig.stage.arrived.lock().unwrap().iter().map(|(batch, _)| holds(batch, 501)).collect();
    assert_eq!(ran, [&[true], [false; 14].as_slice(), &[true, false]].concat());
    rig.stage.open_gate();
    answer(large).unwrap();
}

#[test]
fn a_batch_whose_pause_panics_goes_on() {
    let rig = Rig::of(Kind::Pauses(501), config()).unwrap();
    rig.stage.close_gate();
    let long = long_job(501, 100);
    let long: Vec<&[u32]> = long.iter().map(<[u32; 3]>::as_slice).collect();
    let large = rig.submit(&long);
    wait_until("the worker is in a batch", || rig.stage.arrivals() == 1);
    assert!(matches!(answer(rig.submit(&[&[PANIC]])), Err(EmbedError::Panicked)));
    assert!(matches!(answer(rig.submit(&[&[FAIL]])), Err(EmbedError::Unencodable { index: 0, .. })));
    answer(rig.submit(&[&[502]])).unwrap();
    rig.stage.open_gate();
    answer(large).unwrap();
}

#[test]
fn jobs_of_one_text_come_in_order_and_together() {
    let rig = Rig::default();
    let running = rig.occupy();
    let tickets: Vec<_> = (100..500).map(|id| rig.join(job(&[&[id]]))).collect();
    wait_until("all are queued", || rig.engine.stats().queued_tokens == 400 * 3);
    rig.stage.open_gate();
    answer(running).unwrap();
    for (ticket, id) in tickets.into_iter().zip(100..) {
        assert_eq!(answer(ticket).unwrap().vectors, vector_of(&framed(&[id])));
    }
    // Eight at a time, after the one at the gate.
    assert_eq!(rig.stage.arrivals(), 1 + 400 / 8);
    assert_eq!(rig.engine.stats().queued_tokens, 0);
}

#[test]
fn what_is_left_of_a_long_job_whose_caller_left_is_not_computed() {
    let rig = Rig::default();
    let running = rig.occupy();
    let long = long_job(501, 500);
    let long: Vec<&[u32]> = long.iter().map(<[u32; 3]>::as_slice).collect();
    let large = rig.submit(&long);
    wait_until("the job is queued", || rig.engine.stats().queued_tokens == 500 * 5);
    let single = rig.join(job(&[&[502]]));
    drop(large);
    rig.stage.open_gate();
    answer(single).unwrap();
    answer(running).unwrap();
    assert!(!rig.stage.saw(501));
    assert_eq!(rig.engine.stats().queued_tokens, 0);
}

/// An engine of three workers of which at least two wait for work.
fn idle_workers() -> Rig {
    let rig =
        Rig::start(EngineConfig { workers: 3, max_batch_tokens: 512, max_batch_inputs: 512, ..config() })
            .unwrap();
    let spare = || rig.stage.arrived.lock().unwrap().last().map(|(_, spare)| *spare);
    let mut ids = 10..500;
    wait_until("two workers wait while one works", || {
        answer(rig.submit(&[&[ids.next().unwrap()]])).unwrap();
        spare() == Some(2)
    });
    rig.stage.arrived.lock().unwrap().clear();
    rig
}

#[test]
fn a_lone_text_is_told_of_the_workers_without_work() {
    let rig = idle_workers();
    answer(rig.submit(&[&[501]])).unwrap();
    let arrived = rig.stage.arrived.lock().unwrap();
    assert!((1..=2).contains(&arrived[0].1), "{} spare workers", arrived[0].1);
}

#[test]
fn the_last_block_leaves_work_for_who_is_idle() {
    let rig = idle_workers();
    rig.stage.close_gate();
    let inputs = long_job(501, 60);
    let inputs: Vec<&[u32]> = inputs.iter().map(<[u32; 3]>::as_slice).collect();
    let ticket = rig.submit(&inputs);
    wait_until("nothing waits", || {
        let arrived = rig.stage.arrived.lock().unwrap();
        arrived.iter().map(|(batch, _)| batch.len()).sum::<usize>() == 60
    });
    // 300 tokens would fit one batch, but at least one other worker waited.
    assert!(rig.stage.arrived.lock().unwrap().iter().all(|(batch, _)| batch.tokens() <= 150));
    rig.stage.open_gate();
    answer(ticket).unwrap();
}
