//! An engine on a fake encoder, whose vectors are a function of the ids. A test can make it wait, fail or panic.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use encoder_spec::Task;
use inference::{
    Batch, BatchReport, CacheReport, EmbedError, Embeddings, EncodeError, Encoder, Engine, EngineConfig,
    Input, Job, Observer, StartError, Ticket, Tokenizer, TruncationPolicy,
};

pub(crate) const DIMENSIONS: usize = 4;
pub(crate) const MAX_INPUT_TOKENS: usize = 16;

/// Maximum time for an event that must happen.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Ids that make the fake encoder misbehave. They are in the tiny model's vocabulary of 600.
pub(crate) const PANIC: u32 = 590;
pub(crate) const FAIL: u32 = 591;
pub(crate) const NAN: u32 = 592;

/// Controls and observes the fake encoders of one harness.
#[derive(Default)]
pub(crate) struct FakeEncoderControl {
    pub(crate) built: AtomicUsize,
    /// Every sequence that was encoded, special tokens included.
    pub(crate) seen: Mutex<Vec<Vec<u32>>>,
    /// Every batch that reached the gate, and the number of idle workers that it was told.
    pub(crate) arrived: Mutex<Vec<(Batch, usize)>>,
    /// For each of the next batches: true if it fails, whatever it holds. Later batches do not fail.
    pub(crate) faults: Mutex<VecDeque<bool>>,
    gate: Mutex<Gate>,
    gate_changed: Condvar,
}

/// Blocks encoders before a batch.
#[derive(Default)]
struct Gate {
    closed: bool,
    /// Number of batches that may pass the closed gate.
    passes: usize,
}

impl Gate {
    fn try_pass(&mut self) -> bool {
        let passes = !self.closed || self.passes > 0;
        self.passes = self.passes.saturating_sub(usize::from(passes));
        passes
    }
}

impl FakeEncoderControl {
    /// Blocks encoders before their next batch.
    pub(crate) fn close_gate(&self) {
        self.gate.lock().unwrap().closed = true;
    }

    pub(crate) fn open_gate(&self) {
        // A harness is dropped also while a test panics, so this must not panic.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).closed = false;
        self.gate_changed.notify_all();
    }

    /// Lets one batch pass the closed gate.
    pub(crate) fn let_one_pass(&self) {
        self.gate.lock().unwrap().passes += 1;
        self.gate_changed.notify_all();
    }

    /// Waits until the gate lets a batch pass.
    fn wait_at_gate(&self) {
        let gate = self.gate.lock().unwrap();
        let waited = self.gate_changed.wait_timeout_while(gate, 2 * TIMEOUT, |gate| !gate.try_pass());
        let (gate, waited) = waited.unwrap();
        drop(gate);
        assert!(!waited.timed_out(), "no test opened the gate");
    }

    pub(crate) fn saw(&self, id: u32) -> bool {
        self.count(id) > 0
    }

    /// Number of encoded sequences with this id.
    pub(crate) fn count(&self, id: u32) -> usize {
        self.seen.lock().unwrap().iter().filter(|ids| ids.contains(&id)).count()
    }

    /// Number of batches that reached the gate.
    pub(crate) fn arrivals(&self) -> usize {
        self.arrived.lock().unwrap().len()
    }
}

/// The fake encoder's vector of a sequence, whose ids include the special tokens.
fn vector_of_sequence(ids: &[u32]) -> Vec<f32> {
    let mut vector = vec![ids.len() as f32, 0.0, 0.0, 0.0];
    for (position, &id) in ids.iter().enumerate() {
        vector[1 + position % 3] += (id * (position as u32 + 1)) as f32;
    }
    vector
}

struct FakeEncoder {
    control: Arc<FakeEncoderControl>,
    kind: EncoderKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EncoderKind {
    Ragged,
    Padding,
    /// Batches with this id call `on_yield` while they wait at the gate; other batches pass it.
    Preemptible(u32),
    /// Every batch fails.
    Failing,
}

impl Encoder for FakeEncoder {
    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn needs_padding(&self) -> bool {
        self.kind == EncoderKind::Padding
    }

    fn supports_preemption(&self) -> bool {
        matches!(self.kind, EncoderKind::Preemptible(_))
    }

