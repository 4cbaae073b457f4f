//! Loading and unloading of models while requests are served.
//!
//! Loads and unloads run on threads of their own, so that no request of another model waits for them. All requests for
//! a model that is not loaded wait for the same load (single-flight), which continues if they disconnect. The memory of
//! a model is reserved before its load and released after its unload (docs/adr/0023).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::time::{timeout, timeout_at};

use super::{
    LoadedModel,
    slot::{KeptModel, LoadRequest, ModelLease, ModelSlot},
};
use crate::{
    background::spawn_detached,
    config::{KeepAlive, LoadTime, LoadingConfig},
    error::{ApiError, Code},
    error_chain::error_chain,
    metrics::{LoadOutcome, Metrics, UnloadReason},
};

/// `retry-after` of a request whose model is still loading when its wait ends.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Time between two checks whether the requests in flight of a model have ended.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Time between two attempts to make room while every other model is in transition.
const ROOM_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// All configured models, and the memory that they share.
pub(crate) struct ModelPool {
    slots: Vec<Arc<ModelSlot>>,
    config: LoadingConfig,
    metrics: Metrics,
    /// Bytes of the models that are loaded, or in transition.
    reserved: Mutex<usize>,
    /// Number of threads that load or unload a model.
    running: AtomicUsize,
    is_closed: AtomicBool,
}

/// Counts a thread that loads or unloads a model until it is dropped.
struct RunningThread(Arc<ModelPool>);

impl RunningThread {
    fn new(pool: &Arc<ModelPool>) -> Self {
        pool.running.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(pool))
    }
}

impl Drop for RunningThread {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ModelPool {
    pub(super) fn new(slots: Vec<ModelSlot>, config: LoadingConfig, metrics: Metrics) -> Self {
        let mut reserved = 0;
        for slot in &slots {
            if slot.description().load == LoadTime::OnDemand {
                metrics.preregister_loads(slot.id());
            }
            if let Some(model) = slot.loaded() {
                reserved += slot.description().memory;
                metrics.model_loaded(&model.info(), slot.description().memory);
            }
        }
        metrics.set_memory_budget(config.memory_budget.map_or(0, |budget| budget.0));
        Self {
            slots: slots.into_iter().map(Arc::new).collect(),
            config,
            metrics,
            reserved: Mutex::new(reserved),
            running: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
        }
    }

    pub(super) fn slots(&self) -> &[Arc<ModelSlot>] {
        &self.slots
    }

    /// Bytes of the models that are loaded, or in transition.
    pub(crate) fn reserved(&self) -> usize {
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Capacity for models in bytes, if there is one.
    pub(crate) fn budget(&self) -> Option<usize> {
        self.config.memory_budget.map(|budget| budget.0)
    }

    /// Leases a model for a request. If it is not loaded, loads it or waits for its load, until `deadline` or for the
    /// configured time.
    ///
    /// # Errors
    /// 503 if the load fails or takes too long, if too many requests wait for it, or if the server has stopped.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        slot: &Arc<ModelSlot>,
        deadline: Instant,
    ) -> Result<ModelLease, ApiError> {
        if let Some(lease) = slot.lease() {
            return Ok(lease);
        }
        let _waiting = slot
            .wait_in_line(self.config.max_waiting_requests)
            .ok_or_else(|| ApiError::unavailable(Code::LoadQueueFull, RETRY_AFTER))?;
        let _counted = self.metrics.waiting_for_load(slot.id());
        let deadline = deadline.min(Instant::now() + self.config.timeout);
        let lease = self.until_loaded(slot, deadline, false, ModelSlot::lease).await?;
        lease.ok_or_else(|| ApiError::unavailable(Code::LoadTimeout, RETRY_AFTER))
    }

    /// Loads a model, also soon after a failure, and waits for the configured time. Does nothing if it is loaded.
    ///
    /// # Errors
    /// 503 if the load fails, or if the server has stopped.
    pub(crate) async fn load(self: &Arc<Self>, slot: &Arc<ModelSlot>) -> Result<(), ApiError> {
        let deadline = Instant::now() + self.config.timeout;
        self.until_loaded(slot, deadline, true, |slot| slot.loaded()).await.map(drop)
    }

