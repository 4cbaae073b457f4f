//! An engine on a fake encoder whose vectors are a function of the ids, and which can be told to wait, to
//! fail and to panic.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use inference::{
    Batch, BatchReport, CacheReport, EmbedError, Embeddings, EncodeError, Encoder, Engine, EngineConfig,
    Input, Job, Observer, StartError, Ticket, Tokenizer, TruncationPolicy,
};

pub(crate) const DIMENSIONS: usize = 4;
pub(crate) const WINDOW: usize = 16;

/// Ids that make the fake encoder misbehave. They are in the tiny model's vocabulary of 600.
pub(crate) const PANIC: u32 = 590;
pub(crate) const FAIL: u32 = 591;
pub(crate) const NAN: u32 = 592;

/// What the fake encoders of one rig share.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) built: AtomicUsize,
    /// Every sequence that reached an encoder, special tokens included.
    pub(crate) seen: Mutex<Vec<Vec<u32>>>,
    /// Every batch that came to the gate, and the spare workers that it was told of.
    pub(crate) arrived: Mutex<Vec<(Batch, usize)>>,
    /// Which of the coming batches fail, whatever they hold; those after them do not.
    pub(crate) faults: Mutex<VecDeque<bool>>,
    gate: Mutex<Gate>,
    opened: Condvar,
}

/// Where encoders wait before a batch.
#[derive(Default)]
struct Gate {
    closed: bool,
    /// Batches that may pass although it is closed.
    passes: usize,
}

impl Gate {
    fn lets_through(&mut self) -> bool {
        let lets = !self.closed || self.passes > 0;
        self.passes = self.passes.saturating_sub(usize::from(lets));
        lets
    }
}

impl Stage {
    /// Encoders wait before their next batch until the gate opens.
    pub(crate) fn close_gate(&self) {
        self.gate.lock().unwrap().closed = true;
    }

    pub(crate) fn open_gate(&self) {
        self.gate.lock().unwrap().closed = false;
        self.opened.notify_all();
    }

    /// One batch passes the closed gate.
    pub(crate) fn let_one_through(&self) {
        self.gate.lock().unwrap().passes += 1;
        self.opened.notify_all();
    }

    /// Waits at the gate.
    fn wait(&self) {
        let gate = self.gate.lock().unwrap();
        drop(self.opened.wait_while(gate, |gate| !gate.lets_through()).unwrap());
    }

    /// Whether the gate lets a batch through, which then passes.
    fn passes(&self) -> bool {
        self.gate.lock().unwrap().lets_through()
    }

    pub(crate) fn saw(&self, id: u32) -> bool {
        self.count(id) > 0
    }

    /// How many sequences with this id were computed.
    pub(crate) fn count(&self, id: u32) -> usize {
        self.seen.lock().unwrap().iter().filter(|ids| ids.contains(&id)).count()
    }

    pub(crate) fn arrivals(&self) -> usize {
        self.arrived.lock().unwrap().len()
    }
}

/// The fake's vector of a sequence.
pub(crate) fn vector_of(ids: &[u32]) -> Vec<f32> {
    let mut vector = vec![ids.len() as f32, 0.0, 0.0, 0.0];
    for (position, &id) in ids.iter().enumerate() {
        vector[1 + position % 3] += (id * (position as u32 + 1)) as f32;
    }
    vector
}

struct Fake {
    stage: Arc<Stage>,
    kind: Kind,
}

/// What the fake encoder does with its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ragged,
    Pads,
    /// Batches with this id pause for as long as they wait at the gate; others pass it.
    Pauses(u32),
}

impl Encoder for Fake {
    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn needs_padding(&self) -> bool {
        self.kind == Kind::Pads
    }

    fn supports_preemption(&self) -> bool {
        matches!(self.kind, Kind::Pauses(_))
    }