    fn encode(
        &mut self,
        batch: &Batch,
        on_yield: &mut dyn FnMut() -> usize,
        out: &mut [f32],
    ) -> Result<(), EncodeError> {
        match self.kind {
            EncoderKind::Failing => return Err(EncodeError::Other("told to fail".to_owned())),
            EncoderKind::Ragged | EncoderKind::Padding => {
                self.control.arrived.lock().unwrap().push((batch.clone(), on_yield()));
                self.control.wait_at_gate();
            }
            EncoderKind::Preemptible(id) => {
                self.control.arrived.lock().unwrap().push((batch.clone(), 0));
                let end = Instant::now() + 2 * TIMEOUT;
                while batch.ids().contains(&id) && !self.control.gate.lock().unwrap().try_pass() {
                    assert!(Instant::now() < end, "no test opened the gate");
                    on_yield();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        self.control.seen.lock().unwrap().extend(batch.sequences().map(<[u32]>::to_vec));
        assert!(!batch.ids().contains(&PANIC), "told to panic");
        let fault = self.control.faults.lock().unwrap().pop_front().unwrap_or(false);
        if fault || batch.ids().contains(&FAIL) {
            return Err(EncodeError::Other("told to fail".to_owned()));
        }
        for (sequence, row) in batch.sequences().zip(out.chunks_exact_mut(DIMENSIONS)) {
            row.copy_from_slice(&vector_of_sequence(sequence));
            if sequence.contains(&NAN) {
                row[2] = f32::NAN;
            }
        }
        Ok(())
    }
}

/// Counts the engine's reports.
#[derive(Default)]
pub(crate) struct CountingObserver {
    pub(crate) inputs: AtomicUsize,
    pub(crate) tokens: AtomicUsize,
    pub(crate) truncated: AtomicUsize,
    pub(crate) waits: AtomicUsize,
    pub(crate) batches: Mutex<Vec<BatchReport>>,
    pub(crate) failures: AtomicUsize,
    pub(crate) cache: Mutex<CacheReport>,
    /// Number of cache reports: one for each job after tokenizing, and one for each remote lookup.
    pub(crate) lookups: AtomicUsize,
}

impl CountingObserver {
    /// Local hits, remote hits, misses, and sequences that shared a vector in flight.
    pub(crate) fn cache(&self) -> [usize; 4] {
        let CacheReport { hits, remote_hits, misses, deduplicated } = *self.cache.lock().unwrap();
        [hits, remote_hits, misses, deduplicated]
    }
}

impl Observer for CountingObserver {
    fn tokenized(&self, lengths: &[u32], truncated: usize, _: Duration) {
        self.inputs.fetch_add(lengths.len(), Ordering::SeqCst);
        self.tokens.fetch_add(lengths.iter().sum::<u32>() as usize, Ordering::SeqCst);
        self.truncated.fetch_add(truncated, Ordering::SeqCst);
    }

    fn cache(&self, report: &CacheReport) {
        let mut sum = self.cache.lock().unwrap();
        sum.hits += report.hits;
        sum.remote_hits += report.remote_hits;
        sum.misses += report.misses;
        sum.deduplicated += report.deduplicated;
        self.lookups.fetch_add(1, Ordering::SeqCst);
    }

    fn queue_wait(&self, _: Duration) {
        self.waits.fetch_add(1, Ordering::SeqCst);
    }

    fn batch(&self, report: &BatchReport) {
        self.batches.lock().unwrap().push(*report);
    }

    fn encoder_failed(&self) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        name: "fake".to_owned(),
        tokenizer: Tokenizer::load(&crate::tiny_model("bert-mean").join("tokenizer.json")).unwrap(),
        max_input_tokens: MAX_INPUT_TOKENS,
        dimensions: DIMENSIONS,
        normalize: false,
        workers: 1,
        tokenizer_threads: 2,
        max_batch_tokens: 64,
        max_batch_inputs: 8,
        task: Task::Embed,
        max_queue_tokens: 1 << 20,
        cache: None,
    }
}

/// An engine with its fake encoders and its observer.
pub(crate) struct Harness {
    pub(crate) engine: Engine,
    pub(crate) control: Arc<FakeEncoderControl>,
    pub(crate) observer: Arc<CountingObserver>,
}

impl Drop for Harness {
    /// Opens the gate, so that a test which panics while it is closed does not hang when the engine is dropped.
    fn drop(&mut self) {
        self.control.open_gate();
    }
}

impl Harness {
    pub(crate) fn start(config: EngineConfig) -> Result<Self, StartError> {
        Self::with_encoder(EncoderKind::Ragged, config)
    }

    pub(crate) fn with_encoder(kind: EncoderKind, config: EngineConfig) -> Result<Self, StartError> {
        let (control, observer) =
            (Arc::new(FakeEncoderControl::default()), Arc::new(CountingObserver::default()));
        let shared = Arc::clone(&control);
        let encoders = Arc::new(move || {
            shared.built.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(FakeEncoder { control: Arc::clone(&shared), kind }) as Box<dyn Encoder>)
        });
        let engine = Engine::start(config, &(encoders as _), Arc::clone(&observer) as _)?;
        control.seen.lock().unwrap().clear();
        control.arrived.lock().unwrap().clear();
        Ok(Self { engine, control, observer })
    }

    pub(crate) fn default() -> Self {
        Self::start(config()).unwrap()
    }

    pub(crate) fn submit(&self, inputs: &[&[u32]]) -> Ticket {
        self.engine.submit(job(inputs)).unwrap()
    }

    /// Submits a job and waits for its result.
    pub(crate) fn embed(&self, inputs: &[&[u32]]) -> Result<Embeddings, EmbedError> {
        self.embed_job(job(inputs))
    }

    pub(crate) fn embed_job(&self, job: Job) -> Result<Embeddings, EmbedError> {
        result(self.engine.submit(job).unwrap())
    }

    /// Closes the gate and occupies the worker with a batch that waits there.
    pub(crate) fn occupy_worker(&self) -> Ticket {
        self.control.close_gate();
        let before = self.control.arrivals();
        let ticket = self.submit(&[&[5]]);
        wait_until("the worker takes the batch", || self.control.arrivals() > before);
        ticket
    }

    /// Opens the gate, and waits for the result of the job that [`occupy_worker`](Self::occupy_worker) submitted.
    pub(crate) fn release_worker(&self, running: Ticket) {
        self.control.open_gate();
        result(running).unwrap();
    }

    /// Submits a job, and waits until its sequences are in flight.
    pub(crate) fn submit_and_wait_for_lookup(&self, job: Job) -> Ticket {
        let before = self.observer.lookups.load(Ordering::SeqCst);
        let ticket = self.engine.submit(job).unwrap();
        wait_until("the job is looked up", || self.observer.lookups.load(Ordering::SeqCst) > before);
        ticket
    }

    /// Waits until no job is in flight.
    pub(crate) fn wait_until_idle(&self) {
        wait_until("no tokens are in flight", || self.engine.stats().tokens_in_flight == 0);
    }
}

/// Waits for a condition that must come true.
///
/// # Panics
/// After [`TIMEOUT`].
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "timeout: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the result of a job.
///
/// # Panics
/// After [`TIMEOUT`].
#[track_caller]
pub(crate) fn result(ticket: Ticket) -> Result<Embeddings, EmbedError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let result = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ticket).await });
    result.expect("the job has no result")
}

