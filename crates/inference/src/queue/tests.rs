//! Turns and shares, without threads.

use super::{lane::SWEPT, *};
use crate::{
    CallerId,
    admission::{Capacity, Estimate},
};

const BUDGET: Budget = Budget { tokens: 64, inputs: 4, pads: false };

struct Fixture {
    queue: Queue,
    admission: Arc<Admission>,
    flights: Arc<Flights>,
}

impl Fixture {
    fn new() -> Self {
        Self::with_capacity(1 << 20)
    }

    fn with_capacity(tokens: usize) -> Self {
        let capacity = Capacity { tokens, quantum: 1 << 20, workers: 1, tokenizer_threads: 1 };
        let (admission, flights) = (Admission::new(capacity), Arc::new(Flights::default()));
        Self {
            queue: Queue::new(Arc::clone(&admission), Arc::clone(&flights), BUDGET.tokens),
            admission,
            flights,
        }
    }

    /// Queues a job of sequences that no other job has: each is its name, its position, and the length's worth of
    /// zeros.
    fn push(&self, name: u32, lengths: &[usize]) -> Arc<Work> {
        self.push_until(name, lengths, later())
    }

    /// The same for a caller with a name.
    fn push_of(&self, caller: u64, name: u32, lengths: &[usize]) -> Arc<Work> {
        self.push_ids(Some(CallerId(caller)), &sequences(name, lengths), later())
    }

    fn push_until(&self, name: u32, lengths: &[usize], deadline: Instant) -> Arc<Work> {
        self.push_ids(None, &sequences(name, lengths), deadline)
    }

    fn push_ids(&self, caller: Option<CallerId>, sequences: &[Vec<u32>], deadline: Instant) -> Arc<Work> {
        let (work, items) = self.join(caller, sequences, deadline);
        self.queue.push(Arc::clone(&work), items);
        work
    }

    /// A job that is not queued yet, and its items.
    fn join(
        &self,
        caller: Option<CallerId>,
        sequences: &[Vec<u32>],
        deadline: Instant,
    ) -> (Arc<Work>, Vec<Arc<Item>>) {
        let estimate = Estimate { tokens: 1, footprint: 1, bytes: 0 };
        let reservation = self.admission.reserve(caller, estimate, Instant::now()).unwrap();
        let (work, _) = Work::new(caller, deadline, reservation);
        let mut joined = crate::flights::Joined::default();
        let sequences = sequences.iter().map(Vec::as_slice).enumerate();
        self.flights.join(sequences, &work, None, &mut joined);
        (work, joined.items)
    }

