//! A configured model: loaded or not, the requests that use it, and the requests that wait for it.
//!
//! The state changes under a lock, and each change of it gives one thread the right to the next step: the thread that
//! made a slot `Loading` loads the model, and the thread that made it `Unloading` stops its engine. A request takes a
//! lease with a read lock and an atomic counter.

use std::{
    error::Error,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use inference::{EngineStats, Provider};
use model_import::Task;
use tokio::sync::Notify;

use super::LoadedModel;
use crate::{
    config::{KeepAlive, LoadTime},
    prompts::PromptNames,
};

/// Wait before the first retry of a failed load, which doubles with each failure.
const MIN_BACKOFF: Duration = Duration::from_secs(1);

/// Longest wait between two attempts to load a model.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Function that loads a model. Blocks.
pub type ModelLoader = Box<dyn Fn() -> Result<LoadedModel, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// Facts about a model that are known without loading it.
#[derive(Clone, Debug)]
pub struct ModelDescription {
    /// Its id, from the settings.
    pub id: Arc<str>,
    /// Its name at the hub where it was published, if known; an alias.
    pub hub_id: Option<String>,
    /// Kind of result that it computes.
    pub task: Task,
    /// Length of its vectors.
    pub dimensions: usize,
    /// Maximum number of tokens of one input, including special tokens.
    pub max_input_tokens: usize,
    /// Sizes to which its vectors can be shortened.
    pub matryoshka: Vec<usize>,
    /// Names of the texts to put before its inputs.
    pub prompts: PromptNames,
    /// SPDX identifier of its license, if known.
    pub license: Option<String>,
    /// Size of its files, in bytes; `None` if unknown.
    pub file_bytes: Option<u64>,
    /// Time of the last change of its files, in seconds since 1970.
    pub created: u32,
    /// Device that it runs on.
    pub provider: Provider,
    /// Estimated memory of the loaded model, in bytes.
    pub memory: usize,
    /// Time of loading.
    pub load: LoadTime,
    /// Time after its last request for which it stays loaded.
    pub keep_alive: KeepAlive,
}

/// A configured model.
pub struct ModelSlot {
    description: ModelDescription,
    loader: ModelLoader,
    state: RwLock<SlotState>,
    /// Notified of every change of the state.
    changed: Notify,
    /// Number of requests that use the model.
    leases: AtomicUsize,
    /// Number of requests that wait for the model to be loaded.
    waiting: AtomicUsize,
    /// Reference point of `last_used`.
    created: Instant,
    /// End of the last request, or of the load, in microseconds after `created`; 0 before the first load.
    last_used: AtomicU64,
    /// Vectors that the caches of earlier engines of this model have evicted.
    earlier_evictions: AtomicU64,
}

enum SlotState {
    Unloaded,
    Loading {
        /// Number of failures in a row before this attempt.
        failures: u32,
    },
    Loaded(Arc<LoadedModel>),
    Unloading(Weak<LoadedModel>),
    Failed {
        failures: u32,
        retry_at: Instant,
        /// The error with its causes.
        error: String,
    },
    /// The server has stopped.
    Closed,
}

/// State of a model as the admin routes name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelStatus {
    Unloaded,
    Loading,
    Loaded,
    Unloading,
    Failed(String),
    Closed,
}

/// Result of a request to load a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LoadRequest {
    /// The caller must load it.
    Started,
    /// It is loaded, or its state will change without the caller.
    InProgress,
    /// The last load failed; the next attempt is allowed after this time.
    BackedOff(Duration),
    Closed,
}

/// Reason why a model is not unloaded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptModel {
    /// It is not loaded, or being unloaded.
    NotLoaded,
    /// It is being loaded.
    Loading,
    /// The caller's condition does not hold.
    InUse,
}

/// A loaded model in use by a request. It is not unloaded before the lease is dropped.
pub(crate) struct ModelLease {
    // Dropped before the usage is counted down: the last lease must not free the model after its unload.
    model: Arc<LoadedModel>,
    _usage: Usage,
}

