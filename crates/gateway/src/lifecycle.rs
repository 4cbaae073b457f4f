//! State of the server (loading, serving, draining), and the models while it serves.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    error::{ApiError, Code},
    registry::Registry,
};

/// `retry-after` while models load: the usual ones take about a second.
const LOADING_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The server's state. Probes read it; requests take the models from it.
pub(crate) struct Lifecycle {
    started: Instant,
    /// `None` while loading, and again after [`Lifecycle::close`].
    registry: RwLock<Option<Arc<Registry>>>,
    is_draining: AtomicBool,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { started: Instant::now(), registry: RwLock::default(), is_draining: AtomicBool::default() }
    }
}

impl Lifecycle {
    /// Time since the start of the server.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Starts to serve these models, which are loaded, warmed up and checked.
    pub(crate) fn open(&self, registry: Registry) {
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(registry));
    }

    /// Makes `/readyz` fail, while requests are still answered.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Stops serving the models.
    pub(crate) fn close(&self) -> Option<Arc<Registry>> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns true while the models are served.
    pub(crate) fn is_loaded(&self) -> bool {
        self.models().is_some()
    }

    /// Returns true once the server drains.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// The models, while they are served.
    pub(crate) fn models(&self) -> Option<Arc<Registry>> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The models, for a request.
    ///
    /// # Errors
    /// 503 while they load, and once they are no longer served.
    pub(crate) fn registry(&self) -> Result<Arc<Registry>, ApiError> {
        let code = if self.is_draining() { Code::Draining } else { Code::Loading };
        self.models().ok_or_else(|| ApiError::unavailable(code, LOADING_RETRY_AFTER))
    }
}
