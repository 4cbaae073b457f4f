//! Admission without threads.

use super::{credits::CREDIT_PER_FOOTPRINT, *};

fn admission(tokens: usize, quantum: usize) -> Arc<Admission> {
    Admission::new(Capacity { tokens, quantum, workers: 1, tokenizer_threads: 2 })
}

/// An admission with a measured throughput of 1,000 tokens per second, in which jobs without a caller have no credit.
fn measured(tokens: usize, quantum: usize) -> Arc<Admission> {
    let admission = admission(tokens, quantum);
    admission.observe_batch(quantum, Duration::from_millis(quantum as u64), 1.0);
    admission.lock().credits.spend(None, tokens);
    admission
}

fn caller(number: u64) -> Option<CallerId> {
    Some(CallerId(number))
}

fn estimate(tokens: usize) -> CostEstimate {
    CostEstimate { tokens, footprint: 1, bytes: 0 }
}

fn demand(tokens: usize) -> QueueDemand {
    QueueDemand { new: tokens, total: tokens, queued: 0 }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn patient() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Admits a job of which no text is cached and whose estimate is exact.
fn admit(
    admission: &Arc<Admission>,
    caller: Option<CallerId>,
    tokens: usize,
    deadline: Instant,
) -> Result<Reservation, SubmitError> {
    let mut reservation = admission.reserve(caller, estimate(tokens), deadline)?;
    reservation.reserve_tokens(demand(tokens), deadline)?;
    Ok(reservation)
}

#[test]
fn tokens_are_reserved_all_or_nothing_and_released() {
    let admission = admission(100, 100);
    let first = admit(&admission, None, 60, soon()).unwrap();
    assert!(matches!(admit(&admission, None, 41, soon()), Err(SubmitError::Full { .. })));
    assert_eq!((admission.tokens(), admission.jobs()), (60, 1));
    let mut second = admit(&admission, None, 40, soon()).unwrap();
    second.mark_running();
    second.mark_running();
    assert_eq!((admission.tokens(), admission.running_jobs()), (100, 1));
    drop((first, second));
    assert_eq!((admission.tokens(), admission.jobs(), admission.running_jobs()), (0, 0, 0));
    let rejected = admit(&admission, None, 101, soon()).unwrap_err();
    assert_eq!(rejected, SubmitError::TooLarge { tokens: 101, limit: 100 });
}

/// The same for footprints, which jobs hold before their token counts are known.
#[test]
fn footprints_are_reserved_all_or_nothing_and_released() {
    let admission = admission(100, 100);
    let reserve =
        |footprint| admission.reserve(None, CostEstimate { tokens: footprint, footprint, bytes: 7 }, soon());
    let mut first = reserve(60).unwrap();
    assert!(matches!(reserve(41), Err(SubmitError::Full { .. })));
    let second = reserve(40).unwrap();
    assert_eq!((admission.tokens(), admission.jobs(), admission.lock().bytes), (0, 2, 14));
    first.release_bytes();
    first.release_bytes();
    assert_eq!(admission.lock().bytes, 7);
    drop((first, second));
    let state = admission.lock();
    assert_eq!((state.jobs, state.bytes, state.footprints.tokens()), (0, 0, 0));
    drop(state);
    assert_eq!(reserve(101).unwrap_err(), SubmitError::TooLarge { tokens: 101, limit: 100 });
}

#[test]
fn a_job_that_cannot_meet_its_deadline_is_rejected_on_arrival() {
    let admission = measured(100_000, 1000);
    // Five jobs with 5,000 tokens each: 25 s of work.
    let held: Vec<_> = (0..5).map(|_| admit(&admission, None, 5_000, patient()).unwrap()).collect();
    // Fair queueing finishes a small job long before these.
    assert!(admit(&admission, None, 100, soon()).is_ok());
    let rejected = admission.reserve(None, estimate(5_000), soon()).unwrap_err();
    assert!(
        // Until 5.7 s are left of 30: then it would be admitted.
        matches!(
            rejected,
            SubmitError::DeadlineUnmeetable { retry_after } if (24..=25).contains(&retry_after.as_secs())
        ),
        "{rejected:?}"
    );
    assert_eq!(admission.retry_after(), Duration::from_secs(13));
    drop(held);
    assert_eq!(admission.retry_after(), Duration::from_secs(1));
}

/// 11 jobs of half a second each, times the safety factor of 1.75, take less than ten seconds; 12 take longer.
#[test]
fn an_admitted_job_has_the_deadline_safety_factor_to_spare() {
    let admission = measured(100_000, 100);
    let held: Vec<_> = (0..100).map_while(|_| admit(&admission, None, 500, soon()).ok()).collect();
    assert_eq!(held.len(), 11);
    let rejected = admit(&admission, None, 500, soon()).unwrap_err();
    assert_eq!(rejected, SubmitError::DeadlineUnmeetable { retry_after: Duration::from_secs(1) });
    drop(held);
    assert!(admit(&admission, None, 100_000, soon()).is_ok(), "no other job is queued");
}

/// As long as there is credit, the exact number of tokens decides, not the upper estimate.
#[test]
fn a_job_that_adds_no_tokens_is_admitted_to_a_full_queue() {
    let admission = measured(10_000, 100);
    let _full = admit(&admission, None, 10_000, soon()).unwrap();
    let late = |result| matches!(result, Err(SubmitError::DeadlineUnmeetable { .. }));
    assert!(late(admission.reserve(None, estimate(9_000), soon()).map(drop)), "there is no credit");
    admission.observe_batch(100, Duration::from_millis(100), 1.0);
    // Also a job that waits for the whole queue, which takes longer than its deadline.
    for total in [5, 10_000].repeat(50) {
        let mut reservation = admission.reserve(None, estimate(9_000), soon()).unwrap();
        reservation.reserve_tokens(QueueDemand { new: 0, total, queued: 10_000 }, soon()).unwrap();
    }
    // Rejections after tokenizing spend the credit that 100 computed tokens earned.
    let rejected = (0..100).map_while(|_| admission.reserve(None, estimate(9_000), soon()).ok());
    let rejected = rejected.map(|mut job| assert!(late(job.reserve_tokens(demand(9_000), soon()))));
    assert_eq!(rejected.count(), 100 / CREDIT_PER_FOOTPRINT);
}

/// One caller has filled its quota of the queue and continues to send single texts. Another caller sends 2,048 texts,
/// all of them cached, whose upper estimate exceeds the room.
#[test]
fn rejections_of_one_caller_spend_no_credit_of_other_callers() {
    let admission = admission(16_000, 100);
    let _held = admit(&admission, caller(1), 12_000, soon()).unwrap();
    let text = CostEstimate { tokens: 20, footprint: 3, bytes: 0 };
    let cached = CostEstimate { tokens: 9_000, footprint: 2048 * 3, bytes: 0 };
    let full = |result| matches!(result, Err(SubmitError::Full { .. }));
    let flood = || {
        let passed = (0..).map_while(|_| admission.reserve(caller(1), text, soon()).ok());
        passed.map(|mut job| assert!(full(job.reserve_tokens(demand(3), soon())))).count()
    };
    assert_eq!(flood(), 16_000 / 3);
    for _ in 0..100 {
        assert!(
            full(admission.reserve(caller(1), text, soon()).map(drop)),
            "without credit the job is rejected on arrival"
        );
        let mut other = admission.reserve(caller(2), cached, soon()).unwrap();
        other.reserve_tokens(demand(0), soon()).unwrap();
        admission.observe_batch(text.footprint * CREDIT_PER_FOOTPRINT, Duration::from_millis(1), 1.0);
        assert_eq!(flood(), 1);
    }
}

/// Jobs of equal texts wait for the same tokens, so none of them waits longer than the first.
#[test]
fn tokens_shared_by_several_jobs_are_expected_once() {
    let admission = measured(100_000, 100);
    let first = admit(&admission, None, 5_000, soon()).unwrap();
    let shares = QueueDemand { new: 0, total: 5_000, queued: 5_000 };
    let mut held: Vec<_> = (0..25).map(|_| admission.reserve(None, estimate(1), soon()).unwrap()).collect();
    for reservation in &mut held {
        reservation.reserve_tokens(shares, soon()).unwrap();
    }
    assert_eq!(admission.tokens(), 5_000);
    // The first job is cancelled. The tokens that the others share are still queued, and delay a job of other texts.
    drop(first);
    let mut other = admission.reserve(None, estimate(1), soon()).unwrap();
    let other = other.reserve_tokens(QueueDemand { new: 5_000, total: 5_000, queued: 5_000 }, soon());
    assert!(matches!(other, Err(SubmitError::DeadlineUnmeetable { .. })), "{other:?}");
}

/// On arrival, the deadline is compared with the time to tokenize the texts that wait.
#[test]
fn a_job_that_cannot_be_tokenized_in_time_is_rejected_on_arrival() {
    let admission = admission(100_000, 100);
    let texts = |bytes| CostEstimate { tokens: 1, footprint: 1, bytes };
    // Two threads, 10,000 bytes per second each. Small samples are ignored.
    admission.observe_tokenizer(10_000, Duration::from_secs(1));
    admission.observe_tokenizer(10, Duration::from_secs(1));
    let mut first = admission.reserve(None, texts(100_000), soon()).unwrap();
    let late = admission.reserve(None, texts(100_000), soon()).unwrap_err();
    // It takes 10 s; the deadline leaves 5.7 s with the safety factor.
    assert_eq!(late, SubmitError::DeadlineUnmeetable { retry_after: Duration::from_secs(5) });
    assert!(admission.reserve(None, texts(10_000), soon()).is_ok());
    first.release_bytes();
    assert!(admission.reserve(None, texts(100_000), soon()).is_ok());
}

/// A job of several quanta waits for as many rounds of a queue that new jobs keep full.
#[test]
fn each_quantum_of_a_job_waits_for_one_round() {
    let admission = measured(100_000, 250);
    let needed = |tokens| {
        let state = admission.lock();
        tokens_until_done(
            admission.capacity.quantum,
            state.computed.tokens(),
            state.computing_jobs,
            demand(tokens),
        )
    };
    // 20 jobs of one quantum each: a round is 5,000 tokens.
    let held: Vec<_> = (0..20).map(|_| admit(&admission, None, 250, patient()).unwrap()).collect();
    let waits = [100, 250, 251, 500, 750].map(|tokens| needed(tokens) - tokens);
    assert_eq!(waits, [2_000, 5_000, 10_000, 10_000, 15_000]);
    // For a job of a hundred quanta, four rounds are predicted.
    assert_eq!(needed(25_000), 20_000 + 25_000);
    drop(held);
    // Behind a single large job, a new job waits for as many tokens as its own.
    let _held = admit(&admission, None, 50_000, patient()).unwrap();
    assert_eq!([250, 500, 5_000].map(|tokens| needed(tokens) - tokens), [250, 500, 5_000]);
}

#[test]
fn the_last_quarter_is_reserved_for_callers_that_hold_few_tokens() {
    let computed = |admission: &Arc<Admission>, caller, tokens| admit(admission, caller, tokens, soon());
    let footprint = |admission: &Arc<Admission>, caller, footprint| {
        admission.reserve(caller, CostEstimate { tokens: 1, footprint, bytes: 0 }, soon())
    };
    type Reserve = fn(&Arc<Admission>, Option<CallerId>, usize) -> Result<Reservation, SubmitError>;
    for reserve in [computed as Reserve, footprint] {
        let admission = admission(800, 800);
        let reserve = |caller, tokens| reserve(&admission, caller, tokens);
        let mut held: Vec<_> = (0..6).map(|_| reserve(caller(1), 100).unwrap()).collect();
        assert!(matches!(reserve(caller(1), 100), Err(SubmitError::Full { .. })));
        // Callers that hold few tokens may use the reserved quarter.
        held.push(reserve(caller(2), 100).unwrap());
        assert!(matches!(reserve(caller(2), 100), Err(SubmitError::Full { .. })));
        held.push(reserve(caller(3), 100).unwrap());
        assert!(matches!(reserve(caller(4), 1), Err(SubmitError::Full { .. })), "the queue is full");
        drop(held);
        let state = admission.lock();
        assert_eq!((state.computed.tokens(), state.computed.callers()), (0, 0));
        assert_eq!((state.footprints.tokens(), state.footprints.callers()), (0, 0));
        drop(state);
        // A job that is alone in the queue may fill it, and so may jobs without a caller.
        drop(reserve(caller(1), 800).unwrap());
        let _half = reserve(None, 400).unwrap();
        assert!(reserve(None, 400).is_ok());
    }
}
