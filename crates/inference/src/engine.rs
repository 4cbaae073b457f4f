//! The handle to a running model and the owner of its threads.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    Batch, CacheConfig, Encoder, EncoderFactory, Input, Job, Observer, StartError, SubmitError, Ticket,
    Tokenizer, TruncationPolicy,
    admission::{Admission, Capacity, Estimate},
    cache::{Keys, Memory},
    flights::Flights,
    intake::{self, Desk, Purpose, Wish},
    item::Item,
    job::{Shape, Tokens, Work},
    lookup::{self, Errands},
    queue::Queue,
    worker,
};

/// Text that is tokenized in no more time than the fastest encoder takes for a token: 4 million tokens a second
/// against 100,000, at some 6 bytes.
const BYTES_FOR_A_TOKEN: usize = 256;

/// How often a draining engine looks whether it is done.
const DRAIN_TICK: Duration = Duration::from_millis(2);

/// What an engine needs to know besides its encoder. No default: every field is a decision.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Name of the model, for logs and thread names.
    pub name: String,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// Most tokens that the model reads at once, special tokens included.
    pub max_input_tokens: usize,
    /// Length of a vector.
    pub dimensions: usize,
    /// Whether vectors are scaled to norm 1.
    pub normalize: bool,
    /// Worker threads, each with an encoder of its own.
    pub workers: usize,
    /// Tokenizer threads.
    pub tokenizer_threads: usize,
    /// Budget of one batch in tokens, as the encoder spends them (with padding if it pads); a longer sequence
    /// runs alone.
    pub max_batch_tokens: usize,
    /// Most sequences in a batch.
    pub max_batch_inputs: usize,
    /// Tokens that may be admitted at a time, waiting and running.
    pub max_queue_tokens: usize,
    /// Whether and where vectors are kept; without it none is, and only equal texts in flight share theirs.
    pub cache: Option<CacheConfig>,
}

impl EngineConfig {
    pub(crate) fn shape(&self) -> Shape {
        Shape { dimensions: self.dimensions, normalized: self.normalize }
    }

    fn check(&self) -> Result<(), StartError> {
        let zero = [
            ("dimensions", self.dimensions),
            ("workers", self.workers),
            ("tokenizer_threads", self.tokenizer_threads),
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_batch_inputs", self.max_batch_inputs),
            ("max_queue_tokens", self.max_queue_tokens),
        ];
        if let Some((name, _)) = zero.iter().find(|(_, value)| *value == 0) {
            return Err(StartError::Config(format!("model {}: {name} must be at least 1", self.name)));
        }
        let specials = self.tokenizer.num_special_tokens();
        if self.max_input_tokens <= specials {
            return Err(StartError::Config(format!(
                "model {}: max_input_tokens = {} leaves no room for text next to {specials} special tokens",
                self.name, self.max_input_tokens
            )));
        }
        Ok(())
    }
}

/// How busy an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineStats {
    /// Jobs of which no sequence has reached an encoder yet.
    pub waiting_requests: usize,
    /// Jobs of which some sequence has.
    pub running_requests: usize,
    /// Tokens in the queue, waiting for a worker.
    pub queued_tokens: usize,
    /// Tokens that are computed for the jobs in flight, waiting and running. Sequences that a cache answers, or that an
    /// equal sequence of another job stands for, do not count.
    pub tokens_in_flight: usize,
    /// Capacity for tokens in flight.
    pub tokens_limit: usize,
    /// Bytes of the vectors in memory, with their keys and overhead.
    pub cache_bytes: usize,
    /// Number of these vectors.
    pub cache_entries: usize,
    /// Vectors that had to make room for others since the start.
    pub cache_evictions: u64,
}

/// What the engine's threads share.
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) memory: Option<Memory>,
    pub(crate) errands: Option<Errands>,
    pub(crate) queue: Queue,
    pub(crate) heartbeat: Heartbeat,
}

impl Shared {
    /// Whether anything waits for the workers or is with them.
    fn has_work(&self) -> bool {
        self.queue.tokens() > 0 || self.admission.running() > 0
    }

    /// Hands a job's items to the workers, or fails the job if there is no room or no time for them.
    pub(crate) fn enqueue(&self, work: Arc<Work>, items: Vec<Arc<Item>>) {
        if !self.has_work() {
            // The silence so far was for want of work.
            self.heartbeat.beat();
        }
        self.queue.push(work, items);
    }
}

/// When a worker last did something.
pub(crate) struct Heartbeat {
    epoch: Instant,
    milliseconds: AtomicU64,
}

