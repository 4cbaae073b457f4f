//! A thread that works beside the requests until whoever started it lets go of it, and is joined then.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// A running thread. Dropping it stops the thread and waits for its end.
pub(crate) struct Background {
    name: &'static str,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
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
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || body(&own))?;
        Ok(Self { name, stop, thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!(thread = self.name, "a thread in the background panicked");
        }
    }
}
