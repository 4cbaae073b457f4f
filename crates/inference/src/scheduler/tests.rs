//! The scheduler without threads.

use super::{job_queue::REAP_PER_SELECTION, *};
use crate::{
    admission::{CallerId, Capacity, CostEstimate},
    cache::inflight::CoalesceResult,
};

const BUDGET: BatchBudget = BatchBudget { tokens: 64, inputs: 4, needs_padding: false };

struct Fixture {
    scheduler: Scheduler,
    admission: Arc<Admission>,
    inflight: Arc<InflightMap>,
}

impl Fixture {
    fn new() -> Self {
        Self::with_capacity(1 << 20)
    }

    fn with_capacity(tokens: usize) -> Self {
        let capacity = Capacity { tokens, quantum: 1 << 20, workers: 1, tokenizer_threads: 1 };
        let (admission, inflight) = (Admission::new(capacity), Arc::new(InflightMap::default()));
        let scheduler = Scheduler::new(Arc::clone(&admission), Arc::clone(&inflight), BUDGET.tokens);
        Self { scheduler, admission, inflight }
    }

    /// Queues a job with a sequence of each length. The ids are the job's name, the position, and zeros, so no other
    /// job has them.
    fn enqueue(&self, name: u32, lengths: &[usize]) -> Arc<JobState> {
        self.enqueue_until(name, lengths, later())
    }

    fn enqueue_for(&self, caller: u64, name: u32, lengths: &[usize]) -> Arc<JobState> {
        self.enqueue_ids(Some(CallerId(caller)), &sequences(name, lengths), later())
    }

    fn enqueue_until(&self, name: u32, lengths: &[usize], deadline: Instant) -> Arc<JobState> {
        self.enqueue_ids(None, &sequences(name, lengths), deadline)
    }

    fn enqueue_ids(
        &self,
        caller: Option<CallerId>,
        sequences: &[Vec<u32>],
        deadline: Instant,
    ) -> Arc<JobState> {
        let (job, to_queue) = self.subscribe(caller, sequences, deadline);
        self.scheduler.enqueue(Arc::clone(&job), to_queue);
        job
    }

    /// A job that is not queued yet, and the sequences to queue.
    fn subscribe(
        &self,
        caller: Option<CallerId>,
        sequences: &[Vec<u32>],
        deadline: Instant,
    ) -> (Arc<JobState>, Vec<SequenceRef>) {
        let estimate = CostEstimate { tokens: 1, footprint: 1, bytes: 0 };
        let reservation = self.admission.reserve(caller, estimate, Instant::now()).unwrap();
        let (job, _) = JobState::new(caller, deadline, reservation);
        let mut result = CoalesceResult::default();
        let sequences = sequences.iter().map(|ids| ids.as_slice().into()).enumerate();
        self.inflight.get_or_subscribe(sequences, &job, None, &mut result);
        (job, result.to_queue)
    }

    /// The next batch, as (job, position) pairs.
    fn take(&self) -> Vec<(u32, u32)> {
        let batch = self.scheduler.take_batch(BUDGET).unwrap();
        self.inflight.remove_completed(&batch.sequences);
        let ids = batch.sequences.iter().map(|sequence| &sequence.key().ids);
        let mut batch: Vec<_> = ids.map(|ids| (ids[0], ids[1])).collect();
        batch.sort_unstable();
        batch
    }
}

