//! An engine's settings, and the state that its threads share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use encoder_spec::Task;

use crate::{
    admission::Admission,
    cache::{
        CacheConfig,
        inflight::{InflightMap, SequenceRef},
        local::LocalCache,
        remote::RemoteCacheHandle,
    },
    error::StartError,
    job::{JobState, VectorSpec},
    observer::Observer,
    scheduler::Scheduler,
    tokenizer::Tokenizer,
};

/// Settings of an engine. There are no defaults: every field is a decision.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Name of the model, for the log.
    pub name: String,
    /// The kind of result that the model computes.
    pub task: Task,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// Maximum number of tokens that the model reads at once, special tokens included.
    pub max_input_tokens: usize,
    /// Length of a vector.
    pub dimensions: usize,
    /// Vectors are scaled to norm 1.
    pub normalize: bool,
    /// Number of worker threads, each with its own encoder.
    pub workers: usize,
    /// Number of tokenizer threads.
    pub tokenizer_threads: usize,
    /// Maximum number of tokens in a batch, padding included. A longer sequence runs in a batch of its own.
    pub max_batch_tokens: usize,
    /// Maximum number of sequences in a batch.
    pub max_batch_inputs: usize,
    /// Maximum number of admitted tokens, queued and running.
    pub max_queue_tokens: usize,
    /// The caches. Without them only equal texts in flight share their vectors.
    pub cache: Option<CacheConfig>,
}

impl EngineConfig {
    pub(crate) fn vector_spec(&self) -> VectorSpec {
        VectorSpec { dimensions: self.dimensions, normalized: self.normalize }
    }

    /// Number of special tokens that are added to each input.
    pub(crate) fn num_special_tokens(&self) -> usize {
        match self.task {
            Task::Rerank => self.tokenizer.num_special_tokens_of_pair(),
            Task::Embed | Task::EmbedSparse => self.tokenizer.num_special_tokens(),
        }
    }

    /// Checks that the settings are possible.
    ///
    /// # Errors
    /// [`StartError::Config`] for a setting that is 0 or that leaves no room for text.
    pub(crate) fn validate(&self) -> Result<(), StartError> {
        let positive = [
            ("dimensions", self.dimensions),
            ("workers", self.workers),
            ("tokenizer_threads", self.tokenizer_threads),
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_batch_inputs", self.max_batch_inputs),
            ("max_queue_tokens", self.max_queue_tokens),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(StartError::Config(format!("model {}: {name} must be at least 1", self.name)));
        }
        let special_tokens = self.num_special_tokens();
        if self.max_input_tokens <= special_tokens {
            return Err(StartError::Config(format!(
                "model {}: max_input_tokens = {} leaves no room for text next to {special_tokens} special tokens",
                self.name, self.max_input_tokens
            )));
        }
        Ok(())
    }
}

/// The state that the threads of an engine share.
pub(crate) struct EngineContext {
    pub(crate) config: EngineConfig,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) inflight: Arc<InflightMap>,
    pub(crate) local_cache: Option<Arc<LocalCache>>,
    pub(crate) remote_cache: Option<RemoteCacheHandle>,
    pub(crate) scheduler: Scheduler,
    pub(crate) heartbeat: Heartbeat,
}

impl EngineContext {
    /// Returns true if a sequence waits for a worker or is being computed.
    pub(crate) fn has_work(&self) -> bool {
        self.scheduler.tokens() > 0 || self.admission.running_jobs() > 0
    }

    /// Queues a job's sequences for the workers, or fails the job if there is no room or no time for them.
    pub(crate) fn enqueue(&self, job: Arc<JobState>, sequences: Vec<SequenceRef>) {
        if !self.has_work() {
            // The workers have been idle, so the time since the last beat is no stall.
            self.heartbeat.beat();
        }
        self.scheduler.enqueue(job, sequences);
    }
}

/// Time of the last progress of a worker.
pub(crate) struct Heartbeat {
    epoch: Instant,
    milliseconds: AtomicU64,
}

impl Heartbeat {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), milliseconds: AtomicU64::new(0) }
    }

    pub(crate) fn beat(&self) {
        self.milliseconds.store(self.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn age(&self) -> Duration {
        let last = Duration::from_millis(self.milliseconds.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(last)
    }
}