struct Usage(Arc<ModelSlot>);

impl Drop for Usage {
    fn drop(&mut self) {
        self.0.touch();
        self.0.leases.fetch_sub(1, Ordering::Release);
    }
}

impl std::ops::Deref for ModelLease {
    type Target = LoadedModel;

    fn deref(&self) -> &LoadedModel {
        &self.model
    }
}

/// Counts a request that waits for a load until it is dropped.
pub(super) struct WaitingRequest<'a>(&'a AtomicUsize);

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ModelSlot {
    /// Creates the slot of a model that is loaded, or that `loader` loads on demand.
    pub fn new(description: ModelDescription, loader: ModelLoader, loaded: Option<LoadedModel>) -> Self {
        let state = loaded.map_or(SlotState::Unloaded, |model| SlotState::Loaded(Arc::new(model)));
        let last_used = AtomicU64::new(u64::from(matches!(state, SlotState::Loaded(_))));
        Self {
            description,
            loader,
            state: RwLock::new(state),
            changed: Notify::new(),
            leases: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            created: Instant::now(),
            last_used,
            earlier_evictions: AtomicU64::new(0),
        }
    }

    /// Facts about the model.
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// Id of the model.
    pub fn id(&self) -> &Arc<str> {
        &self.description.id
    }

    /// The model, if it is loaded.
    pub fn loaded(&self) -> Option<Arc<LoadedModel>> {
        match &*self.read() {
            SlotState::Loaded(model) => Some(Arc::clone(model)),
            _ => None,
        }
    }

    /// The model while its engine runs: loaded, or being unloaded.
    pub(crate) fn running(&self) -> Option<Arc<LoadedModel>> {
        match &*self.read() {
            SlotState::Loaded(model) => Some(Arc::clone(model)),
            SlotState::Unloading(model) => model.upgrade(),
            _ => None,
        }
    }

    /// State of the model.
    pub(crate) fn status(&self) -> ModelStatus {
        match &*self.read() {
            SlotState::Unloaded => ModelStatus::Unloaded,
            SlotState::Loading { .. } => ModelStatus::Loading,
            SlotState::Loaded(_) => ModelStatus::Loaded,
            SlotState::Unloading(_) => ModelStatus::Unloading,
            SlotState::Failed { error, .. } => ModelStatus::Failed(error.clone()),
            SlotState::Closed => ModelStatus::Closed,
        }
    }

    /// Load of the model's engine; zero while there is none. Evictions count over all its engines.
    pub(crate) fn stats(&self) -> EngineStats {
        let mut stats = self.running().map(|model| model.engine.stats()).unwrap_or_default();
        stats.cache_evictions += self.earlier_evictions.load(Ordering::Acquire);
        stats
    }

    /// Number of requests that use the model.
    pub(crate) fn leases(&self) -> usize {
        self.leases.load(Ordering::Acquire)
    }

    /// Number of requests that wait for the model to be loaded.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// End of the last request, or of the load; `None` before the first load.
    pub(crate) fn last_used(&self) -> Option<Instant> {
        let elapsed = self.last_used.load(Ordering::Acquire);
        (elapsed > 0).then(|| self.created + Duration::from_micros(elapsed))
    }

    /// A lease of the model, if it is loaded.
    pub(super) fn lease(self: &Arc<Self>) -> Option<ModelLease> {
        let state = self.read();
        let SlotState::Loaded(model) = &*state else { return None };
        // Within the lock: a thread that unloads the model sees this lease.
        self.leases.fetch_add(1, Ordering::AcqRel);
        Some(ModelLease { model: Arc::clone(model), _usage: Usage(Arc::clone(self)) })
    }

    /// Counts a request that waits; `None` if `max` others do.
    pub(super) fn wait_in_line(&self, max: usize) -> Option<WaitingRequest<'_>> {
        let join = |waiting| (waiting < max).then_some(waiting + 1);
        let joined = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, join).is_ok();
        joined.then_some(WaitingRequest(&self.waiting))
    }

    /// The notification of changes of the state.
    pub(super) fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Runs the loader.
    pub(super) fn load(&self) -> Result<LoadedModel, Box<dyn Error + Send + Sync>> {
        (self.loader)()
    }

    /// Requests a load; with `ignore_backoff` also soon after a failure.
    pub(super) fn request_load(&self, ignore_backoff: bool) -> LoadRequest {
        let mut state = self.write();
        let failures = match &*state {
            SlotState::Unloaded => 0,
            SlotState::Failed { failures, retry_at, .. } => {
                let remaining = retry_at.saturating_duration_since(Instant::now());
                if !remaining.is_zero() && !ignore_backoff {
                    return LoadRequest::BackedOff(remaining);
                }
                *failures
            }
            SlotState::Loading { .. } | SlotState::Loaded(_) | SlotState::Unloading(_) => {
                return LoadRequest::InProgress;
            }
            SlotState::Closed => return LoadRequest::Closed,
        };
        *state = SlotState::Loading { failures };
        LoadRequest::Started
    }

    /// Ends a load that the caller has started. Drops the model if the server has stopped meanwhile.
    pub(super) fn finish_load(&self, result: Result<LoadedModel, String>) {
        let mut state = self.write();
        let SlotState::Loading { failures } = *state else { return };
        *state = match result {
            Ok(model) => {
                self.touch();
                SlotState::Loaded(Arc::new(model))
            }
            Err(error) => {
                let failures = failures.saturating_add(1);
                SlotState::Failed { failures, retry_at: Instant::now() + backoff(failures), error }
            }
        };
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes the model out of service if `condition` holds. The caller must then stop its engine.
    pub(super) fn request_unload(
        &self,
        condition: impl FnOnce(&Self) -> bool,
    ) -> Result<Arc<LoadedModel>, KeptModel> {
        let mut state = self.write();
        let model = match &*state {
            SlotState::Loaded(model) if condition(self) => Arc::clone(model),
            SlotState::Loaded(_) => return Err(KeptModel::InUse),
            SlotState::Loading { .. } => return Err(KeptModel::Loading),
            SlotState::Unloaded | SlotState::Unloading(_) | SlotState::Failed { .. } | SlotState::Closed => {
                return Err(KeptModel::NotLoaded);
            }
        };
        *state = SlotState::Unloading(Arc::downgrade(&model));
        drop(state);
        self.changed.notify_waiters();
        Ok(model)
    }

    /// Ends an unload that the caller has started. `evictions` is the number of its engine's evictions.
    pub(super) fn finish_unload(&self, evictions: u64) {
        self.earlier_evictions.fetch_add(evictions, Ordering::AcqRel);
        let mut state = self.write();
        if matches!(*state, SlotState::Unloading(_)) {
            *state = SlotState::Unloaded;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Ends the service of the model. Returns it if it is loaded.
    pub(super) fn close(&self) -> Option<Arc<LoadedModel>> {
        let previous = std::mem::replace(&mut *self.write(), SlotState::Closed);
        self.changed.notify_waiters();
        match previous {
            SlotState::Loaded(model) => Some(model),
            _ => None,
        }
    }

    /// Records that the model was used until now.
    fn touch(&self) {
        let now = u64::try_from(self.created.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_used.fetch_max(now, Ordering::AcqRel);
    }

    fn read(&self) -> RwLockReadGuard<'_, SlotState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, SlotState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wait after this many failures in a row.
fn backoff(failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
    MIN_BACKOFF.saturating_mul(factor).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_after_failed_loads_doubles_up_to_a_minute() {
        assert_eq!(
            [1, 2, 3, 6, 7, 40, u32::MAX].map(|count| backoff(count).as_secs()),
            [1, 2, 4, 32, 60, 60, 60]
        );
    }
}
