//! The handle of a running model: starts its threads, accepts jobs, drains and stops.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use encoder_spec::Task;

use crate::{
    admission::{Admission, Capacity, CostEstimate},
    cache::{
        inflight::InflightMap,
        local::LocalCache,
        remote::{CacheKeyHasher, JobLookup, RemoteCacheHandle, RemoteCacheWorker},
    },
    context::{EngineConfig, EngineContext, Heartbeat},
    encoder::{Batch, Encoder, EncoderFactory},
    error::{StartError, SubmitError},
    golden::{self, GoldenError, GoldenReport, GoldenText, PROBE},
    job::{Embeddings, Input, Job, JobState, Ticket, TokenizedJob, TruncationPolicy},
    observer::Observer,
    prompt::Prompt,
    scheduler::Scheduler,
    tokenization::{self, JobKind, TokenizeRequest, TokenizerPool},
    tokenizer::Tokenizer,
    worker,
};

/// Bytes of text that are tokenized in the time in which the fastest encoder computes one token: about 4 million
/// tokens a second of 6 bytes, against 100,000 tokens a second.
const BYTES_PER_TOKEN_TIME: usize = 256;

/// Time between two checks whether a draining engine is idle.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Deadline of a check at start. It is generous, since the machine may be busy while the server starts.
const CHECK_TIMEOUT: Duration = Duration::from_secs(300);

/// Load of an engine and size of its cache at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Number of jobs of which no sequence has reached an encoder.
    pub waiting_requests: usize,
    /// Number of jobs of which at least one sequence has reached an encoder.
    pub running_requests: usize,
    /// Number of tokens that wait for a worker.
    pub queued_tokens: usize,
    /// Number of tokens that are computed for the jobs in flight, waiting and running. Sequences from a cache, and
    /// those shared with another job, do not count.
    pub tokens_in_flight: usize,
    /// Capacity for tokens in flight.
    pub tokens_limit: usize,
    /// Bytes of the local cache, with keys and overhead.
    pub cache_bytes: usize,
    /// Number of vectors in the local cache.
    pub cache_entries: usize,
    /// Number of vectors evicted from the local cache since the start.
    pub cache_evictions: u64,
}

/// A running model. Dropping it stops it.
pub struct Engine {
    context: Arc<EngineContext>,
    draining: AtomicBool,
    /// `None` after [`stop`](Self::stop).
    tokenizers: Mutex<Option<Arc<TokenizerPool>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The thread of the remote cache, which ends after all others.
    remote_cache: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Builds and warms up an encoder for each worker, and starts the threads. Blocks.
    ///
    /// # Errors
    /// [`StartError`]: an impossible setting, an encoder that cannot be built or fails, or a thread that cannot be
    /// started.
    pub fn start(
        config: EngineConfig,
        encoders: &EncoderFactory,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let built: Vec<Box<dyn Encoder>> =
            (0..config.workers).map(|_| build_warm_encoder(encoders, &config)).collect::<Result<_, _>>()?;
        let admission = Admission::new(Capacity {
            tokens: config.max_queue_tokens,
            quantum: config.max_batch_tokens,
            workers: config.workers,
            tokenizer_threads: config.tokenizer_threads,
        });
        let inflight = Arc::new(InflightMap::default());
        let scheduler =
            Scheduler::new(Arc::clone(&admission), Arc::clone(&inflight), config.max_batch_tokens);
        let cache = config.cache.clone();
        let local_cache = cache.as_ref().and_then(|cache| LocalCache::new(cache.bytes, config.dimensions));
        let local_cache = local_cache.map(Arc::new);
        let remote = cache.and_then(|cache| Some((cache.remote?, CacheKeyHasher::new(&cache.fingerprint))));
        let (handle, operations) = RemoteCacheHandle::new();
        let remote_cache = remote.is_some().then_some(handle);
        let heartbeat = Heartbeat::new();
        let context = Arc::new(EngineContext {
            config,
            observer,
            admission,
            inflight,
            local_cache,
            remote_cache,
            scheduler,
            heartbeat,
        });
        let remote_cache = remote.map(|(cache, hasher)| {
            let enqueue = {
                let context = Arc::clone(&context);
                Box::new(move |lookup: JobLookup| context.enqueue(lookup.job, lookup.sequences))
            };
            let worker = RemoteCacheWorker {
                cache,
                hasher,
                model: context.config.name.clone(),
                dimensions: context.config.dimensions,
                local_cache: context.local_cache.clone(),
                inflight: Arc::clone(&context.inflight),
                observer: Arc::clone(&context.observer),
                enqueue,
            };
            spawn("remote-cache", move || worker.run(&operations))
        });

        let (pool, chunks) = TokenizerPool::new();
        let engine = Self {
            context: Arc::clone(&context),
            draining: AtomicBool::new(false),
            tokenizers: Mutex::new(Some(Arc::new(pool))),
            threads: Mutex::default(),
            remote_cache: Mutex::new(remote_cache.transpose()?),
        };
        for encoder in built {
            let (context, encoders) = (Arc::clone(&context), Arc::clone(encoders));
            engine.spawn("worker", move || worker::run(&context, encoder, &encoders))?;
        }
        for _ in 0..context.config.tokenizer_threads {
            let (context, chunks) = (Arc::clone(&context), chunks.clone());
            engine.spawn("tokenizer", move || tokenization::run(&context, chunks))?;
        }
        Ok(engine)
    }

