//! Tokenized sequences waiting for a worker: bounded by admission, fair between callers and between their jobs.
//!
//! Jobs take turns, and callers do ([`Rounds`]): each batch is anchored by a sequence of the job whose turn it is, which
//! then waits for its next one. A job that fits one batch shares it only with others that do, and may go before a longer
//! one, once for each of that one's turns: so a single text never waits for the filling of its own batch. Nor does it
//! wait for a long job's batch that runs already: where every worker is busy, one of them runs it in between
//! ([`Queue::take_urgent`]).
//!
//! Nobody lingers: a worker that is free takes what is there, and no more than leaves something for the others
//! that are free. What a turn costs depends on what it takes, not on how many jobs wait: those that are over are
//! dropped when they are met, a few more at each turn.

mod lane;
mod rounds;

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use self::{
    lane::{Account, Lane, Pending},
    rounds::Rounds,
};
use crate::{
    EmbedError,
    admission::{Admission, Demand},
    batch::{Budget, LEAST_SHARE},
    flights::Flights,
    item::Item,
    job::Work,
};

/// What a worker is to run.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) items: Vec<Arc<Item>>,
    /// Whether it is a piece of a job that does not fit one batch: short ones need not wait for it.
    pub(crate) long: bool,
}

impl Taken {
    pub(crate) fn tokens(&self) -> usize {
        self.items.iter().map(|item| item.tokens()).sum()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Jobs that fit one batch, or what is left of them does.
    short: Lane,
    long: Lane,
    rounds: Rounds,
    account: Account,
    /// Workers that wait for work and were not called.
    idle: usize,
    /// Workers that were called and have not come yet.
    called: usize,
    turn: u64,
    stopped: bool,
}

/// The queue of one engine.
#[derive(Debug)]
pub(crate) struct Queue {
    admission: Arc<Admission>,
    flights: Arc<Flights>,
    /// Tokens of one batch.
    max_batch_tokens: usize,
    state: Mutex<State>,
    /// As `State::idle`, to be read without the lock.
    spare_workers: AtomicUsize,
    /// Whether a short job waits and no worker is free.
    urgent: AtomicBool,
    /// There is work.
    work: Condvar,
    /// The queue is stopped.
    stopping: Condvar,
}

impl Queue {
    pub(crate) fn new(admission: Arc<Admission>, flights: Arc<Flights>, max_batch_tokens: usize) -> Self {
        let (state, spare_workers, urgent, work, stopping) = Default::default();
        Self { admission, flights, max_batch_tokens, state, spare_workers, urgent, work, stopping }
    }

    /// Admits a job and adds its references, or fails it. Only under this lock is it certain which sequences are queued
    /// already: the job that brought them may have been refused or have left since this job joined them.
    pub(crate) fn push(&self, work: Arc<Work>, items: Vec<Arc<Item>>) {
        let mut state = self.lock();
        if state.stopped {
            work.fail(EmbedError::Stopped);
            return;
        }
        if let Err(refusal) = work.enqueue(state.demand(&items)) {
            drop(state);
            work.fail(refusal.into());
            self.flights.release(&items);
            return;
        }
        for item in &items {
            if item.notes.references.fetch_add(1, Ordering::Relaxed) == 0 && !item.is_taken() {
                state.account.tokens += item.tokens();
            }
        }
        let round = state.rounds.next(work.caller);
        state.insert(Pending::new(work, items, round), self.max_batch_tokens);
        let useful = state.account.tokens.div_ceil(LEAST_SHARE).max(1);
        self.call(state, useful);
    }

