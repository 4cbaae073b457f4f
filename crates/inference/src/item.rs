//! A sequence of tokens that is computed once, whoever asks for it: the ids, and all who wait for their vector.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::job::Work;

/// One distinct sequence in flight. Every job that needs it subscribes, and queues a reference of its own; the
/// first of these whose turn comes takes it. So a job that leaves takes nothing away from the others.
#[derive(Debug)]
pub(crate) struct Item {
    ids: Arc<[u32]>,
    /// Computed for one job only, neither found nor kept by others.
    pub(crate) private: bool,
    /// Set when a worker has taken it, or its vector came from elsewhere: nobody needs to compute it any more.
    taken: AtomicBool,
    /// Whether the second tier was asked.
    looked_up: AtomicBool,
    subscribers: Mutex<Vec<Subscriber>>,
    pub(crate) notes: Notes,
}

/// What the queue notes on an item; touched only under the queue's lock.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// References in the queue.
    pub(crate) references: AtomicUsize,
    /// The turn in which it was last a candidate.
    pub(crate) turn: AtomicU64,
}

/// A place in a job that waits for an item's vector.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) work: Arc<Work>,
    /// Position among the job's sequences.
    pub(crate) position: usize,
}

/// What a job finds when it subscribes to an item that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It waits; the job has to queue a reference.
    Waiting,
    /// It waits, and this job has a reference to it.
    Again,
    /// It is being computed.
    Running,
}

impl Item {
    /// An item with its first subscriber.
    pub(crate) fn new(ids: Arc<[u32]>, work: &Arc<Work>, position: usize, private: bool) -> Arc<Self> {
        Arc::new(Self {
            ids,
            private,
            taken: AtomicBool::new(false),
            looked_up: AtomicBool::new(false),
            subscribers: Mutex::new(vec![Subscriber { work: Arc::clone(work), position }]),
            notes: Notes::default(),
        })
    }

    /// Its ids, special tokens included; at least one.
    pub(crate) fn ids(&self) -> &Arc<[u32]> {
        &self.ids
    }

    /// Number of its tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Adds a subscriber. Only for items that can still be found, and so are not closed.
    pub(crate) fn subscribe(&self, work: &Arc<Work>, position: usize) -> Found {
        let mut subscribers = self.lock();
        let again = subscribers.last().is_some_and(|last| Arc::ptr_eq(&last.work, work));
        subscribers.push(Subscriber { work: Arc::clone(work), position });
        match (self.is_taken(), again) {
            (true, _) => Found::Running,
            (false, true) => Found::Again,
            (false, false) => Found::Waiting,
        }
    }

    /// Takes it out of the competition; `false` when somebody else has.
    pub(crate) fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// Whether the second tier is still to be asked; once.
    pub(crate) fn look_up(&self) -> bool {
        !self.looked_up.swap(true, Ordering::AcqRel)
    }

    /// Whether anybody still waits for it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lock().iter().any(|subscriber| !subscriber.work.is_over())
    }

    /// It reached an encoder: tells every subscriber, and `waited` for those of whom it is the first sequence.
    pub(crate) fn start(&self, now: Instant, mut waited: impl FnMut(Duration)) {
        for subscriber in &*self.lock() {
            if let Some(time) = subscriber.work.start(now) {
                waited(time);
            }
        }
    }

    /// Ends it and hands out all who wait. Whoever calls has made sure that it cannot be found any more.
    pub(crate) fn close(&self) -> Vec<Subscriber> {
        self.taken.store(true, Ordering::Release);
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        // Nothing here panics halfway through a change.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
