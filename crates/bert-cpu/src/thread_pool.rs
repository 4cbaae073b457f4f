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

/// How far a pass is, and who works on it.
pub(crate) struct Progress {
    plan: Plan,
    next: AtomicUsize,
    done: AtomicUsize,
    /// Helpers that may work on it at present.
    allowed: AtomicUsize,
    helping: AtomicUsize,
    panicked: AtomicBool,
}

impl Progress {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            allowed: AtomicUsize::new(0),
            helping: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        }
    }

    /// Runs tasks until none is left to begin, or `stays`, asked before each, says no. When this has returned on every
    /// thread that called it, and to one of them `stays` never said no, all tasks are done, unless one panicked.
    pub(crate) fn work(&self, stays: &mut dyn FnMut() -> bool, mut run: impl FnMut(Task)) {
        while stays()
            && let Some(task) = self.plan.task(self.next.fetch_add(1, Ordering::Relaxed))
        {
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

    /// Sets how many may help; whether that is more than before.
    fn allow(&self, helpers: usize) -> bool {
        self.allowed.swap(helpers, Ordering::Relaxed) < helpers
    }

    /// Whether one more helper may begin, who is then counted.
    fn join(&self) -> bool {
        let allowed = self.allowed.load(Ordering::Relaxed);
        let one_more = |helping| (helping < allowed).then_some(helping + 1);
        self.next.load(Ordering::Relaxed) < self.plan.tasks()
            && self.helping.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Whether a helper may go on; one who may not is no longer counted.
    fn stay(&self) -> bool {
        let allowed = self.allowed.load(Ordering::Relaxed);
        let one_less = |helping| (helping > allowed).then(|| helping - 1);
        self.helping.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
    }
}

/// A pass that several threads may work on.
pub(crate) trait Pass: Send + Sync {
    fn progress(&self) -> &Progress;

    /// Takes part until no task is left to begin, or `stays`, asked before each, says no.
    fn work(&self, stays: &mut dyn FnMut() -> bool);
}

/// Threads that sleep until an encoder asks for help. One pool serves all encoders of a model: whoever finds it
/// busy works alone.
pub struct ThreadPool {
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<()>>,
}

struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    offer: Option<Arc<dyn Pass>>,
    /// Helpers at work on the offer.
    active: usize,
    closed: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Body of a helper.
    fn help(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some(pass) = state.offer.as_ref().filter(|pass| pass.progress().join()).map(Arc::clone)
            else {
                state = self.wait(state);
                continue;
            };
            state.active += 1;
            drop(state);
            pass.work(&mut || pass.progress().stay());
            drop(pass);
            state = self.lock();
            state.active -= 1;
            if state.active == 0 {
                self.changed.notify_all();
            }
        }
    }
}

impl ThreadPool {
    /// Starts `helpers` threads; with none, every pass runs on its caller's thread alone.
    ///
    /// # Errors
    /// [`ModelError::Thread`].
    pub fn new(helpers: usize) -> Result<Self, ModelError> {
        let desk = Arc::new(Desk { state: Mutex::default(), changed: Condvar::new() });
        let mut pool = Self { desk, threads: Vec::with_capacity(helpers) };
        for _ in 0..helpers {
            let desk = Arc::clone(&pool.desk);
            let body = move || desk.help();
            pool.threads
                .push(thread::Builder::new().name("helper".into()).spawn(body).map_err(ModelError::Thread)?);
        }
        Ok(pool)
    }

    /// Number of helpers.
    pub fn helpers(&self) -> usize {
        self.threads.len()
    }

    /// Works on `pass`, with helpers if `helpers`, the number that may help at first, is not 0, and returns when nobody
    /// works on it any more. `meanwhile` is called before each task of this thread; then as many may help as it
    /// says, but no more than at first.
    pub(crate) fn run(&self, pass: &Arc<dyn Pass>, helpers: usize, meanwhile: &mut dyn FnMut() -> usize) {
        let offer = if helpers > 0 { self.offer(pass, helpers) } else { None };
        pass.work(&mut || {
            let helpers = meanwhile().min(helpers);
            if offer.is_some() && pass.progress().allow(helpers) {
                // Held for a moment, so that no helper is between looking and sleeping.
                drop(self.desk.lock());
                self.desk.changed.notify_all();
            }
            true
        });
    }

    fn offer(&self, pass: &Arc<dyn Pass>, helpers: usize) -> Option<Offer<'_>> {
        let mut state = self.desk.lock();
        if state.offer.is_some() || state.active > 0 {
            return None;
        }
        pass.progress().allow(helpers);
        state.offer = Some(Arc::clone(pass));
        drop(state);
        self.desk.changed.notify_all();
        Some(Offer(&self.desk))
    }
}

