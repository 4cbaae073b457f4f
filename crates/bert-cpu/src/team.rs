//! Threads that help with a pass, and the order in which its tasks may run.
//!
//! All who take part draw task numbers from one counter and wait, before each task, until the steps before it are
//! done. So there is no leader to wait for: a helper that wakes late, or is taken off its core, costs no more
//! than the task it holds.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{
    EncodeError, ModelError,
    plan::{Plan, Task},
};

/// Turns of a waiting loop before the core is offered to others. A step of a short text takes some ten
/// microseconds, so whoever waits for it usually need not let go.
const SPINS: usize = 2_000;

/// How far a pass is.
pub(crate) struct Progress {
    plan: Plan,
    next: AtomicUsize,
    done: AtomicUsize,
    panicked: AtomicBool,
}

impl Progress {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, next: AtomicUsize::new(0), done: AtomicUsize::new(0), panicked: AtomicBool::new(false) }
    }

    /// Runs tasks until none is left to begin. When this returns on every thread that called it, all tasks are
    /// done, unless one panicked.
    pub(crate) fn work(&self, mut run: impl FnMut(Task)) {
        while let Some(task) = self.plan.task(self.next.fetch_add(1, Ordering::Relaxed)) {
            if !self.wait(task.after) {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| run(task))).is_err() {
                self.panicked.store(true, Ordering::Release);
                return;
            }
            // Release: whoever sees the count sees what the task wrote.
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits until `tasks` tasks are done; `false` when one panicked and they never will be.
    fn wait(&self, tasks: usize) -> bool {
        let mut turns = 0;
        while self.done.load(Ordering::Acquire) < tasks {
            if self.panicked.load(Ordering::Acquire) {
                return false;
            }
            turns += 1;
            if turns < SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        true
    }

    /// Whether every task was done; asked when everybody has left.
    pub(crate) fn result(&self) -> Result<(), EncodeError> {
        let done = self.done.load(Ordering::Acquire) == self.plan.tasks();
        if done { Ok(()) } else { Err(EncodeError::Panicked) }
    }
}

/// A pass that several threads may work on.
pub(crate) trait Pass: Send + Sync {
    /// Takes part until no task is left to begin.
    fn work(&self);
}

/// Threads that sleep until an encoder asks for help. One team serves all encoders of a model: whoever finds it
/// busy works alone.
pub struct Team {
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<()>>,
}

struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    offer: Option<Offer>,
    /// Helpers at work on the offer.
    active: usize,
    closed: bool,
}

struct Offer {
    pass: Arc<dyn Pass>,
    seats: usize,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Body of a helper.
    fn help(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some(offer) = state.offer.as_mut().filter(|offer| offer.seats > 0) else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            offer.seats -= 1;
            let pass = Arc::clone(&offer.pass);
            state.active += 1;
            drop(state);
            pass.work();
            drop(pass);
            state = self.lock();
            state.active -= 1;
            if state.active == 0 {
                self.changed.notify_all();
            }
        }
    }
}

impl Team {
    /// Starts `helpers` threads; with none, every pass runs on its caller's thread alone.
    ///
    /// # Errors
    /// [`ModelError::Thread`].
    pub fn new(helpers: usize) -> Result<Self, ModelError> {
        let desk = Arc::new(Desk { state: Mutex::default(), changed: Condvar::new() });
        let mut team = Self { desk, threads: Vec::with_capacity(helpers) };
        for _ in 0..helpers {
            let desk = Arc::clone(&team.desk);
            let body = move || desk.help();
            team.threads
                .push(thread::Builder::new().name("helper".into()).spawn(body).map_err(ModelError::Thread)?);
        }
        Ok(team)
    }

    /// Number of helpers.
    pub fn helpers(&self) -> usize {
        self.threads.len()
    }

    /// Works on `pass` together with up to `helpers` helpers, and returns when nobody works on it any more.
    pub(crate) fn run(&self, pass: &Arc<dyn Pass>, helpers: usize) {
        let offered = helpers > 0 && self.offer(pass, helpers);
        pass.work();
        if offered {
            let mut state = self.desk.lock();
            state.offer = None;
            while state.active > 0 {
                state = self.desk.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn offer(&self, pass: &Arc<dyn Pass>, seats: usize) -> bool {
        let mut state = self.desk.lock();
        if state.offer.is_some() || state.active > 0 {
            return false;
        }
        state.offer = Some(Offer { pass: Arc::clone(pass), seats });
        drop(state);
        self.desk.changed.notify_all();
        true
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A helper catches its tasks' panics, so there is nothing to learn from its end.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("helpers", &self.helpers()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Positions, Shape};

    const SHAPE: Shape = Shape {
        hidden: 32,
        heads: 4,
        layers: 3,
        intermediate: 64,
        vocabulary: 10,
        position_rows: 64,
        positions: Positions::FromZero,
        activation: Activation::Relu,
        epsilon: 1e-5,
    };

    /// Notes which tasks ran, and whether one ran before its step.
    struct Recorder {
        progress: Progress,
        ran: Mutex<Vec<Task>>,
        early: AtomicBool,
        panic_at: Option<usize>,
    }

    impl Pass for Recorder {
        fn work(&self) {
            self.progress.work(|task| {
                let mut ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner);
                if ran.len() < task.after {
                    self.early.store(true, Ordering::Release);
                }
                assert_ne!(Some(ran.len()), self.panic_at, "asked to panic");
                ran.push(task);
            });
        }
    }

    fn run(team: &Team, helpers: usize, panic_at: Option<usize>) -> Arc<Recorder> {
        let progress = Progress::new(Plan::new(&SHAPE, 40, helpers + 1));
        let (ran, early) = (Mutex::default(), AtomicBool::new(false));
        let recorder = Arc::new(Recorder { progress, ran, early, panic_at });
        team.run(&(Arc::clone(&recorder) as Arc<dyn Pass>), helpers);
        recorder
    }

    #[test]
    fn every_task_runs_once_after_the_steps_before_it() {
        let team = Team::new(3).unwrap();
        for helpers in [0, 1, 3, 3, 2] {
            let recorder = run(&team, helpers, None);
            assert_eq!(recorder.progress.result(), Ok(()));
            assert!(!recorder.early.load(Ordering::Acquire));
            assert_eq!(recorder.ran.lock().unwrap().len(), recorder.progress.plan.tasks());
        }
    }

    #[test]
    fn a_panic_ends_the_pass_and_not_the_team() {
        let team = Team::new(2).unwrap();
        for helpers in [0, 2] {
            assert_eq!(run(&team, helpers, Some(7)).progress.result(), Err(EncodeError::Panicked));
        }
        assert_eq!(run(&team, 2, None).progress.result(), Ok(()));
    }

    #[test]
    fn two_encoders_share_a_team() {
        let team = Team::new(2).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_eq!(run(&team, 2, None).progress.result(), Ok(()));
                    }
                });
            }
        });
    }
}
