//! A forward pass through some layers: tasks that several threads draw from one counter.
//!
//! Every thread draws task numbers from the counter and, before each task, waits until the steps before it are done.
//! No thread leads, so a helper that wakes late or loses its core delays the pass by no more than its current task.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    EncodeError,
    batch::RaggedBatch,
    network::{Activations, Network},
    plan::{Task, TaskPlan},
};

/// Iterations of a waiting loop before the thread yields its core. A step of a short text takes about 10 µs, so most
/// waits end earlier.
const MAX_SPINS: usize = 2_000;

/// Hands out the tasks of a pass and limits the number of helpers.
pub(crate) struct TaskCounter {
    plan: TaskPlan,
    next: AtomicUsize,
    done: AtomicUsize,
    /// Maximum of `helpers`.
    limit: AtomicUsize,
    /// Helpers in the pass.
    helpers: AtomicUsize,
    panicked: AtomicBool,
}

impl TaskCounter {
    pub(crate) fn new(plan: TaskPlan) -> Self {
        Self {
            plan,
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            helpers: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        }
    }

    /// Runs tasks until all are drawn or `keep_going`, called before each, returns false. All tasks are done when this
    /// has returned on every thread and at least one thread never stopped early, unless a task panicked.
    fn run(&self, keep_going: &mut dyn FnMut() -> bool, mut run: impl FnMut(Task)) {
        while keep_going()
            && let Some(task) = self.plan.task(self.next.fetch_add(1, Ordering::Relaxed))
        {
            if !self.wait_for(task.ready_after) {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| run(task))).is_err() {
                self.panicked.store(true, Ordering::Release);
                return;
            }
            // Release: a thread that reads the count also sees the values that the task wrote.
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits until `tasks` tasks are done. Returns false if a task panicked.
    fn wait_for(&self, tasks: usize) -> bool {
        let mut spins = 0;
        while self.done.load(Ordering::Acquire) < tasks {
            if self.panicked.load(Ordering::Acquire) {
                return false;
            }
            spins += 1;
            if spins < MAX_SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        true
    }

    /// Sets the maximum number of helpers. Returns true if it grew.
    pub(crate) fn set_limit(&self, helpers: usize) -> bool {
        self.limit.swap(helpers, Ordering::Relaxed) < helpers
    }

    /// Counts one more helper, if tasks are left and the limit permits.
    pub(crate) fn try_enter(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let one_more = |helpers| (helpers < limit).then_some(helpers + 1);
        self.next.load(Ordering::Relaxed) < self.plan.tasks()
            && self.helpers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Returns true if a helper stays within the limit. Otherwise it is no longer counted and must leave.
    pub(crate) fn may_continue(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let one_less = |helpers| (helpers > limit).then(|| helpers - 1);
        self.helpers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
    }
}

/// All that a thread needs to take part in a pass.
pub(crate) struct ForwardPass {
    network: Arc<dyn Network>,
    batch: Arc<RaggedBatch>,
    activations: Arc<Activations>,
    pub(crate) tasks: TaskCounter,
}

impl ForwardPass {
    /// # Safety
    /// No two passes with the same activations may run at the same time.
    pub(crate) unsafe fn new(
        network: Arc<dyn Network>,
        batch: Arc<RaggedBatch>,
        activations: Arc<Activations>,
        plan: TaskPlan,
    ) -> Self {
        Self { network, batch, activations, tasks: TaskCounter::new(plan) }
    }

    /// Runs tasks until all are drawn or `keep_going`, called before each, returns false.
    pub(crate) fn run(&self, keep_going: &mut dyn FnMut() -> bool) {
        self.tasks.run(keep_going, |task| {
            // SAFETY: the counter hands out each task once, and only after all earlier steps are done; no other
            // pass uses the activations (see `new`).
            unsafe { self.network.run(task, &self.batch, &self.activations) }
        });
    }

    /// Result of the pass, after all threads have returned from [`run`](Self::run).
    pub(crate) fn result(&self) -> Result<(), EncodeError> {
        let done = self.tasks.done.load(Ordering::Acquire) == self.tasks.plan.tasks();
        if done { Ok(()) } else { Err(EncodeError::Panicked) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bert;

    #[test]
    fn helpers_never_exceed_the_limit() {
        let tasks = TaskCounter::new(TaskPlan::new(&bert(|_| ()), 40, 0..1, 3, false));
        assert!(!tasks.try_enter());
        assert!(tasks.set_limit(2));
        assert_eq!([(); 3].map(|()| tasks.try_enter()), [true, true, false]);
        assert!(tasks.may_continue());
        assert!(!tasks.set_limit(1));
        assert_eq!([tasks.may_continue(), tasks.may_continue()], [false, true]);
        assert!(tasks.set_limit(2));
        assert!(tasks.try_enter());
        tasks.run(&mut || false, |_| panic!("runs a task although `keep_going` returned false"));
        tasks.run(&mut || true, |_| ());
        assert_eq!(tasks.done.load(Ordering::Acquire), tasks.plan.tasks());
        assert!(tasks.set_limit(3));
        assert!(!tasks.try_enter(), "all tasks are drawn");
    }
}
