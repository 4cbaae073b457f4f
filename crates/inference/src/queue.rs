//! Tokenized sequences waiting for a worker: bounded by admission, fair between jobs.
//!
//! Jobs take turns: each batch is anchored by a sequence of the job at the front, which then goes to the
//! back. So a single text waits for at most one batch of every job ahead of it, however large those are.
//! Nobody lingers: a worker that is free takes what is there.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    EmbedError,
    admission::Admission,
    batch::{Budget, plan},
    job::{Sequence, Work},
};

/// How many candidates the planner sees, as a multiple of the sequences of one batch.
const LOOKAHEAD: usize = 8;

/// A sequence on its way into a batch.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) work: Arc<Work>,
    /// Position among the job's sequences.
    pub(crate) index: usize,
    pub(crate) ids: Vec<u32>,
}

#[derive(Debug)]
struct Pending {
    work: Arc<Work>,
    /// Longest first: like lengths stand together, and the last batch of a job is a small one.
    sequences: VecDeque<(usize, Vec<u32>)>,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Pending>,
    stopped: bool,
}

/// The queue of one engine.
#[derive(Debug)]
pub(crate) struct Queue {
    admission: Arc<Admission>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    pub(crate) fn new(admission: Arc<Admission>) -> Self {
        Self { admission, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds a job's sequences.
    pub(crate) fn push(&self, work: Arc<Work>, sequences: Vec<Sequence>) {
        let mut sequences: Vec<_> = sequences.into_iter().map(|sequence| sequence.ids).enumerate().collect();
        sequences.sort_by_key(|(_, ids)| std::cmp::Reverse(ids.len()));
        let mut state = self.lock();
        if state.stopped {
            work.fail(EmbedError::Stopped);
            return;
        }
        state.jobs.push_back(Pending { work, sequences: sequences.into() });
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for work and takes the next batch; `None` once the queue is stopped.
    pub(crate) fn take(&self, budget: Budget) -> Option<Vec<Taken>> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            self.sweep(&mut state);
            if !state.jobs.is_empty() {
                let taken = state.take(budget);
                let more = !state.jobs.is_empty();
                drop(state);
                if more {
                    self.changed.notify_one();
                }
                return Some(taken);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Refuses new work, fails what waits, and wakes every worker.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        for pending in state.jobs.drain(..) {
            pending.work.fail(EmbedError::Stopped);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until the queue is stopped, but no longer than `pause`; tells whether it is.
    pub(crate) fn stopped_within(&self, pause: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, pause, |state| !state.stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    /// Tokens that wait for a worker.
    pub(crate) fn tokens(&self) -> usize {
        let state = self.lock();
        state.jobs.iter().flat_map(|pending| &pending.sequences).map(|(_, ids)| ids.len()).sum()
    }

    /// Removes jobs whose caller left, and fails those that are too late.
    fn sweep(&self, state: &mut State) {
        let now = Instant::now();
        state.jobs.retain(|pending| {
            if pending.work.deadline <= now {
                pending.work.fail(EmbedError::Deadline { retry_after: self.admission.retry_after() });
            }
            !pending.work.is_over()
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, budget: Budget) -> Vec<Taken> {
        let candidates = self.candidates(budget.inputs.saturating_mul(LOOKAHEAD));
        let lengths: Vec<usize> =
            candidates.iter().map(|&(job, place)| self.jobs[job].sequences[place].1.len()).collect();
        let mut places: Vec<_> = plan(&lengths, budget).into_iter().map(|index| candidates[index]).collect();
        // From the back, so that earlier places stay valid while later ones are removed.
        places.sort_unstable_by(|a, b| b.cmp(a));
        let mut taken = Vec::with_capacity(places.len());
        for (job, place) in places {
            let pending = &mut self.jobs[job];
            if let Some((index, ids)) = pending.sequences.remove(place) {
                taken.push(Taken { work: Arc::clone(&pending.work), index, ids });
            }
        }
        self.jobs.rotate_left(1);
        self.jobs.retain(|pending| !pending.sequences.is_empty());
        taken
    }

    /// The first `limit` sequences in the order of their turns, as (job, place in the job): every job's next,
    /// then every job's next but one, …
    fn candidates(&self, limit: usize) -> Vec<(usize, usize)> {
        let rounds = self.jobs.iter().map(|pending| pending.sequences.len()).max().unwrap_or(0);
        (0..rounds)
            .flat_map(|place| {
                let has = move |(job, pending): (usize, &Pending)| {
                    (place < pending.sequences.len()).then_some((job, place))
                };
                self.jobs.iter().enumerate().filter_map(has)
            })
            .take(limit)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { tokens: 64, inputs: 4, pads: false };

    struct Fixture {
        queue: Queue,
        admission: Arc<Admission>,
    }

    impl Fixture {
        fn new() -> Self {
            let admission = Admission::new(1 << 20);
            Self { queue: Queue::new(Arc::clone(&admission)), admission }
        }

        /// Queues a job of the given lengths; its ids are all `name`.
        fn push(&self, name: u32, lengths: &[usize]) -> Arc<Work> {
            self.push_until(name, lengths, Instant::now() + Duration::from_secs(60))
        }

        fn push_until(&self, name: u32, lengths: &[usize], deadline: Instant) -> Arc<Work> {
            let reservation = self.admission.reserve(1, Instant::now()).unwrap();
            let (work, _) = Work::new(deadline, reservation);
            let sequences = lengths
                .iter()
                .enumerate()
                .map(|(input, &length)| Sequence { ids: vec![name; length], input });
            self.queue.push(Arc::clone(&work), sequences.collect());
            work
        }

        /// The next batch, as (job, position) pairs.
        fn take(&self) -> Vec<(u32, usize)> {
            let mut taken: Vec<_> = self
                .queue
                .take(BUDGET)
                .unwrap()
                .into_iter()
                .map(|taken| (taken.ids[0], taken.index))
                .collect();
            taken.sort_unstable();
            taken
        }
    }

    #[test]
    fn a_single_text_overtakes_a_long_job() {
        let fixture = Fixture::new();
        fixture.push(1, &[16; 100]);
        assert_eq!(fixture.take(), [(1, 0), (1, 1), (1, 2), (1, 3)]);
        fixture.push(2, &[60]);
        // The long job's turn comes first, the single text's right after.
        assert_eq!(fixture.take().len(), 4);
        assert_eq!(fixture.take(), [(2, 0)]);
        assert_eq!(fixture.queue.tokens(), 16 * 92);
    }

    #[test]
    fn jobs_share_a_batch() {
        let fixture = Fixture::new();
        fixture.push(1, &[10, 10]);
        fixture.push(2, &[10]);
        fixture.push(3, &[10]);
        assert_eq!(fixture.take(), [(1, 0), (1, 1), (2, 0), (3, 0)]);
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
        drop((departed, late));
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
}
