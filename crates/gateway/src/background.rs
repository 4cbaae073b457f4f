//! Threads that serve no request: one that works until its owner drops it, which joins it, and a detached one for work
//! that may never end.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::oneshot;

/// Longest wait for a thread to end before it is abandoned: it may be in a read that never returns.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running thread. Dropping it stops the thread and waits for its end, for a few seconds at most.
pub(crate) struct Background {
    name: &'static str,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread's work is done. The lock only makes it [`Sync`].
    done: Mutex<mpsc::Receiver<()>>,
}

/// The thread's side: whether it should end.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether it should end now.
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Waits for `time`, or less when it should end; tells whether to go on.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        if !self.asked() {
            thread::park_timeout(time);
        }
        !self.asked()
    }
}

impl Background {
    /// Starts `body`, which must look at its [`Stop`] often.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(name: &'static str, body: impl FnOnce(&Stop) + Send + 'static) -> io::Result<Self> {
        let stop = Stop::default();
        let own = stop.clone();
        let (working, done) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _working = working;
            body(&own);
        })?;
        Ok(Self { name, stop, thread: Some(thread), done: Mutex::new(done) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        let done = self.done.get_mut().unwrap_or_else(PoisonError::into_inner);
        if done.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(thread = self.name, "a background thread did not end in time and is abandoned");
            return;
        }
        if thread.join().is_err() {
            tracing::error!(thread = self.name, "a thread in the background panicked");
        }
    }
}

/// Runs `work` on a thread of its own, which is never joined. A read from a volume that does not answer never ends, and
/// the end of the runtime would wait for it in tokio's blocking pool. The receiver gets the result, or an error if
/// `work` panicked.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn_detached<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    // The receiver may be gone: then the result is dropped, on this thread.
    thread::Builder::new().name(name.to_owned()).spawn(move || drop(sender.send(work())))?;
    Ok(receiver)
}
