//! Helper threads that encoders share.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use crate::{ModelError, pass::ForwardPass};

/// Helper threads that sleep until an encoder asks for help. All encoders of a model share one pool; an encoder that
/// finds it busy works alone.
pub struct ThreadPool {
    state: Arc<PoolState>,
    threads: Vec<JoinHandle<()>>,
}

struct PoolState {
    locked: Mutex<LockedState>,
    changed: Condvar,
}

#[derive(Default)]
struct LockedState {
    published: Option<Arc<ForwardPass>>,
    /// Helpers at work on the published pass.
    active: usize,
    closed: bool,
}

impl PoolState {
    fn lock(&self) -> MutexGuard<'_, LockedState> {
        // No code panics while it holds the lock.
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, LockedState>) -> MutexGuard<'s, LockedState> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Body of a helper thread.
    fn help(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some(pass) = state.published.as_ref().filter(|pass| pass.tasks.try_enter()).map(Arc::clone)
            else {
                state = self.wait(state);
                continue;
            };
            state.active += 1;
            drop(state);
            pass.run(&mut || pass.tasks.may_continue());
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
    /// Starts `helpers` threads. Without any, every pass runs on its caller's thread alone.
    ///
    /// # Errors
    /// [`ModelError::Thread`] if the operating system does not start a thread.
    pub fn new(helpers: usize) -> Result<Self, ModelError> {
        let state = Arc::new(PoolState { locked: Mutex::default(), changed: Condvar::new() });
        let mut pool = Self { state, threads: Vec::with_capacity(helpers) };
        for _ in 0..helpers {
            let state = Arc::clone(&pool.state);
            let body = move || state.help();
            pool.threads
                .push(thread::Builder::new().name("helper".into()).spawn(body).map_err(ModelError::Thread)?);
        }
        Ok(pool)
    }

    /// Number of helper threads.
    pub fn helpers(&self) -> usize {
        self.threads.len()
    }

    /// Runs `pass` on this thread and at most `helpers` others, and returns when no thread works on it any more.
    /// `on_yield` is called before each task of this thread and returns how many helpers may take part from then on.
    pub(crate) fn run(&self, pass: &Arc<ForwardPass>, helpers: usize, on_yield: &mut dyn FnMut() -> usize) {
        let published = if helpers > 0 { self.publish(pass, helpers) } else { None };
        pass.run(&mut || {
            let helpers = on_yield().min(helpers);
            if published.is_some() && pass.tasks.set_limit(helpers) {
                // Taking the lock once prevents a lost wake-up: no helper is between its check and its wait.
                drop(self.state.lock());
                self.state.changed.notify_all();
            }
            true
        });
    }

    /// Publishes the pass to the helpers, unless they work for another encoder.
    fn publish(&self, pass: &Arc<ForwardPass>, helpers: usize) -> Option<PublishedPass<'_>> {
        let mut state = self.state.lock();
        if state.published.is_some() || state.active > 0 {
            return None;
        }
        pass.tasks.set_limit(helpers);
        state.published = Some(Arc::clone(pass));
        drop(state);
        self.state.changed.notify_all();
        Some(PublishedPass(&self.state))
    }
}

/// A pass that helpers can enter. Dropping it waits until they have left.
struct PublishedPass<'p>(&'p PoolState);

