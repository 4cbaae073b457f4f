//! Tokenized sequences waiting for a worker: bounded by admission, fair between jobs.
//!
//! Jobs take turns: each batch is anchored by a sequence of the job at the front, which then goes to the
//! back. So a single text waits for at most one batch of every job ahead of it, however large those are.
//! Nobody lingers: a worker that is free takes what is there, and no more than leaves something for the others
//! that are free. What a turn costs depends on what it takes, not on how many jobs wait: those that are over are
//! dropped when they are met, a few more at each turn.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    EmbedError,
    admission::Admission,
    batch::{Budget, LEAST_SHARE, plan},
    flights::Flights,
    item::Item,
    job::Work,
};

/// Jobs that a turn looks at, beyond those it takes from, for whether they are over.
const SWEPT: usize = 8;

/// What a worker is to run.
#[derive(Debug)]
pub(crate) struct Taken {
    /// At least one.
    pub(crate) items: Vec<Arc<Item>>,
    /// Other workers for whom nothing was left.
    pub(crate) spare_workers: usize,
}

/// A job's references to items.
#[derive(Debug)]
struct Pending {
    work: Arc<Work>,
    /// Longest first: like lengths stand together, and the last batch of a job is a small one.
    items: VecDeque<Arc<Item>>,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Pending>,
    /// Tokens of the items that wait, each once; those of jobs that are over count until they are met.
    tokens: usize,
    /// Workers that wait for work.
    idle: usize,
    turn: u64,
    swept: usize,
    stopped: bool,
}

/// The queue of one engine.
#[derive(Debug)]
pub(crate) struct Queue {
    admission: Arc<Admission>,
    flights: Arc<Flights>,
    state: Mutex<State>,
    /// There is work.
    work: Condvar,
    /// The queue is stopped.
    stopping: Condvar,
}

impl Queue {
    pub(crate) fn new(admission: Arc<Admission>, flights: Arc<Flights>) -> Self {
        let (work, stopping) = Default::default();
        Self { admission, flights, state: Mutex::default(), work, stopping }
    }

    /// Adds a job's references.
    pub(crate) fn push(&self, work: Arc<Work>, mut items: Vec<Arc<Item>>) {
        items.sort_by_key(|item| std::cmp::Reverse(item.tokens()));
        let mut state = self.lock();
        if state.stopped {
            work.fail(EmbedError::Stopped);
            return;
        }
        for item in &items {
            if item.notes.references.fetch_add(1, Ordering::Relaxed) == 0 && !item.is_taken() {
                state.tokens += item.tokens();
            }
        }
        state.jobs.push_back(Pending { work, items: items.into() });
        let useful = state.tokens.div_ceil(LEAST_SHARE).clamp(1, state.idle.max(1));
        drop(state);
        for _ in 0..useful {
            self.work.notify_one();
        }
    }