    /// Waits until `take` returns a value, which it does of a loaded model; `None` at the deadline.
    async fn until_loaded<T>(
        self: &Arc<Self>,
        slot: &Arc<ModelSlot>,
        deadline: Instant,
        mut ignore_backoff: bool,
        take: impl Fn(&Arc<ModelSlot>) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        loop {
            let mut changed = std::pin::pin!(slot.changed().notified());
            // Before the state is read, so that no change is missed.
            changed.as_mut().enable();
            if let Some(taken) = take(slot) {
                return Ok(Some(taken));
            }
            match slot.request_load(std::mem::take(&mut ignore_backoff)) {
                LoadRequest::Started => self.start_load(slot),
                LoadRequest::InProgress => {}
                LoadRequest::BackedOff(remaining) => {
                    return Err(ApiError::unavailable(Code::LoadFailed, remaining));
                }
                LoadRequest::Closed => return Err(ApiError::unavailable(Code::Draining, RETRY_AFTER)),
            }
            if timeout_at(deadline.into(), changed).await.is_err() {
                return Ok(take(slot));
            }
        }
    }

    /// Starts a thread that loads a model whose slot the caller has made `Loading`.
    fn start_load(self: &Arc<Self>, slot: &Arc<ModelSlot>) {
        let (running, loaded) = (RunningThread::new(self), Arc::clone(slot));
        let thread = spawn_detached("load", move || running.0.run_load(&loaded));
        if let Err(error) = thread {
            self.finish_load(slot, Err(format!("cannot start a thread: {error}")));
        }
    }

    fn run_load(&self, slot: &ModelSlot) {
        let result = self.reserve(slot).and_then(|()| {
            tracing::info!(model = %slot.id(), "loading the model");
            let result = match catch_unwind(AssertUnwindSafe(|| slot.load())) {
                Ok(result) => result.map_err(|error| error_chain(&*error)),
                Err(_) => Err("loading panicked".to_owned()),
            };
            result.inspect_err(|_| self.release(slot))
        });
        self.finish_load(slot, result);
    }

    fn finish_load(&self, slot: &ModelSlot, result: Result<LoadedModel, String>) {
        let (id, memory) = (slot.id(), slot.description().memory);
        if self.is_closed.load(Ordering::Acquire) {
            tracing::info!(model = %id, "the server stopped while the model was loading");
            return;
        }
        // Metrics and log first: a client whose request was waiting may read them at once.
        match &result {
            Ok(model) => {
                self.metrics.model_loaded(&model.info(), memory);
                tracing::info!(seconds = model.load_time.as_secs_f64(), "loaded: {}", model.describe());
            }
            Err(error) => {
                self.metrics.load(id, LoadOutcome::Failure);
                tracing::error!(model = %id, error, "cannot load the model; a later request tries again");
            }
        }
        slot.finish_load(result);
    }

    /// Reserves memory for a model: unloads others until it fits.
    fn reserve(&self, slot: &ModelSlot) -> Result<(), String> {
        let needed = slot.description().memory;
        loop {
            if self.is_closed.load(Ordering::Acquire) {
                return Err("the server has stopped".to_owned());
            }
            {
                let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
                if self.budget().is_none_or(|budget| *reserved + needed <= budget) {
                    *reserved += needed;
                    return Ok(());
                }
            }
            let has_no_waiting_requests = |victim: &ModelSlot| victim.waiting() == 0;
            let unloaded = self.least_recently_used().is_some_and(|victim| {
                self.unload(victim, has_no_waiting_requests, UnloadReason::Budget).is_ok()
            });
            if !unloaded {
                thread::sleep(ROOM_POLL_INTERVAL);
            }
        }
    }

    fn release(&self, slot: &ModelSlot) {
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) -= slot.description().memory;
    }