fn sequences(name: u32, lengths: &[usize]) -> Vec<Vec<u32>> {
    let sequence = |(position, &length): (usize, &usize)| {
        let mut ids = vec![0; length];
        ids[..2].copy_from_slice(&[name, position as u32]);
        ids
    };
    lengths.iter().enumerate().map(sequence).collect()
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn a_short_job_overtakes_a_long_one() {
    let fixture = Fixture::new();
    fixture.enqueue(1, &[16; 100]);
    assert_eq!(fixture.take(), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    fixture.enqueue(2, &[10]);
    // It runs alone although the batch has room: sequences of the long job would delay it.
    assert_eq!(fixture.take(), [(2, 0)]);
    assert_eq!(fixture.scheduler.tokens(), 16 * 96);
}

#[test]
fn a_long_job_is_overtaken_once_for_each_of_its_batches() {
    let fixture = Fixture::new();
    fixture.enqueue(1, &[16; 100]);
    for name in 2..6 {
        fixture.enqueue(name, &[60]);
    }
    let order: Vec<u32> = (0..8).map(|_| fixture.take()[0].0).collect();
    // One job overtakes it, then its own batch runs. After that its start tag is behind those of the others.
    assert_eq!(order, [2, 1, 3, 4, 5, 1, 1, 1]);
    // With new jobs coming, it gets one batch of three.
    let order = (6..9).flat_map(|name| {
        fixture.enqueue(name, &[60]);
        fixture.enqueue(name + 10, &[60]);
        [fixture.take()[0].0, fixture.take()[0].0, fixture.take()[0].0]
    });
    assert_eq!(order.collect::<Vec<_>>(), [6, 1, 16, 7, 1, 17, 8, 1, 18]);
}

#[test]
fn short_jobs_may_preempt_a_batch_of_a_long_job() {
    let fixture = Fixture::new();
    let take = || fixture.scheduler.take_batch(BUDGET).map(|batch| batch.is_preemptible);
    let preempt = || {
        let batch = fixture.scheduler.take_preempting_batch(BUDGET);
        batch.map(|batch| (batch.is_preemptible, batch.tokens()))
    };
    fixture.enqueue(1, &[16; 100]);
    assert_eq!((take(), preempt()), (Some(true), None), "no short job is queued");
    fixture.enqueue(2, &[10]);
    fixture.enqueue(3, &[20]);
    assert_eq!((preempt(), preempt()), (Some((false, 30)), None));
    fixture.enqueue(4, &[10]);
    // The long job was overtaken, so its batch is next, and then the short job's.
    assert_eq!([take(), take(), take()], [Some(true), Some(false), Some(true)]);
    fixture.enqueue(5, &[10]).fail(EmbedError::Stopped);
    assert_eq!(preempt(), None, "the short job is finished");
    assert_eq!(fixture.scheduler.tokens(), 16 * 88);
}

#[test]
fn callers_alternate_for_any_number_of_jobs() {
    let fixture = Fixture::new();
    for name in 10..20 {
        fixture.enqueue_for(1, name, &[60]);
    }
    fixture.enqueue_for(2, 30, &[60]);
    fixture.enqueue_for(2, 31, &[60]);
    let order: Vec<u32> = (0..6).map(|_| fixture.take()[0].0).collect();
    assert_eq!(order, [10, 30, 11, 31, 12, 13]);
}

#[test]
fn short_jobs_share_a_batch() {
    let fixture = Fixture::new();
    fixture.enqueue(1, &[10, 10]);
    fixture.enqueue(2, &[10]);
    fixture.enqueue(3, &[10]);
    assert_eq!(fixture.take(), [(1, 0), (1, 1), (2, 0), (3, 0)]);
    assert_eq!(fixture.scheduler.tokens(), 0);
}

#[test]
fn sequences_that_do_not_fit_keep_their_order() {
    let fixture = Fixture::new();
    fixture.enqueue(1, &[40, 20]);
    fixture.enqueue(2, &[30, 20, 10]);
    // The longest sequences of both do not fit together. The second job is next.
    assert_eq!(fixture.take(), [(1, 0), (1, 1)]);
    assert_eq!(fixture.take(), [(2, 0), (2, 1), (2, 2)]);
    fixture.enqueue(3, &[30]);
    fixture.enqueue(4, &[40, 10]);
    assert_eq!(fixture.take(), [(3, 0), (4, 1)]);
    assert_eq!(fixture.take(), [(4, 0)]);
    assert_eq!(fixture.scheduler.tokens(), 0);
}

#[test]
fn cancelled_and_late_jobs_are_skipped() {
    let fixture = Fixture::new();
    let cancelled = fixture.enqueue(1, &[10]);
    cancelled.fail(EmbedError::Stopped);
    let late = fixture.enqueue_until(2, &[10], Instant::now());
    fixture.enqueue(3, &[10]);
    assert_eq!(fixture.take(), [(3, 0)]);
    assert!(late.is_finished());
    assert_eq!((fixture.scheduler.tokens(), fixture.inflight.len()), (0, 0));
}

#[test]
fn cancelled_jobs_far_from_the_front_are_reaped() {
    let fixture = Fixture::new();
    fixture.enqueue(0, &[60; 40]);
    for name in 1..=100 {
        fixture.enqueue(name, &[60, 60]).fail(EmbedError::Stopped);
    }
    fixture.enqueue(101, &[60]);
    let order = (0..).take_while(|_| fixture.take() != [(101, 0)]).count();
    assert!(order <= 1, "{order}");
    for _ in 0..100 / REAP_PER_SELECTION {
        fixture.take();
    }
    let left = 39 - order - 100 / REAP_PER_SELECTION + 1;
    assert_eq!((fixture.scheduler.tokens(), fixture.inflight.len()), (60 * left, left));
}

#[test]
fn equal_sequences_are_claimed_once() {
    let fixture = Fixture::new();
    let common = vec![7; 20];
    let first = fixture.enqueue_ids(None, &[vec![1; 30], common.clone()], later());
    let second = fixture.enqueue_ids(None, &[common.clone(), vec![2; 30], common.clone()], later());
    assert_eq!(fixture.scheduler.tokens(), 80);
    // The four references are three candidates: one of each job, and the common one.
    assert_eq!(fixture.take(), [(1, 1), (2, 2)]);
    first.fail(EmbedError::Stopped);
    // The first job is finished; the second job's own reference is still queued.
    assert_eq!(fixture.take(), [(7, 7)]);
    assert_eq!((fixture.scheduler.tokens(), fixture.inflight.len()), (0, 0));
    // A sequence whose jobs are all finished is removed.
    let third = fixture.enqueue_ids(None, std::slice::from_ref(&common), later());
    let fourth = fixture.enqueue_ids(None, &[common], later());
    third.fail(EmbedError::Stopped);
    fourth.fail(EmbedError::Stopped);
    fixture.enqueue(5, &[10]);
    assert_eq!(fixture.take(), [(5, 0)]);
    assert_eq!((fixture.scheduler.tokens(), fixture.inflight.len()), (0, 0));
    drop(second);
}

#[test]
fn a_job_reserves_the_tokens_that_it_adds_to_the_queue() {
    let fixture = Fixture::with_capacity(100);
    let first = fixture.enqueue(1, &[40, 40]);
    let equal: Vec<_> = (0..10).map(|_| fixture.enqueue(1, &[40, 40])).collect();
    assert_eq!((fixture.admission.tokens(), fixture.scheduler.tokens()), (80, 80));
    // 20 of these 100 tokens are new.
    let more = fixture.enqueue(1, &[40, 40, 20]);
    assert!(!more.is_finished() && equal.iter().all(|job| !job.is_finished()));
    assert_eq!((fixture.admission.tokens(), fixture.scheduler.tokens()), (100, 100));
    assert!(fixture.enqueue(2, &[10]).is_finished(), "the queue is full");
    drop((first, equal, more));
}

/// Two jobs share a sequence. The job that added it is rejected before either has queued it.
#[test]
fn a_rejected_job_does_not_affect_jobs_that_share_its_sequences() {
    let fixture = Fixture::with_capacity(50);
    fixture.enqueue(1, &[40]);
    let (rejected, to_queue) = fixture.subscribe(None, &sequences(2, &[10, 30]), later());
    let (shares, shared) = fixture.subscribe(None, &sequences(2, &[10]), later());
    fixture.scheduler.enqueue(Arc::clone(&rejected), to_queue);
    assert!(rejected.is_finished());
    fixture.scheduler.enqueue(Arc::clone(&shares), shared);
    assert!(!shares.is_finished());
    assert_eq!((fixture.admission.tokens(), fixture.scheduler.tokens(), fixture.inflight.len()), (50, 50, 2));
    assert_eq!(fixture.take(), [(1, 0), (2, 0)]);
}

#[test]
fn stopping_fails_queued_jobs_and_ends_the_workers() {
    let fixture = Fixture::new();
    let job = fixture.enqueue(1, &[10]);
    fixture.scheduler.stop();
    assert!(job.is_finished());
    assert!(fixture.scheduler.take_batch(BUDGET).is_none());
    assert!(fixture.enqueue(2, &[10]).is_finished());
}