impl Drop for PublishedPass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.published = None;
        while state.active > 0 {
            state = self.0.wait(state);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.state.lock().closed = true;
        self.state.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A helper catches the panics of its tasks, so it does not end by a panic.
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
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        EncodeError, EncoderConfig, HiddenStates,
        batch::RaggedBatch,
        network::{Activations, Network},
        plan::{Task, TaskPlan},
        testing::{bert, config},
    };

    const LAYERS: usize = 3;
    const ROWS: usize = 40;

    fn test_config() -> EncoderConfig {
        config(&bert(|shape| shape.layers = LAYERS))
    }

    /// Records which tasks ran, and whether one ran before the steps before it were done.
    struct Recorder {
        config: EncoderConfig,
        ran: Mutex<Vec<Task>>,
        early: AtomicBool,
        helped: AtomicBool,
        panic_at: Option<usize>,
    }

    impl Recorder {
        fn new(panic_at: Option<usize>) -> Self {
            Self {
                config: test_config(),
                ran: Mutex::default(),
                early: AtomicBool::default(),
                helped: AtomicBool::default(),
                panic_at,
            }
        }
    }

    impl Network for Recorder {
        fn config(&self) -> &EncoderConfig {
            &self.config
        }

        fn allocate(&self, rows: usize) -> Activations {
            Activations::zeroed(rows, &[])
        }

        unsafe fn run(&self, task: Task, _: &RaggedBatch, _: &Activations) {
            let mut ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner);
            if ran.len() < task.ready_after {
                self.early.store(true, Ordering::Release);
            }
            assert_ne!(Some(ran.len()), self.panic_at, "asked to panic");
            ran.push(task);
            if thread::current().name() == Some("helper") {
                self.helped.store(true, Ordering::Release);
            }
        }

        unsafe fn hidden_states<'a>(&self, _: usize, _: &'a Activations) -> HiddenStates<'a> {
            HiddenStates::new(&[], 0, 0)
        }
    }

    fn plan(helpers: usize) -> TaskPlan {
        TaskPlan::new(test_config().spec(), ROWS, 0..LAYERS, helpers + 1, false)
    }

    fn pass(network: &Arc<Recorder>, helpers: usize) -> Arc<ForwardPass> {
        let network = Arc::clone(network);
        let batch = RaggedBatch::new(&network.config, &[1; ROWS], &[ROWS], &[]).unwrap();
        let activations = Arc::new(network.allocate(ROWS));
        // SAFETY: the activations are this pass's own.
        Arc::new(unsafe { ForwardPass::new(network, Arc::new(batch), activations, plan(helpers)) })
    }

    fn run(pool: &ThreadPool, helpers: usize, panic_at: Option<usize>) -> Result<(), EncodeError> {
        let network = Arc::new(Recorder::new(panic_at));
        let pass = pass(&network, helpers);
        pool.run(&pass, helpers, &mut || helpers);
        pass.result()
    }

    #[track_caller]
    fn assert_all_ran_in_order(network: &Recorder, pass: &ForwardPass, helpers: usize) {
        assert_eq!(pass.result(), Ok(()));
        assert!(!network.early.load(Ordering::Acquire));
        assert_eq!(network.ran.lock().unwrap().len(), plan(helpers).tasks());
    }

    /// The limit is 0 at first; after it was raised, the caller waits until a helper has run a task.
    #[test]
    fn helpers_join_when_the_limit_rises() {
        let pool = ThreadPool::new(2).unwrap();
        for _ in 0..50 {
            let network = Arc::new(Recorder::new(None));
            let pass = pass(&network, 2);
            let mut calls = 0;
            pool.run(&pass, 2, &mut || {
                calls += 1;
                let end = Instant::now() + Duration::from_secs(10);
                while calls > 6 && !network.helped.load(Ordering::Acquire) {
                    assert!(Instant::now() < end, "no helper came");
                    thread::yield_now();
                }
                if calls < 6 { 0 } else { 1 }
            });
            assert_all_ran_in_order(&network, &pass, 2);
        }
    }

    #[test]
    fn every_task_runs_once_after_the_steps_before_it() {
        let pool = ThreadPool::new(3).unwrap();
        for helpers in [0, 1, 3, 3, 2] {
            let network = Arc::new(Recorder::new(None));
            let pass = pass(&network, helpers);
            pool.run(&pass, helpers, &mut || helpers);
            assert_all_ran_in_order(&network, &pass, helpers);
        }
    }

    #[test]
    fn a_panic_ends_the_pass_and_not_the_pool() {
        let pool = ThreadPool::new(2).unwrap();
        for helpers in [0, 2] {
            assert_eq!(run(&pool, helpers, Some(7)), Err(EncodeError::Panicked));
        }
        assert_eq!(run(&pool, 2, None), Ok(()));
    }

    #[test]
    fn two_encoders_share_a_pool() {
        let pool = ThreadPool::new(2).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_eq!(run(&pool, 2, None), Ok(()));
                    }
                });
            }
        });
    }
}