    /// The next batch, as (job, position) pairs.
    fn take(&self) -> Vec<(u32, u32)> {
        let taken = self.queue.take(BUDGET).unwrap();
        self.flights.land(&taken.items);
        let mut taken: Vec<_> = taken.items.iter().map(|item| (item.ids()[0], item.ids()[1])).collect();
        taken.sort_unstable();
        taken
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
fn a_single_text_overtakes_a_long_job() {
    let fixture = Fixture::new();
    fixture.push(1, &[16; 100]);
    assert_eq!(fixture.take(), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    fixture.push(2, &[10]);
    // Alone, although there is room: what fills the batch would delay it.
    assert_eq!(fixture.take(), [(2, 0)]);
    assert_eq!(fixture.queue.tokens(), 16 * 96);
}

#[test]
fn a_long_job_is_overtaken_once_in_a_turn() {
    let fixture = Fixture::new();
    fixture.push(1, &[16; 100]);
    for name in 2..6 {
        fixture.push(name, &[60]);
    }
    let turns: Vec<u32> = (0..8).map(|_| fixture.take()[0].0).collect();
    // One goes before it, then its own turn comes; after that it stands behind those that were there.
    assert_eq!(turns, [2, 1, 3, 4, 5, 1, 1, 1]);
    // Now that one comes at a time, it is every second's turn.
    let turns = (6..9).flat_map(|name| {
        fixture.push(name, &[60]);
        fixture.push(name + 10, &[60]);
        [fixture.take()[0].0, fixture.take()[0].0, fixture.take()[0].0]
    });
    assert_eq!(turns.collect::<Vec<_>>(), [6, 1, 16, 7, 1, 17, 8, 1, 18]);
}

#[test]
fn what_fits_a_batch_need_not_wait_for_a_long_jobs() {
    let fixture = Fixture::new();
    let taken = || fixture.queue.take(BUDGET).map(|taken| taken.long);
    let urgent = || fixture.queue.take_urgent(BUDGET).map(|taken| (taken.long, taken.tokens()));
    fixture.push(1, &[16; 100]);
    assert_eq!((taken(), urgent()), (Some(true), None), "no short job waits");
    fixture.push(2, &[10]);
    fixture.push(3, &[20]);
    assert_eq!((urgent(), urgent()), (Some((false, 30)), None));
    fixture.push(4, &[10]);
    // It was overtaken, so its turn is next; then it stands behind.
    assert_eq!([taken(), taken(), taken()], [Some(true), Some(false), Some(true)]);
    fixture.push(5, &[10]).fail(EmbedError::Stopped);
    assert_eq!(urgent(), None, "nobody waits for it");
    assert_eq!(fixture.queue.tokens(), 16 * 88);
}

#[test]
fn callers_take_turns_however_many_jobs_they_have() {
    let fixture = Fixture::new();
    for name in 10..20 {
        fixture.push_of(1, name, &[60]);
    }
    fixture.push_of(2, 30, &[60]);
    fixture.push_of(2, 31, &[60]);
    let turns: Vec<u32> = (0..6).map(|_| fixture.take()[0].0).collect();
    assert_eq!(turns, [10, 30, 11, 31, 12, 13]);
}

#[test]
fn jobs_share_a_batch() {
    let fixture = Fixture::new();
    fixture.push(1, &[10, 10]);
    fixture.push(2, &[10]);
    fixture.push(3, &[10]);
    assert_eq!(fixture.take(), [(1, 0), (1, 1), (2, 0), (3, 0)]);
    assert_eq!(fixture.queue.tokens(), 0);
}

#[test]
fn what_does_not_fit_keeps_its_place() {
    let fixture = Fixture::new();
    fixture.push(1, &[40, 20]);
    fixture.push(2, &[30, 20, 10]);
    // The longest of each do not fit together; the next turn is the second job's.
    assert_eq!(fixture.take(), [(1, 0), (1, 1)]);
    assert_eq!(fixture.take(), [(2, 0), (2, 1), (2, 2)]);
    fixture.push(3, &[30]);
    fixture.push(4, &[40, 10]);
    assert_eq!(fixture.take(), [(3, 0), (4, 1)]);
    assert_eq!(fixture.take(), [(4, 0)]);
    assert_eq!(fixture.queue.tokens(), 0);
}

#[test]
fn the_departed_and_the_late_are_skipped() {
    let fixture = Fixture::new();
    let departed = fixture.push(1, &[10]);
    departed.fail(EmbedError::Stopped);
    let late = fixture.push_until(2, &[10], Instant::now());
    fixture.push(3, &[10]);
    assert_eq!(fixture.take(), [(3, 0)]);
    assert!(late.is_over());
    assert_eq!((fixture.queue.tokens(), fixture.flights.len()), (0, 0));
}

#[test]
fn departed_jobs_far_from_their_turns_are_found() {
    let fixture = Fixture::new();
    fixture.push(0, &[60; 40]);
    for name in 1..=100 {
        fixture.push(name, &[60, 60]).fail(EmbedError::Stopped);
    }
    fixture.push(101, &[60]);
    let turns = (0..).take_while(|_| fixture.take() != [(101, 0)]).count();
    assert!(turns <= 1, "{turns}");
    for _ in 0..100 / SWEPT {
        fixture.take();
    }
    let left = 39 - turns - 100 / SWEPT + 1;
    assert_eq!((fixture.queue.tokens(), fixture.flights.len()), (60 * left, left));
}

#[test]
fn equal_sequences_are_taken_once_by_whoever_comes_first() {
    let fixture = Fixture::new();
    let common = vec![7; 20];
    let first = fixture.push_ids(None, &[vec![1; 30], common.clone()], later());
    let second = fixture.push_ids(None, &[common.clone(), vec![2; 30], common.clone()], later());
    assert_eq!(fixture.queue.tokens(), 80);
    // Four references are two candidates and the common one.
    assert_eq!(fixture.take(), [(1, 1), (2, 2)]);
    first.fail(EmbedError::Stopped);
    // The first left; the second's own reference is still there.
    assert_eq!(fixture.take(), [(7, 7)]);
    assert_eq!((fixture.queue.tokens(), fixture.flights.len()), (0, 0));
    // What nobody waits for any more is forgotten.
    let third = fixture.push_ids(None, std::slice::from_ref(&common), later());
    let fourth = fixture.push_ids(None, &[common], later());
    third.fail(EmbedError::Stopped);
    fourth.fail(EmbedError::Stopped);
    fixture.push(5, &[10]);
    assert_eq!(fixture.take(), [(5, 0)]);
    assert_eq!((fixture.queue.tokens(), fixture.flights.len()), (0, 0));
    drop(second);
}

#[test]
fn a_job_reserves_the_tokens_that_it_adds_to_the_queue() {
    let fixture = Fixture::with_capacity(100);
    let first = fixture.push(1, &[40, 40]);
    let equal: Vec<_> = (0..10).map(|_| fixture.push(1, &[40, 40])).collect();
    assert_eq!((fixture.admission.tokens(), fixture.queue.tokens()), (80, 80));
    // 20 of these 60 tokens are new.
    let more = fixture.push(1, &[40, 40, 20]);
    assert!(!more.is_over() && equal.iter().all(|work| !work.is_over()));
    assert_eq!((fixture.admission.tokens(), fixture.queue.tokens()), (100, 100));
    assert!(fixture.push(2, &[10]).is_over(), "it is full");
    drop((first, equal, more));
}

/// Two jobs share a sequence. The job that brought it is refused before either has queued it.
#[test]
fn a_refused_job_takes_nothing_from_those_who_share_its_sequences() {
    let fixture = Fixture::with_capacity(50);
    fixture.push(1, &[40]);
    let (refused, items) = fixture.join(None, &sequences(2, &[10, 30]), later());
    let (shares, shared) = fixture.join(None, &sequences(2, &[10]), later());
    fixture.queue.push(Arc::clone(&refused), items);
    assert!(refused.is_over());
    fixture.queue.push(Arc::clone(&shares), shared);
    assert!(!shares.is_over());
    assert_eq!((fixture.admission.tokens(), fixture.queue.tokens(), fixture.flights.len()), (50, 50, 2));
    assert_eq!(fixture.take(), [(1, 0), (2, 0)]);
}

#[test]
fn stopping_fails_what_waits_and_ends_the_workers() {
    let fixture = Fixture::new();
    let work = fixture.push(1, &[10]);
    fixture.queue.stop();
    assert!(work.is_over());
    assert!(fixture.queue.take(BUDGET).is_none());
    assert!(fixture.push(2, &[10]).is_over());
}