    fn spawn(&self, role: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = spawn(role, body)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    fn join(&self, thread: JoinHandle<()>) {
        if thread.join().is_err() {
            tracing::error!(model = self.context.config.name, "a thread of the engine panicked");
        }
    }

    /// Accepts a job, or rejects it before it is tokenized. Does not block: only a small job is tokenized on this
    /// thread, in less time than waking another thread takes. After tokenizing and cache lookup the job is admitted
    /// to the queue, all or nothing, or the ticket yields [`EmbedError::Rejected`](crate::EmbedError::Rejected).
    ///
    /// # Errors
    /// [`SubmitError`]: the queue is full, the deadline cannot be met, the job is too large, or the engine is draining.
    pub fn submit(&self, job: Job) -> Result<Ticket, SubmitError> {
        self.submit_as(JobKind::Request, job)
    }

    fn submit_as(&self, kind: JobKind, job: Job) -> Result<Ticket, SubmitError> {
        let tokenizers = self.tokenizers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(tokenizers) = tokenizers.filter(|_| !self.draining.load(Ordering::Acquire)) else {
            return Err(SubmitError::Draining);
        };
        let reservation =
            self.context.admission.reserve(job.caller, self.estimate_cost(&job), job.deadline)?;
        let (state, result) = JobState::new(job.caller, job.deadline, reservation);
        let ticket = Ticket { result, job: Arc::clone(&state) };
        if job.inputs.is_empty() {
            state.set_tokens(TokenizedJob::default(), self.context.config.vector_spec());
        }
        let max_input_tokens = self.max_input_tokens(&job);
        let Job { inputs, prompt, truncation, max_tokens, .. } = job;
        let request = TokenizeRequest { inputs, prompt, truncation, max_input_tokens, max_tokens, kind };
        tokenizers.submit(&self.context, state, request);
        Ok(ticket)
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.context.config.tokenizer
    }

    /// Number of special tokens that the model adds to each input.
    pub fn num_special_tokens(&self) -> usize {
        self.context.config.num_special_tokens()
    }

    /// Maximum number of tokens of an input of `job`: the model's, or a smaller one that the job sets, with room for
    /// at least one token of text.
    fn max_input_tokens(&self, job: &Job) -> usize {
        let max = self.context.config.max_input_tokens;
        job.max_input_tokens.map_or(max, |requested| max.min(requested.max(self.num_special_tokens() + 1)))
    }

    /// Estimates the cost of a job before it is tokenized. A token has at least one byte (except if normalization
    /// lengthens the text), and an input is computed up to its maximum only. But the whole input is tokenized, so the
    /// footprint of a text of megabytes grows with the time for tokenizing it. This part of the footprint is at most
    /// the whole account, so that an idle engine never rejects a job because of it.
    fn estimate_cost(&self, job: &Job) -> CostEstimate {
        let (max_input_tokens, special_tokens) = (self.max_input_tokens(job), self.num_special_tokens());
        let max_content = max_input_tokens - special_tokens;
        let mut estimate = CostEstimate { tokens: 0, footprint: 0, bytes: 0 };
        // The part of the footprint that bounds memory.
        let mut memory = 0;
        for input in &job.inputs {
            let prompt = job.prompt.as_ref();
            let (content, repeated) = match input {
                Input::Text(text) => (
                    text.len() + prompt.map_or(0, Prompt::content_tokens),
                    prompt.map_or(0, |prompt| prompt.repeated_ids(max_content).len()),
                ),
                Input::Tokens(ids) => (ids.len(), 0),
                Input::Pair { query, document } => (query.len() + document.len(), 0),
            };
            let later_windows = match job.truncation {
                TruncationPolicy::Average if !matches!(input, Input::Pair { .. }) => {
                    content.saturating_sub(max_content).div_ceil(max_content - repeated)
                }
                _ => 0,
            };
            let windows = 1 + later_windows;
            let tokens = content + later_windows * repeated + windows * special_tokens;
            let tokens = tokens.min(windows * max_input_tokens);
            let tokenizing = content / BYTES_PER_TOKEN_TIME;
            estimate.tokens += tokens.max(tokenizing);
            let min_tokens = tokens.min(windows * (special_tokens + 1));
            memory += min_tokens;
            estimate.footprint += min_tokens.max(tokenizing);
            estimate.bytes += input.text_bytes(prompt);
        }
        let footprint = estimate.footprint.min(self.context.admission.limit().max(memory));
        // A job with more tokens is rejected after tokenizing, by the exact number.
        let max = job.max_tokens;
        CostEstimate { tokens: estimate.tokens.min(max), footprint: footprint.min(max), ..estimate }
    }

    /// Returns the present load and cache size.
    pub fn stats(&self) -> EngineStats {
        let EngineContext { admission, scheduler, .. } = &*self.context;
        let running = admission.running_jobs();
        let cache = self.context.local_cache.as_deref();
        EngineStats {
            waiting_requests: admission.jobs().saturating_sub(running),
            running_requests: running,
            queued_tokens: scheduler.tokens(),
            tokens_in_flight: admission.tokens(),
            tokens_limit: admission.limit(),
            cache_bytes: cache.map_or(0, LocalCache::bytes),
            cache_entries: cache.map_or(0, LocalCache::entries),
            cache_evictions: cache.map_or(0, LocalCache::evictions),
        }
    }

    /// Time since a worker last made progress; `None` if no sequence waits for a worker or is being computed.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.context.has_work().then(|| self.context.heartbeat.age())
    }

