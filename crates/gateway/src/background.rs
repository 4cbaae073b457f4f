//! Threads that serve no requests: one that its owner stops and joins, and a detached one for work that may never end.

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

/// Maximum wait for a thread to end before it is abandoned: it may be in a read that never returns.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running thread. Dropping it stops the thread and waits up to [`STOP_TIMEOUT`] for its end.
pub(crate) struct BackgroundThread {
    name: &'static str,
    stop: StopToken,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread's work is done. The lock only makes it [`Sync`].
    done: Mutex<mpsc::Receiver<()>>,
}

/// The request to stop, as the thread sees it.
#[derive(Clone, Default)]
pub(crate) struct StopToken(Arc<AtomicBool>);

impl StopToken {
    /// Returns true if the thread must stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Waits for `time`, or until the thread must stop. Returns true if it may continue.
    pub(crate) fn wait_timeout(&self, time: Duration) -> bool {
        if !self.is_cancelled() {
            thread::park_timeout(time);
        }
        !self.is_cancelled()
    }
}

impl BackgroundThread {
    /// Starts a thread that runs `body`, which must check its [`StopToken`] often.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(crate) fn start(
        name: &'static str,
        body: impl FnOnce(&StopToken) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = StopToken::default();
        let token = stop.clone();
        let (working, done) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _working = working;
            body(&token);
        })?;
        Ok(Self { name, stop, thread: Some(thread), done: Mutex::new(done) })
    }
}

impl Drop for BackgroundThread {
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
            tracing::error!(thread = self.name, "a background thread panicked");
        }
    }
}

/// Runs `work` on a thread of its own, which is never joined. A read from a volume that does not respond never ends,
/// and in tokio's blocking pool it would block the end of the runtime. The receiver gets the result, or an error if
/// `work` panicked.
///
/// # Errors
/// If the system cannot start a thread.
pub fn spawn_detached<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    // If the receiver is gone, the result is dropped, on this thread.
    thread::Builder::new().name(name.to_owned()).spawn(move || drop(sender.send(work())))?;
    Ok(receiver)
}