pub(crate) fn job(inputs: &[&[u32]]) -> Job {
    Job {
        inputs: inputs.iter().map(|ids| Input::Tokens(ids.to_vec())).collect(),
        prompt: None,
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + Duration::from_secs(60),
        max_tokens: usize::MAX,
        caller: None,
    }
}

/// A job of `texts` inputs that no job with another `id` has: `id` and two ids of the input's number.
pub(crate) fn long_job(id: u32, texts: u32) -> Job {
    let inputs = (0..texts).map(|n| Input::Tokens(vec![id, 10 + n / 50, 100 + n % 50])).collect();
    Job { inputs, ..job(&[]) }
}

/// `ids` with the tiny model's special tokens, [CLS] = 2 and [SEP] = 3.
pub(crate) fn with_special_tokens(ids: &[u32]) -> Vec<u32> {
    [&[2], ids, &[3]].concat()
}

/// The fake encoder's vector of an input.
pub(crate) fn vector_of(ids: &[u32]) -> Vec<f32> {
    vector_of_sequence(&with_special_tokens(ids))
}

/// The fake encoder's vectors of all inputs of a job, which are token ids.
pub(crate) fn vectors_of(job: &Job) -> Vec<f32> {
    let vector = |input: &Input| match input {
        Input::Tokens(ids) => vector_of(ids),
        input => panic!("{input:?}"),
    };
    job.inputs.iter().flat_map(vector).collect()
}

/// A test that panics drops its harness while the gate is closed.
#[test]
fn dropping_a_harness_opens_its_gate() {
    let harness = Harness::default();
    let running = harness.occupy_worker();
    drop(harness);
    assert!(result(running).is_ok());
}