    /// Waits for work and takes the next batch; `None` once the queue is stopped.
    pub(crate) fn take(&self, budget: Budget) -> Option<Taken> {
        let mut state = self.lock();
        let mut orphans = Vec::new();
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            let is_over = |work: &Work| {
                if work.deadline <= now {
                    work.fail(EmbedError::Deadline { retry_after: self.admission.retry_after() });
                }
                work.is_over()
            };
            state.sweep(is_over, &mut orphans);
            let budget = budget.share(state.tokens, state.idle + 1);
            let items = state.take(budget, is_over, &mut orphans);
            if !items.is_empty() {
                let (more, busy) = (!state.jobs.is_empty(), state.tokens.div_ceil(budget.tokens));
                let spare_workers = state.idle.saturating_sub(busy);
                drop(state);
                if more {
                    self.work.notify_one();
                }
                self.flights.release(&orphans);
                return Some(Taken { items, spare_workers });
            }
            if orphans.is_empty() {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            } else {
                drop(state);
                self.flights.release(&orphans);
                orphans.clear();
                state = self.lock();
            }
        }
    }

    /// Refuses new work, fails what waits, and wakes every worker.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.tokens = 0;
        for pending in state.jobs.drain(..) {
            pending.work.fail(EmbedError::Stopped);
        }
        drop(state);
        self.work.notify_all();
        self.stopping.notify_all();
    }

    /// Waits until the queue is stopped, but no longer than `pause`; tells whether it is.
    pub(crate) fn stopped_within(&self, pause: Duration) -> bool {
        let state = self.lock();
        let waited = self.stopping.wait_timeout_while(state, pause, |state| !state.stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    /// Tokens that wait for a worker.
    pub(crate) fn tokens(&self) -> usize {
        self.lock().tokens
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reference that a turn has drawn, and the position of its job.
struct Drawn {
    job: usize,
    item: Arc<Item>,
}

/// What a turn has drawn so far.
struct Draw {
    budget: Budget,
    drawn: Vec<Drawn>,
    /// Tokens of all.
    sum: usize,
}

impl Draw {
    fn push(&mut self, job: usize, item: Arc<Item>) {
        self.sum += item.tokens();
        self.drawn.push(Drawn { job, item });
    }

    fn is_enough(&self) -> bool {
        let anchor = self.drawn.first().map(|drawn| drawn.item.tokens());
        anchor.is_some_and(|anchor| self.budget.has_choice(self.drawn.len(), self.sum, anchor))
    }
}

impl State {
    /// The items to run next; `orphans` gets those that lost their last reference. Empty when nothing waits.
    fn take(
        &mut self,
        budget: Budget,
        is_over: impl Fn(&Work) -> bool,
        orphans: &mut Vec<Arc<Item>>,
    ) -> Vec<Arc<Item>> {
        let (drawn, reach) = self.draw(budget, is_over, orphans);
        // A sequence that two jobs refer to is one candidate.
        self.turn += 1;
        let turn = self.turn;
        let is_first = |drawn: &&Drawn| drawn.item.notes.turn.swap(turn, Ordering::Relaxed) != turn;
        let candidates: Vec<&Drawn> = drawn.iter().filter(is_first).collect();
        let lengths: Vec<usize> = candidates.iter().map(|drawn| drawn.item.tokens()).collect();
        let chosen = plan(&lengths, budget).into_iter().map(|index| Arc::clone(&candidates[index].item));
        let taken: Vec<Arc<Item>> = chosen.filter(|item| item.take()).collect();
        self.tokens -= taken.iter().map(|item| item.tokens()).sum::<usize>();
        // The rest goes back to where it stood.
        for Drawn { job, item } in drawn.into_iter().rev() {
            if item.is_taken() {
                item.notes.references.fetch_sub(1, Ordering::Relaxed);
            } else {
                self.jobs[job].items.push_front(item);
            }
        }
        let mut met: VecDeque<Pending> = self.jobs.drain(..reach).collect();
        let anchor = met.pop_front();
        for pending in met.into_iter().rev().filter(|pending| !pending.items.is_empty()) {
            self.jobs.push_front(pending);
        }
        self.jobs.extend(anchor.filter(|pending| !pending.items.is_empty()));
        taken
    }

    /// Draws candidates in the order of their turns: every job's next, then every job's next but one, … until
    /// there is choice enough. Tells how many jobs it met.
    fn draw(
        &mut self,
        budget: Budget,
        is_over: impl Fn(&Work) -> bool,
        orphans: &mut Vec<Arc<Item>>,
    ) -> (Vec<Drawn>, usize) {
        self.drop_front(&is_over, orphans);
        let mut drawn = Draw { budget, drawn: Vec::new(), sum: 0 };
        let mut round = Vec::new();
        let mut reach = 0;
        while reach < self.jobs.len() && !drawn.is_enough() {
            if reach > 0 && is_over(&self.jobs[reach].work) {
                self.discard(reach, orphans);
            } else if let Some(item) = self.next(reach) {
                drawn.push(reach, item);
                round.push(reach);
            }
            reach += 1;
        }
        while !round.is_empty() && !drawn.is_enough() {
            round.retain(|&job| {
                let item = if drawn.is_enough() { None } else { self.next(job) };
                item.map(|item| drawn.push(job, item)).is_some()
            });
        }
        (drawn.drawn, reach)
    }

    /// A job's next reference to an item that waits; drops those to items that others have taken.
    fn next(&mut self, job: usize) -> Option<Arc<Item>> {
        let items = &mut self.jobs[job].items;
        while let Some(item) = items.pop_front() {
            if !item.is_taken() {
                return Some(item);
            }
            item.notes.references.fetch_sub(1, Ordering::Relaxed);
        }
        None
    }

    /// Makes sure that the job at the front is live and has something to run, so that it can be the anchor.
    fn drop_front(&mut self, is_over: impl Fn(&Work) -> bool, orphans: &mut Vec<Arc<Item>>) {
        while let Some(front) = self.jobs.front() {
            if is_over(&front.work) {
                self.discard(0, orphans);
            } else if let Some(item) = self.next(0) {
                self.jobs[0].items.push_front(item);
                return;
            }
            self.jobs.pop_front();
        }
    }

    /// Looks at a few jobs that may be far from their turns, and empties those that are over.
    fn sweep(&mut self, is_over: impl Fn(&Work) -> bool, orphans: &mut Vec<Arc<Item>>) {
        for _ in 0..SWEPT.min(self.jobs.len()) {
            self.swept = (self.swept + 1) % self.jobs.len();
            if is_over(&self.jobs[self.swept].work) {
                self.discard(self.swept, orphans);
            }
        }
    }

    /// Drops a job's references; the empty job goes when it is met.
    fn discard(&mut self, job: usize, orphans: &mut Vec<Arc<Item>>) {
        for item in std::mem::take(&mut self.jobs[job].items) {
            if item.notes.references.fetch_sub(1, Ordering::Relaxed) == 1 && !item.is_taken() {
                self.tokens -= item.tokens();
                orphans.push(item);
            }
        }
    }
}

#[cfg(test)]
mod tests;