impl Heartbeat {
    fn new() -> Self {
        Self { epoch: Instant::now(), milliseconds: AtomicU64::new(0) }
    }

    pub(crate) fn beat(&self) {
        self.milliseconds.store(self.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        let last = Duration::from_millis(self.milliseconds.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(last)
    }
}

/// A running model. Dropping it stops it.
pub struct Engine {
    shared: Arc<Shared>,
    draining: AtomicBool,
    /// `None` once the engine is stopped.
    desk: Mutex<Option<Arc<Desk>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The thread that asks the second tier; it ends after all others.
    lookup: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Builds and warms up an encoder for each worker, and starts the threads. Blocks.
    ///
    /// # Errors
    /// [`StartError`]: what is missing or contradictory, and what to do.
    pub fn start(
        config: EngineConfig,
        encoders: &EncoderFactory,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        config.check()?;
        let built: Vec<Box<dyn Encoder>> =
            (0..config.workers).map(|_| warm_encoder(encoders, &config)).collect::<Result<_, _>>()?;
        let admission = Admission::new(Capacity {
            tokens: config.max_queue_tokens,
            quantum: config.max_batch_tokens,
            workers: config.workers,
            tokenizer_threads: config.tokenizer_threads,
        });
        let flights = Arc::new(Flights::default());
        let queue = Queue::new(Arc::clone(&admission), Arc::clone(&flights), config.max_batch_tokens);
        let cache = config.cache.clone();
        let memory = cache.as_ref().and_then(|cache| Memory::new(cache.bytes, config.dimensions));
        let tier = cache.and_then(|cache| Some((cache.remote?, Keys::new(&cache.fingerprint))));
        let (errands, receiver) = crossbeam_channel::unbounded();
        let errands = tier.is_some().then(|| Errands::new(errands));
        let heartbeat = Heartbeat::new();
        let shared = Shared { config, observer, admission, flights, memory, errands, queue, heartbeat };
        let shared = Arc::new(shared);
        let lookup = tier.map(|(tier, keys)| {
            let shared = Arc::clone(&shared);
            spawn("lookup", move || lookup::run(&shared, &*tier, &keys, &receiver))
        });

        let (desk, pile) = Desk::new();
        let engine = Self {
            shared: Arc::clone(&shared),
            draining: AtomicBool::new(false),
            desk: Mutex::new(Some(Arc::new(desk))),
            threads: Mutex::default(),
            lookup: Mutex::new(lookup.transpose()?),
        };
        for encoder in built {
            let (shared, encoders) = (Arc::clone(&shared), Arc::clone(encoders));
            engine.spawn("worker", move || worker::run(&shared, encoder, &encoders))?;
        }
        for _ in 0..shared.config.tokenizer_threads {
            let (shared, pile) = (Arc::clone(&shared), pile.clone());
            engine.spawn("tokenizer", move || intake::run(&shared, pile))?;
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
            tracing::error!(model = self.shared.config.name, "a thread of the engine panicked");
        }
    }

    /// Accepts a job, or refuses it before it is tokenized. Never blocks for long: only a small job is tokenized here,
    /// in less time than handing it to another thread takes. Once the tokens that the job adds to the queue are known,
    /// it is admitted as a whole, or the ticket yields [`EmbedError::Rejected`](crate::EmbedError::Rejected).
    ///
    /// # Errors
    /// [`SubmitError`]: the queue is full, the deadline hopeless, the job too large, or the engine draining.
    pub fn submit(&self, job: Job) -> Result<Ticket, SubmitError> {
        self.submit_for(Purpose::Serve, job)
    }

    pub(crate) fn submit_for(&self, purpose: Purpose, job: Job) -> Result<Ticket, SubmitError> {
        let desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(desk) = desk.filter(|_| !self.draining.load(Ordering::Acquire)) else {
            return Err(SubmitError::Draining);
        };
        let reservation = self.shared.admission.reserve(job.caller, self.estimate(&job), job.deadline)?;
        let (work, result) = Work::new(job.caller, job.deadline, reservation);
        let ticket = Ticket { result, work: Arc::clone(&work) };
        if job.inputs.is_empty() {
            work.tokenized(Tokens::default(), self.shared.config.shape());
        }
        let window = self.window(&job);
        let Job { inputs, truncation, max_tokens, .. } = job;
        desk.put(&self.shared, work, Wish { inputs, truncation, window, max_tokens, purpose });
        Ok(ticket)
    }

    /// Number of special tokens that the model adds to each input.
    pub fn num_special_tokens(&self) -> usize {
        self.shared.config.tokenizer.num_special_tokens()
    }

    /// The window for a job: the model's, or the smaller one that the job asks for, with room for one token at least.
    fn window(&self, job: &Job) -> usize {
        let window = self.shared.config.max_input_tokens;
        job.max_input_tokens.map_or(window, |most| window.min(most.max(self.num_special_tokens() + 1)))
    }

    /// Estimates the cost of a job before it is tokenized. A token has at least one byte (except where normalisation
    /// lengthens a text), and no input is computed beyond its window. But all of an input is tokenized, so the
    /// footprint of a text of megabytes grows with the time that tokenizing it takes, up to the account's limit: that
    /// time alone makes no job too large for an idle engine.
    fn estimate(&self, job: &Job) -> Estimate {
        let (window, specials) = (self.window(job), self.num_special_tokens());
        let mut estimate = Estimate { tokens: 0, footprint: 0, bytes: 0 };
        // The part of the footprint that bounds memory.
        let mut memory = 0;
        for input in &job.inputs {
            let content = match input {
                Input::Text(text) => text.len(),
                Input::Tokens(ids) => ids.len(),
            };
            let sequences = match job.truncation {
                TruncationPolicy::Average => content.div_ceil(window - specials).max(1),
                TruncationPolicy::Truncate | TruncationPolicy::Error => 1,
            };
            let tokens = (content + sequences * specials).min(sequences * window);
            let tokenizing = content / BYTES_FOR_A_TOKEN;
            estimate.tokens += tokens.max(tokenizing);
            let held = tokens.min(sequences * (specials + 1));
            memory += held;
            estimate.footprint += held.max(tokenizing);
            estimate.bytes += input.text_bytes();
        }
        let footprint = estimate.footprint.min(self.shared.admission.limit().max(memory));
        // A job with more is refused after tokenizing, by the exact number.
        let most = job.max_tokens;
        Estimate { tokens: estimate.tokens.min(most), footprint: footprint.min(most), ..estimate }
    }

    /// How busy the engine is at present.
    pub fn stats(&self) -> EngineStats {
        let admission = &self.shared.admission;
        let running = admission.running();
        let memory = self.shared.memory.as_ref();
        EngineStats {
            waiting_requests: admission.jobs().saturating_sub(running),
            running_requests: running,
            queued_tokens: self.shared.queue.tokens(),
            tokens_in_flight: admission.tokens(),
            tokens_limit: admission.limit(),
            cache_bytes: memory.map_or(0, Memory::bytes),
            cache_entries: memory.map_or(0, Memory::entries),
            cache_evictions: memory.map_or(0, Memory::evictions),
        }
    }

    /// How long work has waited for workers without any of them doing something; `None` when there is none. Jobs that
    /// are tokenized, or answered by the cache, wait for no worker.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.shared.has_work().then(|| self.shared.heartbeat.age())
    }

    /// Refuses new jobs from here on; those admitted go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Drains, waits up to `grace` for the admitted jobs, fails what is left, and joins every thread. Blocks;
    /// a batch that runs is waited for. Tells whether every admitted job was finished.
    pub fn stop(&self, grace: Duration) -> bool {
        self.drain();
        let end = Instant::now() + grace;
        while self.shared.admission.jobs() > 0 && Instant::now() < end {
            thread::sleep(DRAIN_TICK);
        }
        let finished = self.shared.admission.jobs() == 0;
        self.desk.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.queue.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            self.join(thread);
        }
        // Now nobody is left who could have an errand.
        if let Some(thread) = self.lookup.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.shared.errands.iter().for_each(Errands::stop);
            self.join(thread);
        }
        finished
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
            .field("config", &self.shared.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Builds an encoder and, if it needs that, runs it on a short and a full-length sequence, so that whatever is
/// allocated, compiled or paged in on first use is so before the first request.
fn warm_encoder(factory: &EncoderFactory, config: &EngineConfig) -> Result<Box<dyn Encoder>, StartError> {
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
    let mut frame = Vec::new();
    config.tokenizer.add_special_tokens(&[], &mut frame);
    let filler = frame.first().copied().unwrap_or(0);
    for length in [frame.len().max(1), config.max_input_tokens] {
        let mut batch = Batch::new();
        batch.push(&vec![filler; length]);
        encoder
            .encode(&batch, &mut || config.workers - 1, &mut vec![0.0; config.dimensions])
            .map_err(StartError::Warmup)?;
    }
    Ok(encoder)
}