    /// The model to unload for another one: the least recently used one without requests, else the least recently used
    /// one. A model for whose load requests have waited first serves them.
    fn least_recently_used(&self) -> Option<&ModelSlot> {
        let is_candidate = |slot: &&Arc<ModelSlot>| {
            slot.description().load == LoadTime::OnDemand && slot.waiting() == 0 && slot.loaded().is_some()
        };
        let candidates = self.slots.iter().filter(is_candidate);
        candidates.min_by_key(|slot| (slot.leases() > 0, slot.last_used())).map(|slot| &**slot)
    }

    /// Unloads a model if `condition` holds. Blocks until the requests that use it have ended.
    fn unload(
        &self,
        slot: &ModelSlot,
        condition: impl FnOnce(&ModelSlot) -> bool,
        reason: UnloadReason,
    ) -> Result<(), KeptModel> {
        let model = slot.request_unload(condition)?;
        while slot.leases() > 0 {
            thread::sleep(DRAIN_POLL_INTERVAL);
        }
        model.engine.stop(Duration::ZERO);
        let evictions = model.engine.stats().cache_evictions;
        self.metrics.model_unloaded(&model.info(), reason);
        drop(model);
        self.release(slot);
        tracing::info!(model = %slot.id(), reason = reason.label(), "unloaded");
        slot.finish_unload(evictions);
        Ok(())
    }

    /// Unloads a model by the operator's request, and waits for the configured time. Does nothing if it is not loaded.
    ///
    /// # Errors
    /// 409 if it is loading.
    pub(crate) async fn unload_by_admin(self: &Arc<Self>, slot: &Arc<ModelSlot>) -> Result<(), ApiError> {
        let (running, unloaded) = (RunningThread::new(self), Arc::clone(slot));
        let thread =
            spawn_detached("unload", move || running.0.unload(&unloaded, |_| true, UnloadReason::Admin));
        match timeout(self.config.timeout, thread.map_err(ApiError::internal)?).await {
            Ok(Ok(Err(KeptModel::Loading))) => {
                let message = format!("The model `{}` is loading. Unload it when it is loaded.", slot.id());
                Err(ApiError::new(Code::ModelIsLoading, message))
            }
            Ok(Err(panicked)) => Err(ApiError::internal(panicked)),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// Returns true if a model is unloaded after some time without requests.
    pub(super) fn has_idle_timeout(&self) -> bool {
        self.slots.iter().any(|slot| idle_timeout(slot).is_some())
    }

    /// Unloads the models that were idle for their time.
    pub(super) fn unload_idle(&self) {
        for slot in &self.slots {
            let Some(keep_alive) = idle_timeout(slot) else { continue };
            let is_idle = |slot: &ModelSlot| {
                let is_over = |used: Instant| used.elapsed() >= keep_alive;
                slot.leases() == 0 && slot.waiting() == 0 && slot.last_used().is_some_and(is_over)
            };
            // An error means that there is nothing to unload now.
            let _ = self.unload(slot, is_idle, UnloadReason::Idle);
        }
    }

    /// Stops every engine and joins its threads. Blocks while a batch runs, and up to `grace` for models in transition.
    /// Returns true if no thread is left. When the server calls this, every admitted request has been answered.
    pub(super) fn stop(&self, grace: Duration) -> bool {
        self.is_closed.store(true, Ordering::Release);
        for model in self.slots.iter().filter_map(|slot| slot.close()) {
            model.engine.stop(Duration::ZERO);
        }
        let end = Instant::now() + grace;
        while self.running.load(Ordering::Acquire) > 0 && Instant::now() < end {
            thread::sleep(ROOM_POLL_INTERVAL);
        }
        self.running.load(Ordering::Acquire) == 0
    }
}

/// Time without requests after which a model is unloaded, if it is.
fn idle_timeout(slot: &ModelSlot) -> Option<Duration> {
    let description = slot.description();
    match description.keep_alive {
        KeepAlive::For(time) if description.load == LoadTime::OnDemand => Some(time),
        _ => None,
    }
}
