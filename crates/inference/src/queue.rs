//! Tokenized sequences waiting for a worker: bounded by admission, fair between callers and between their jobs.
//!
//! Jobs take turns, and callers do ([`Rounds`]): each batch is anchored by a sequence of the job whose turn it is, which
//! then waits for its next one. A job that fits one batch shares it only with others that do, and may go before a longer
//! one, once for each of that one's turns: so a single text waits for what runs already, whatever else is in the
//! queue, and never for the filling of its own batch. As long as there are such jobs, the longer ones run in smaller
//! pieces, so that what runs already is over sooner.
//!
//! Nobody lingers: a worker that is free takes what is there, and no more than leaves something for the others
//! that are free. What a turn costs depends on what it takes, not on how many jobs wait: those that are over are
//! dropped when they are met, a few more at each turn.

mod lane;
mod rounds;

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use self::{
    lane::{Account, Lane, Pending},
    rounds::Rounds,
};
use crate::{
    EmbedError,
    admission::Admission,
    batch::{Budget, LEAST_SHARE},
    flights::Flights,
    item::Item,
    job::Work,
};

/// For so many turns after a short job came, long ones run in smaller pieces: about a second on two cores.
const ALERT: u64 = 128;
/// Into how many pieces a batch of a long job is cut then.
const PIECES: usize = 2;

/// What a worker is to run.
#[derive(Debug)]
pub(crate) struct Taken {
    /// At least one.
    pub(crate) items: Vec<Arc<Item>>,
    /// Other workers for whom nothing was left.
    pub(crate) spare_workers: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Jobs that fit one batch, or what is left of them does.
    short: Lane,
    long: Lane,
    rounds: Rounds,
    account: Account,
    /// Workers that wait for work.
    idle: usize,
    turn: u64,
    /// The turn before which long jobs run in smaller pieces.
    alert_until: u64,
    stopped: bool,
}

/// The queue of one engine.
#[derive(Debug)]
pub(crate) struct Queue {
    admission: Arc<Admission>,
    flights: Arc<Flights>,
    /// Tokens of one batch.
    batch_tokens: usize,
    state: Mutex<State>,
    /// There is work.
    work: Condvar,
    /// The queue is stopped.
    stopping: Condvar,
}

impl Queue {
    pub(crate) fn new(admission: Arc<Admission>, flights: Arc<Flights>, batch_tokens: usize) -> Self {
        let (work, stopping) = Default::default();
        Self { admission, flights, batch_tokens, state: Mutex::default(), work, stopping }
    }

    /// Adds a job's references.
    pub(crate) fn push(&self, work: Arc<Work>, items: Vec<Arc<Item>>) {
        let mut state = self.lock();
        if state.stopped {
            work.fail(EmbedError::Stopped);
            return;
        }
        for item in &items {
            if item.notes.references.fetch_add(1, Ordering::Relaxed) == 0 && !item.is_taken() {
                state.account.tokens += item.tokens();
            }
        }
        let round = state.rounds.next(work.caller);
        let pending = Pending::new(work, items, round);
        if pending.tokens() <= self.batch_tokens {
            state.alert_until = state.turn + ALERT;
        }
        state.insert(pending, self.batch_tokens);
        let useful = state.account.tokens.div_ceil(LEAST_SHARE).clamp(1, state.idle.max(1));
        drop(state);
        for _ in 0..useful {
            self.work.notify_one();
        }
    }

    /// Waits for work and takes the next batch; `None` once the queue is stopped.
    pub(crate) fn take(&self, budget: Budget) -> Option<Taken> {
        let mut state = self.lock();
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
            state.sweep(is_over);
            let share = budget.share(state.account.tokens, state.idle + 1);
            let items = state.take(share, self.batch_tokens, is_over);
            let orphans = std::mem::take(&mut state.account.orphans);
            if !items.is_empty() {
                let busy = state.account.tokens.div_ceil(share.tokens);
                let (more, spare_workers) = (state.has_jobs(), state.idle.saturating_sub(busy));
                drop(state);
                if more {
                    self.work.notify_one();
                }
                self.flights.release(&orphans);
                return Some(Taken { items, spare_workers });
            }
            // A job whose caller left while it was being chosen may have kept another from being looked at.
            if orphans.is_empty() && !state.has_jobs() {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            } else {
                drop(state);
                self.flights.release(&orphans);
                state = self.lock();
            }
        }
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
    fn insert(&mut self, pending: Pending, batch_tokens: usize) {
        let lane = if pending.tokens() <= batch_tokens { &mut self.short } else { &mut self.long };
        lane.insert(pending);
    }

    fn has_jobs(&self) -> bool {
        !(self.short.is_empty() && self.long.is_empty())
    }

    fn sweep(&mut self, is_over: impl Fn(&Work) -> bool) {
        self.short.sweep(&is_over, &mut self.account);
        self.long.sweep(&is_over, &mut self.account);
    }

    /// The items to run next; empty when nothing waits.
    fn take(
        &mut self,
        budget: Budget,
        batch_tokens: usize,
        is_over: impl Fn(&Work) -> bool,
    ) -> Vec<Arc<Item>> {
        self.turn += 1;
        let is_alert = self.turn < self.alert_until;
        let account = &mut self.account;
        let short = self.short.front(&is_over, account);
        let long = self.long.front(&is_over, account);
        let (round, takes_short) = match (short, long) {
            (None, None) => return Vec::new(),
            (Some(short), None) => (short.round, true),
            (None, Some(long)) => (long.round, false),
            (Some(short), Some(long)) if short.round < long.round => (short.round, true),
            (Some(short), Some(long)) if !long.overtaken => {
                long.overtaken = true;
                // Its turn has not come, so the present round stays.
                (long.round.min(short.round), true)
            }
            (Some(_), Some(long)) => (long.round, false),
        };
        self.rounds.reach(round);
        let (items, rest) = if takes_short {
            self.short.take(self.turn, budget, is_over, account)
        } else {
            let pieces = if is_alert && !budget.pads { PIECES } else { 1 };
            let budget = Budget { tokens: budget.tokens.div_ceil(pieces), ..budget };
            self.long.take(self.turn, budget, is_over, account)
        };
        if let Some(mut rest) = rest {
            rest.round = self.rounds.next(rest.work.caller);
            rest.overtaken = false;
            self.insert(rest, batch_tokens);
        }
        items
    }
}

#[cfg(test)]
mod tests;