    /// Embeds one short text, or scores it as query and document, through the whole engine, which must yield finite
    /// values. For a model without golden vectors this is the only check that it computes. Blocks, so it must not be
    /// called on an async thread.
    ///
    /// # Errors
    /// The engine's error.
    pub fn probe(&self) -> Result<(), GoldenError> {
        let input = match self.context.config.task {
            Task::Rerank => Input::Pair { query: PROBE.into(), document: PROBE.to_owned() },
            Task::Embed | Task::EmbedSparse => Input::Text(PROBE.to_owned()),
        };
        self.embed_uncached(vec![input], None).map(drop)
    }

    /// Embeds `golden` through the whole engine, without the caches, and compares token counts and vectors. Each cosine
    /// must be at least `min_cosine`. Blocks, so it must not be called on an async thread.
    ///
    /// # Errors
    /// The first difference, or the engine's error.
    pub fn check_golden(
        &self,
        golden: &[GoldenText<'_>],
        min_cosine: f64,
    ) -> Result<GoldenReport, GoldenError> {
        let texts = golden.iter().map(|golden| Input::Text(golden.text.to_owned())).collect();
        golden::compare(golden, &self.embed_uncached(texts, None)?, min_cosine)
    }

    /// Computes `inputs` through the whole engine, without the caches. Each is truncated to the model's maximum number
    /// of tokens, or to a smaller `max_input_tokens`. Blocks, so it must not be called on an async thread.
    ///
    /// # Errors
    /// [`GoldenError::Submit`] and [`GoldenError::Embed`].
    pub fn embed_uncached(
        &self,
        inputs: Vec<Input>,
        max_input_tokens: Option<usize>,
    ) -> Result<Embeddings, GoldenError> {
        let job = Job {
            inputs,
            prompt: None,
            truncation: TruncationPolicy::Truncate,
            max_input_tokens,
            deadline: Instant::now() + CHECK_TIMEOUT,
            max_tokens: usize::MAX,
            caller: None,
        };
        Ok(self.submit_as(JobKind::GoldenCheck, job)?.wait()?)
    }

    /// Rejects new jobs from now on. Admitted jobs continue.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Drains, waits up to `grace` for admitted jobs, fails the remaining ones, and joins all threads. Blocks, also
    /// until a running batch ends. Returns true if all admitted jobs finished.
    pub fn stop(&self, grace: Duration) -> bool {
        self.drain();
        let end = Instant::now() + grace;
        while self.context.admission.jobs() > 0 && Instant::now() < end {
            thread::sleep(DRAIN_POLL_INTERVAL);
        }
        let all_finished = self.context.admission.jobs() == 0;
        self.tokenizers.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.context.scheduler.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            self.join(thread);
        }
        // No other thread is left that could send an operation to the remote cache.
        if let Some(thread) = self.remote_cache.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.context.remote_cache.iter().for_each(RemoteCacheHandle::stop);
            self.join(thread);
        }
        all_finished
    }
}

fn spawn(role: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    thread::Builder::new().name(role.to_owned()).spawn(body).map_err(StartError::Thread)
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.context.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Builds an encoder. Warms it up, if it needs that, with a short and a full-length sequence, so that memory is
/// allocated, kernels are compiled and pages are read before the first request.
fn build_warm_encoder(
    factory: &EncoderFactory,
    config: &EngineConfig,
) -> Result<Box<dyn Encoder>, StartError> {
    let mut encoder = factory()?;
    if encoder.dimensions() != config.dimensions {
        return Err(StartError::Config(format!(
            "model {}: the encoder yields {} dimensions, the settings say {}",
            config.name,
            encoder.dimensions(),
            config.dimensions
        )));
    }
    if !encoder.needs_warm_up() {
        return Ok(encoder);
    }
    let mut special_tokens = Vec::new();
    config.tokenizer.add_special_tokens(&[], &mut special_tokens);
    let filler = special_tokens.first().copied().unwrap_or(0);
    for length in [special_tokens.len().max(1), config.max_input_tokens] {
        let mut batch = Batch::new();
        batch.push(&vec![filler; length]);
        encoder
            .encode(&batch, &mut || config.workers - 1, &mut vec![0.0; config.dimensions])
            .map_err(StartError::Warmup)?;
    }
    Ok(encoder)
}