    /// Waits for work and takes the next batch; `None` once the queue is stopped.
    pub(crate) fn take(&self, budget: Budget) -> Option<Taken> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let is_over = self.is_over();
            state.sweep(&is_over);
            let share = budget.share(state.account.tokens, state.idle + state.called + 1);
            let taken = state.take(false, share, self.max_batch_tokens, is_over);
            let orphans = std::mem::take(&mut state.account.orphans);
            if !taken.items.is_empty() {
                let more = state.has_jobs();
                self.call(state, usize::from(more));
                self.flights.release(&orphans);
                return Some(taken);
            }
            // A job whose caller left while it was being chosen may have kept another from being looked at.
            if orphans.is_empty() && !state.has_jobs() {
                state = self.wait(state);
            } else {
                drop(state);
                self.flights.release(&orphans);
                state = self.lock();
            }
        }
    }

    /// A batch of short jobs if they wait and no worker is free; never waits. For a worker that is in the middle of a
    /// long job's batch, which it counts against that job's next turn.
    pub(crate) fn take_urgent(&self, budget: Budget) -> Option<Taken> {
        if !self.urgent.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        let share = budget.share(state.account.tokens, state.idle + state.called + 1);
        let taken = state.take(true, share, self.max_batch_tokens, self.is_over());
        let orphans = std::mem::take(&mut state.account.orphans);
        self.publish(&state);
        drop(state);
        self.flights.release(&orphans);
        (!taken.items.is_empty()).then_some(taken)
    }

    /// Workers that have nothing to do at present.
    pub(crate) fn spare_workers(&self) -> usize {
        self.spare_workers.load(Ordering::Relaxed)
    }

    /// Whether nobody waits for a job any more; fails it if its deadline has come.
    fn is_over(&self) -> impl Fn(&Work) -> bool {
        let now = Instant::now();
        move |work| {
            if work.deadline <= now {
                work.fail(EmbedError::DeadlineExceeded { retry_after: self.admission.retry_after() });
            }
            work.is_over()
        }
    }

    /// Calls up to `workers` of those that wait.
    fn call(&self, mut state: MutexGuard<'_, State>, workers: usize) {
        let workers = workers.min(state.idle);
        state.idle -= workers;
        state.called += workers;
        self.publish(&state);
        drop(state);
        for _ in 0..workers {
            self.work.notify_one();
        }
    }

    /// Waits to be called, or for the end.
    fn wait<'s>(&self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        state.idle += 1;
        self.publish(&state);
        let waits = |state: &mut State| state.called == 0 && !state.stopped;
        state = self.work.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        // Whoever is there first answers the call; the one whom it woke waits on.
        match state.called.checked_sub(1) {
            Some(called) => state.called = called,
            None => state.idle -= 1,
        }
        self.publish(&state);
        state
    }

    fn publish(&self, state: &State) {
        self.spare_workers.store(state.idle, Ordering::Relaxed);
        let urgent = !state.short.is_empty() && state.idle + state.called == 0;
        self.urgent.store(urgent, Ordering::Relaxed);
    }

    /// Refuses new work, fails what waits, and wakes every worker.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.account.tokens = 0;
        let State { short, long, .. } = &mut *state;
        for pending in short.drain().chain(long.drain()) {
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
        self.lock().account.tokens
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, pending: Pending, max_batch_tokens: usize) {
        let lane = if pending.tokens() <= max_batch_tokens { &mut self.short } else { &mut self.long };
        lane.insert(pending);
    }

    /// The demand of a job with these references.
    fn demand(&self, items: &[Arc<Item>]) -> Demand {
        let mut demand = Demand { queued: self.account.tokens, ..Demand::default() };
        for item in items.iter().filter(|item| !item.is_taken()) {
            demand.total += item.tokens();
            if item.notes.references.load(Ordering::Relaxed) == 0 {
                demand.new += item.tokens();
            }
        }
        demand
    }

    fn has_jobs(&self) -> bool {
        !(self.short.is_empty() && self.long.is_empty())
    }

    fn sweep(&mut self, is_over: impl Fn(&Work) -> bool) {
        self.short.sweep(&is_over, &mut self.account);
        self.long.sweep(&is_over, &mut self.account);
    }

    /// The items to run next; none when nothing waits. What is `urgent` is of short jobs, be it their turn or not.
    fn take(
        &mut self,
        urgent: bool,
        budget: Budget,
        max_batch_tokens: usize,
        is_over: impl Fn(&Work) -> bool,
    ) -> Taken {
        self.turn += 1;
        let account = &mut self.account;
        let short = self.short.front(&is_over, account);
        let long = self.long.front(&is_over, account);
        let (round, takes_short) = match (short, long) {
            (Some(short), None) => (short.round, true),
            (Some(short), Some(long)) if urgent || long.round <= short.round && !long.overtaken => {
                long.overtaken = true;
                // Its turn has not come, so the present round stays.
                (long.round.min(short.round), true)
            }
            (Some(short), Some(long)) if short.round < long.round => (short.round, true),
            (_, Some(long)) if !urgent => (long.round, false),
            _ => return Taken::default(),
        };
        self.rounds.reach(round);
        let lane = if takes_short { &mut self.short } else { &mut self.long };
        let (items, rest) = lane.take(self.turn, budget, is_over, account);
        if let Some(mut rest) = rest {
            rest.round = self.rounds.next(rest.work.caller);
            rest.overtaken = false;
            self.insert(rest, max_batch_tokens);
        }
        Taken { items, long: !takes_short }
    }
}

#[cfg(test)]
mod tests;
