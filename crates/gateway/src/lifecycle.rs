//! Where the server is in its life (loading, serving, draining), and the models while it serves.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    error::{ApiError, Code},
    registry::Registry,
};

/// What a client is told to wait while models load: the usual ones take about a second.
const LOADING_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The server's state. Probes read it; requests take the models from it.
#[derive(Default)]
pub(crate) struct Lifecycle {
    /// `None` while loading, and again after [`Lifecycle::close`].
    registry: RwLock<Option<Arc<Registry>>>,
    draining: AtomicBool,
}

impl Lifecycle {
    /// The models are loaded, warm and checked: requests may come.
    pub(crate) fn open(&self, registry: Registry) {
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(registry));
    }

    /// The end was announced: not ready any more, though requests are still answered.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Takes the models out of service.
    pub(crate) fn close(&self) -> Option<Arc<Registry>> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether every model is loaded and warm.
    pub(crate) fn loaded(&self) -> bool {
        self.models().is_some()
    }

    /// Whether the end was announced.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The models, when they are there.
    pub(crate) fn models(&self) -> Option<Arc<Registry>> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The models, for a request.
    ///
    /// # Errors
    /// 503 while they are being loaded, and after they were taken out of service.
    pub(crate) fn registry(&self) -> Result<Arc<Registry>, ApiError> {
        let code = if self.draining() { Code::Draining } else { Code::Loading };
        self.models().ok_or_else(|| ApiError::unavailable(code, LOADING_RETRY_AFTER))
    }
}