    fn encode(
        &mut self,
        batch: &Batch,
        on_yield: &mut dyn FnMut() -> usize,
        out: &mut [f32],
    ) -> Result<(), EncodeError> {
        match self.kind {
            Kind::Ragged | Kind::Pads => {
                self.stage.arrived.lock().unwrap().push((batch.clone(), on_yield()));
                self.stage.wait();
            }
            Kind::Pauses(id) => {
                self.stage.arrived.lock().unwrap().push((batch.clone(), 0));
                while batch.ids().contains(&id) && !self.stage.passes() {
                    on_yield();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        self.stage.seen.lock().unwrap().extend(batch.sequences().map(<[u32]>::to_vec));
        assert!(!batch.ids().contains(&PANIC), "told to panic");
        let fault = self.stage.faults.lock().unwrap().pop_front().unwrap_or(false);
        if fault || batch.ids().contains(&FAIL) {
            return Err(EncodeError::Other("told to fail".to_owned()));
        }
        for (sequence, row) in batch.sequences().zip(out.chunks_exact_mut(DIMENSIONS)) {
            row.copy_from_slice(&vector_of(sequence));
            if sequence.contains(&NAN) {
                row[2] = f32::NAN;
            }
        }
        Ok(())
    }
}

/// Counts what an engine reports.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) inputs: AtomicUsize,
    pub(crate) tokens: AtomicUsize,
    pub(crate) truncated: AtomicUsize,
    pub(crate) waits: AtomicUsize,
    pub(crate) batches: Mutex<Vec<BatchReport>>,
    pub(crate) failures: AtomicUsize,
    pub(crate) cache: Mutex<CacheReport>,
    /// Jobs of which it is known what has to be computed.
    pub(crate) joined: AtomicUsize,
}

impl Counts {
    /// Hits, hits in the second tier, misses, and inputs that shared a vector in flight.
    pub(crate) fn cache(&self) -> [usize; 4] {
        let CacheReport { hits, remote_hits, misses, deduplicated } = *self.cache.lock().unwrap();
        [hits, remote_hits, misses, deduplicated]
    }
}

impl Observer for Counts {
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
        self.joined.fetch_add(1, Ordering::SeqCst);
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

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) stage: Arc<Stage>,
    pub(crate) counts: Arc<Counts>,
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        name: "fake".to_owned(),
        tokenizer: Tokenizer::load(&crate::tiny_model("bert-mean").join("tokenizer.json")).unwrap(),
        max_input_tokens: WINDOW,
        dimensions: DIMENSIONS,
        normalize: false,
        workers: 1,
        tokenizer_threads: 2,
        max_batch_tokens: 64,
        max_batch_inputs: 8,
        max_queue_tokens: 1 << 20,
        cache: None,
    }
}

impl Rig {
    pub(crate) fn start(config: EngineConfig) -> Result<Self, StartError> {
        Self::of(Kind::Ragged, config)
    }

    pub(crate) fn of(kind: Kind, config: EngineConfig) -> Result<Self, StartError> {
        let (stage, counts) = (Arc::new(Stage::default()), Arc::new(Counts::default()));
        let shared = Arc::clone(&stage);
        let encoders = Arc::new(move || {
            shared.built.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(Fake { stage: Arc::clone(&shared), kind }) as Box<dyn Encoder>)
        });
        let engine = Engine::start(config, &(encoders as _), Arc::clone(&counts) as _)?;
        stage.seen.lock().unwrap().clear();
        stage.arrived.lock().unwrap().clear();
        Ok(Self { engine, stage, counts })
    }

    pub(crate) fn default() -> Self {
        Self::start(config()).unwrap()
    }

    pub(crate) fn submit(&self, inputs: &[&[u32]]) -> Ticket {
        self.engine.submit(job(inputs)).unwrap()
    }

    /// Occupies the worker with a batch that waits at the gate, which is closed.
    pub(crate) fn occupy(&self) -> Ticket {
        self.stage.close_gate();
        let before = self.stage.arrivals();
        let ticket = self.submit(&[&[5]]);
        wait_until("the worker takes the batch", || self.stage.arrivals() > before);
        ticket
    }

    /// Submits a job, and waits until its sequences are among those in flight.
    pub(crate) fn join(&self, job: Job) -> Ticket {
        let before = self.counts.joined.load(Ordering::SeqCst);
        let ticket = self.engine.submit(job).unwrap();
        wait_until("the job joins", || self.counts.joined.load(Ordering::SeqCst) > before);
        ticket
    }
}

/// Waits for something that must come; panics when it does not.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A ticket's result; panics instead of waiting for ever.
pub(crate) fn answer(ticket: Ticket) -> Result<Embeddings, EmbedError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), ticket).await }).unwrap()
}

pub(crate) fn job(inputs: &[&[u32]]) -> Job {
    Job {
        inputs: inputs.iter().map(|ids| Input::Tokens(ids.to_vec())).collect(),
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + Duration::from_secs(60),
        max_tokens: usize::MAX,
        caller: None,
    }
}

/// `ids` with the tiny model's special tokens, [CLS] = 2 and [SEP] = 3.
pub(crate) fn framed(ids: &[u32]) -> Vec<u32> {
    [&[2], ids, &[3]].concat()
}
