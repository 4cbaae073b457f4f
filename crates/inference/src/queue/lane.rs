//! Jobs of one kind in the order of their turns: what a turn draws from them, and where the rest stands afterwards.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    batch::{Budget, plan},
    item::Item,
    job::Work,
};

/// Jobs that a turn looks at, beyond those it takes from, for whether they are over.
pub(super) const SWEPT: usize = 8;

/// A job's references to items.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) work: Arc<Work>,
    /// The round in which its next turn comes.
    pub(super) round: u64,
    /// Whether a shorter job has gone before it, out of turn, since its own last turn.
    pub(super) overtaken: bool,
    /// Longest first: like lengths stand together, and the last batch of a job is a small one.
    items: VecDeque<Arc<Item>>,
    /// Tokens of these, taken by others or not.
    tokens: usize,
}

impl Pending {
    pub(super) fn new(work: Arc<Work>, mut items: Vec<Arc<Item>>, round: u64) -> Self {
        items.sort_by_key(|item| std::cmp::Reverse(item.tokens()));
        let tokens = items.iter().map(|item| item.tokens()).sum();
        Self { work, round, overtaken: false, items: items.into(), tokens }
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    fn pop(&mut self) -> Option<Arc<Item>> {
        let item = self.items.pop_front()?;
        self.tokens -= item.tokens();
        Some(item)
    }

    fn put_back(&mut self, item: Arc<Item>) {
        self.tokens += item.tokens();
        self.items.push_front(item);
    }

    /// The next reference to an item that waits; drops those to items that others have taken.
    fn next(&mut self) -> Option<Arc<Item>> {
        while let Some(item) = self.pop() {
            if !item.is_taken() {
                return Some(item);
            }
            item.notes.references.fetch_sub(1, Ordering::Relaxed);
        }
        None
    }

    /// Drops all references.
    fn discard(&mut self, account: &mut Account) {
        while let Some(item) = self.pop() {
            if item.notes.references.fetch_sub(1, Ordering::Relaxed) == 1 && !item.is_taken() {
                account.tokens -= item.tokens();
                account.orphans.push(item);
            }
        }
    }
}

/// What waits, over all lanes.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Tokens of the items that wait, each once; those of jobs that are over count until they are met.
    pub(super) tokens: usize,
    /// Items that lost their last reference.
    pub(super) orphans: Vec<Arc<Item>>,
}

/// Jobs of one kind.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// By round.
    jobs: VecDeque<Pending>,
    swept: usize,
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

impl Lane {
    /// Adds a job behind those of its round and of earlier ones.
    pub(super) fn insert(&mut self, pending: Pending) {
        let place = self.jobs.partition_point(|other| other.round <= pending.round);
        self.jobs.insert(place, pending);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Pending> {
        self.jobs.drain(..)
    }

    /// The job whose turn is next: live, and with something to run. Drops those before it that are not.
    pub(super) fn front(
        &mut self,
        is_over: impl Fn(&Work) -> bool,
        account: &mut Account,
    ) -> Option<&mut Pending> {
        while let Some(front) = self.jobs.front_mut() {
            if is_over(&front.work) {
                front.discard(account);
            } else if let Some(item) = front.next() {
                front.put_back(item);
                break;
            }
            self.jobs.pop_front();
        }
        self.jobs.front_mut()
    }

    /// The items to run next, of which the first job gives at least one, and what is left of that job, if anything.
    /// `turn` is this turn's number. Nothing when nothing waits.
    pub(super) fn take(
        &mut self,
        turn: u64,
        budget: Budget,
        is_over: impl Fn(&Work) -> bool,
        account: &mut Account,
    ) -> (Vec<Arc<Item>>, Option<Pending>) {
        let (drawn, reach) = self.draw(budget, is_over, account);
        // A sequence that two jobs refer to is one candidate.
        let is_first = |drawn: &&Drawn| drawn.item.notes.turn.swap(turn, Ordering::Relaxed) != turn;
        let candidates: Vec<&Drawn> = drawn.iter().filter(is_first).collect();
        let lengths: Vec<usize> = candidates.iter().map(|drawn| drawn.item.tokens()).collect();
        let chosen = plan(&lengths, budget).into_iter().map(|index| Arc::clone(&candidates[index].item));
        let taken: Vec<Arc<Item>> = chosen.filter(|item| item.take()).collect();
        account.tokens -= taken.iter().map(|item| item.tokens()).sum::<usize>();
        // The rest goes back to where it stood.
        for Drawn { job, item } in drawn.into_iter().rev() {
            if item.is_taken() {
                item.notes.references.fetch_sub(1, Ordering::Relaxed);
            } else {
                self.jobs[job].put_back(item);
            }
        }
        let mut met: VecDeque<Pending> = self.jobs.drain(..reach).collect();
        let anchor = met.pop_front();
        for pending in met.into_iter().rev().filter(|pending| !pending.items.is_empty()) {
            self.jobs.push_front(pending);
        }
        (taken, anchor.filter(|pending| !pending.items.is_empty()))
    }

    /// Draws candidates in the order of their turns: every job's next, then every job's next but one, … until
    /// there is choice enough. Tells how many jobs it met.
    fn draw(
        &mut self,
        budget: Budget,
        is_over: impl Fn(&Work) -> bool,
        account: &mut Account,
    ) -> (Vec<Drawn>, usize) {
        self.front(&is_over, account);
        let mut drawn = Draw { budget, drawn: Vec::new(), sum: 0 };
        let mut round = Vec::new();
        let mut reach = 0;
        while reach < self.jobs.len() && !drawn.is_enough() {
            let pending = &mut self.jobs[reach];
            if reach > 0 && is_over(&pending.work) {
                pending.discard(account);
            } else if let Some(item) = pending.next() {
                drawn.push(reach, item);
                round.push(reach);
            }
            reach += 1;
        }
        while !round.is_empty() && !drawn.is_enough() {
            round.retain(|&job| {
                let item = if drawn.is_enough() { None } else { self.jobs[job].next() };
                item.map(|item| drawn.push(job, item)).is_some()
            });
        }
        (drawn.drawn, reach)
    }

    /// Looks at a few jobs that may be far from their turns, and empties those that are over.
    pub(super) fn sweep(&mut self, is_over: impl Fn(&Work) -> bool, account: &mut Account) {
        for _ in 0..SWEPT.min(self.jobs.len()) {
            self.swept = (self.swept + 1) % self.jobs.len();
            let pending = &mut self.jobs[self.swept];
            if is_over(&pending.work) {
                pending.discard(account);
            }
        }
    }
}