/// A pass that helpers can see. Dropping it waits for those who help.
struct Offer<'d>(&'d Desk);

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.offer = None;
        while state.active > 0 {
            state = self.0.wait(state);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A helper catches its tasks' panics, so there is nothing to learn from its end.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("helpers", &self.helpers()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{Activation, BertConfig, Positions};

    const CONFIG: BertConfig = BertConfig {
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
        helped: AtomicBool,
        panic_at: Option<usize>,
    }

    impl Pass for Recorder {
        fn progress(&self) -> &Progress {
            &self.progress
        }

        fn work(&self, stays: &mut dyn FnMut() -> bool) {
            self.progress.work(stays, |task| {
                let mut ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner);
                if ran.len() < task.after {
                    self.early.store(true, Ordering::Release);
                }
                assert_ne!(Some(ran.len()), self.panic_at, "asked to panic");
                ran.push(task);
                if thread::current().name() == Some("helper") {
                    self.helped.store(true, Ordering::Release);
                }
            });
        }
    }

    fn recorder(helpers: usize, panic_at: Option<usize>) -> Arc<Recorder> {
        let progress = Progress::new(Plan::new(&CONFIG, 40, 0..CONFIG.layers, helpers + 1));
        let (ran, early, helped) = Default::default();
        Arc::new(Recorder { progress, ran, early, helped, panic_at })
    }

    fn run(pool: &ThreadPool, helpers: usize, panic_at: Option<usize>) -> Arc<Recorder> {
        let recorder = recorder(helpers, panic_at);
        pool.run(&(Arc::clone(&recorder) as Arc<dyn Pass>), helpers, &mut || helpers);
        recorder
    }

    #[test]
    fn as_many_help_as_are_allowed() {
        let progress = Progress::new(Plan::new(&CONFIG, 40, 0..1, 3));
        assert!(!progress.join());
        assert!(progress.allow(2));
        assert_eq!([(); 3].map(|()| progress.join()), [true, true, false]);
        assert!(progress.stay());
        assert!(!progress.allow(1));
        assert_eq!([progress.stay(), progress.stay()], [false, true]);
        assert!(progress.allow(2));
        assert!(progress.join());
        progress.work(&mut || false, |_| panic!("leaves before it begins"));
        progress.work(&mut || true, |_| ());
        assert_eq!(progress.result(), Ok(()));
        assert!(progress.allow(3));
        assert!(!progress.join(), "nothing is left to begin");
    }

    /// At first nobody may help; then somebody may, and the owner waits until somebody has.
    #[test]
    fn helpers_come_when_they_are_allowed() {
        let pool = ThreadPool::new(2).unwrap();
        for _ in 0..50 {
            let recorder = recorder(2, None);
            let mut calls = 0;
            pool.run(&(Arc::clone(&recorder) as Arc<dyn Pass>), 2, &mut || {
                calls += 1;
                let end = Instant::now() + Duration::from_secs(10);
                while calls > 6 && !recorder.helped.load(Ordering::Acquire) {
                    assert!(Instant::now() < end, "nobody came");
                    thread::yield_now();
                }
                if calls < 6 { 0 } else { 1 }
            });
            assert_eq!(recorder.progress.result(), Ok(()));
            assert!(!recorder.early.load(Ordering::Acquire));
            assert_eq!(recorder.ran.lock().unwrap().len(), recorder.progress.plan.tasks());
        }
    }

    #[test]
    fn every_task_runs_once_after_the_steps_before_it() {
        let pool = ThreadPool::new(3).unwrap();
        for helpers in [0, 1, 3, 3, 2] {
            let recorder = run(&pool, helpers, None);
            assert_eq!(recorder.progress.result(), Ok(()));
            assert!(!recorder.early.load(Ordering::Acquire));
            assert_eq!(recorder.ran.lock().unwrap().len(), recorder.progress.plan.tasks());
        }
    }

    #[test]
    fn a_panic_ends_the_pass_and_not_the_pool() {
        let pool = ThreadPool::new(2).unwrap();
        for helpers in [0, 2] {
            assert_eq!(run(&pool, helpers, Some(7)).progress.result(), Err(EncodeError::Panicked));
        }
        assert_eq!(run(&pool, 2, None).progress.result(), Ok(()));
    }

    #[test]
    fn two_encoders_share_a_pool() {
        let pool = ThreadPool::new(2).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_eq!(run(&pool, 2, None).progress.result(), Ok(()));
                    }
                });
            }
        });
    }
}
