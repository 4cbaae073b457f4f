//! A worker thread: owns its encoders by value, runs batches, survives their panics, and lets short jobs go between the
//! steps of a long one's batch.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    BatchReport, EmbedError, Encoder, EncoderFactory, EngineConfig,
    batch::Budget,
    encoder::{Batch, EncodeError},
    engine::Shared,
    golden::PROBE,
    item::{Item, Subscriber},
    pooling::normalize,
    queue::Taken,
};

/// Pause between attempts to build a new encoder after a panic.
const REBUILD_PAUSE: Duration = Duration::from_secs(1);

/// Body of a worker thread: runs batches until the queue is stopped.
pub(crate) fn run(shared: &Shared, encoder: Box<dyn Encoder>, factory: &EncoderFactory) {
    // What runs while another batch pauses needs an encoder of its own.
    let second = if encoder.supports_preemption() { rebuild(shared, factory) } else { None };
    let mut station = Station::new(shared, factory, encoder);
    let mut aside = second.map(|encoder| Station::new(shared, factory, encoder));
    while station.encoder.is_some()
        && let Some(Taken { items, long }) = shared.queue.take(station.budget)
    {
        station.run(items, aside.as_mut().filter(|_| long));
    }
}

/// An encoder, and the memory for its batches.
struct Station<'s> {
    shared: &'s Shared,
    factory: &'s EncoderFactory,
    /// `None` after a panic, if the engine was stopped before there was a new one.
    encoder: Option<Box<dyn Encoder>>,
    budget: Budget,
    batch: Batch,
    vectors: Vec<f32>,
}

/// Result of a batch that ran once.
enum Outcome {
    Computed,
    Panicked,
    /// The jobs that wait for these items do not know yet.
    Failed(Vec<Arc<Item>>, EncodeError),
}

impl<'s> Station<'s> {
    fn new(shared: &'s Shared, factory: &'s EncoderFactory, encoder: Box<dyn Encoder>) -> Self {
        let budget = Budget {
            tokens: shared.config.max_batch_tokens,
            inputs: shared.config.max_batch_inputs,
            pads: encoder.needs_padding(),
        };
        Self { shared, factory, encoder: Some(encoder), budget, batch: Batch::new(), vectors: Vec::new() }
    }

    /// Runs a batch to its end, whatever that is. Short jobs that come meanwhile run `aside`.
    fn run(&mut self, items: Vec<Arc<Item>>, aside: Option<&mut Self>) {
        let Outcome::Failed(items, error) = self.attempt(items, aside) else { return };
        let shared = self.shared;
        tracing::error!(
            model = shared.config.name,
            error = &error as &dyn std::error::Error,
            "a batch failed; its texts are tried one by one"
        );
        shared.observer.encoder_failed();
        // The cause may be one text, too little memory for all of them together, or a fault that has passed.
        let (mut failed, mut is_last_computed) = (Vec::new(), false);
        for item in items {
            let outcome = self.attempt(vec![item], None);
            is_last_computed = matches!(outcome, Outcome::Computed);
            if let Outcome::Failed(items, error) = outcome {
                failed.push((items, Arc::new(error)));
            }
        }
        let Some((_, first)) = failed.first() else { return };
        // A text computed before the failures proves nothing: the device may have failed since.
        let is_text_at_fault = is_last_computed || self.computes_probe();
        tracing::error!(
            model = shared.config.name,
            texts = failed.len(),
            error = &**first as &dyn std::error::Error,
            "the encoder failed twice on texts, and then {}",
            if is_text_at_fault { "computed another" } else { "failed on the probe text, too" }
        );
        for (items, error) in failed {
            fail(shared, &items, |Subscriber { work, position }| {
                let source = Arc::clone(&error);
                if is_text_at_fault {
                    work.fail_at(*position, |index| EmbedError::Unencodable { index, source });
                } else {
                    work.fail(EmbedError::Encoder(source));
                }
            });
        }
    }

    /// Runs a batch once. Its jobs are told of vectors and of a panic, but not of an error.
    fn attempt(&mut self, items: Vec<Arc<Item>>, aside: Option<&mut Self>) -> Outcome {
        let shared = self.shared;
        shared.heartbeat.beat();
        self.fill(&items);
        let result = catch_unwind(AssertUnwindSafe(|| self.encode(aside)));
        shared.heartbeat.beat();
        match result {
            Ok(Ok(report)) => {
                if items.iter().any(|item| !item.private) {
                    shared.observer.batch(&report);
                }
                deliver(shared, items, &mut self.vectors);
                Outcome::Computed
            }
            Ok(Err(error)) => Outcome::Failed(items, error),
            Err(_) => {
                fail(shared, &items, |subscriber| subscriber.work.fail(EmbedError::Panicked));
                self.replace_encoder();
                Outcome::Panicked
            }
        }
    }

    /// Builds a new encoder after a panic. Whatever state the panic left behind goes with the old one.
    fn replace_encoder(&mut self) {
        tracing::error!(model = self.shared.config.name, "the encoder panicked; building a new one");
        self.encoder = None;
        self.encoder = rebuild(self.shared, self.factory);
    }

    /// Returns true if the encoder computes a text that every model can read.
    fn computes_probe(&mut self) -> bool {
        let Self { shared, encoder, batch, vectors, .. } = self;
        let EngineConfig { tokenizer, max_input_tokens, dimensions, .. } = &shared.config;
        let (Some(encoder), Ok(mut content)) = (encoder, tokenizer.encode(PROBE)) else { return false };
        content.truncate(max_input_tokens - tokenizer.num_special_tokens());
        let mut ids = Vec::new();
        tokenizer.add_special_tokens(&content, &mut ids);
        batch.clear();
        batch.push(&ids);
        vectors.clear();
        vectors.resize(*dimensions, 0.0);
        let result = catch_unwind(AssertUnwindSafe(|| encoder.encode(batch, &mut || 0, vectors)));
        shared.heartbeat.beat();
        let is_computed = matches!(result, Ok(Ok(()))) && vectors.iter().all(|value| value.is_finite());
        if result.is_err() {
            self.replace_encoder();
        }
        is_computed
    }

    /// Gathers what was taken into a batch.
    fn fill(&mut self, items: &[Arc<Item>]) {
        let Self { shared, batch, vectors, .. } = self;
        batch.clear();
        let now = Instant::now();
        for item in items {
            batch.push(item.ids());
            item.start(now, |waited| {
                if !item.private {
                    shared.observer.queue_wait(waited);
                }
            });
        }
        vectors.clear();
        vectors.resize(batch.len() * shared.config.dimensions, 0.0);
    }

    /// Encodes the batch that was gathered.
    fn encode(&mut self, mut aside: Option<&mut Self>) -> Result<BatchReport, EncodeError> {
        let Self { shared, encoder, batch, vectors, .. } = self;
        let Some(encoder) = encoder else {
            return Err(EncodeError::Other("the engine was stopped".to_owned()));
        };
        let tokens = batch.tokens();
        let (mut paused, mut aside_tokens, mut most_spare) = (Duration::ZERO, 0, 0);
        let mut on_yield = || {
            if let Some(aside) = aside.as_deref_mut() {
                // As much as the batch has itself, so that it takes no more than twice its time.
                if aside_tokens < tokens
                    && let Some(urgent) = shared.queue.take_urgent(aside.budget)
                {
                    let started = Instant::now();
                    aside_tokens += urgent.tokens();
                    aside.run(urgent.items, None);
                    paused += started.elapsed();
                }
                // Whoever brings a short job, or takes its answer, needs this core for some microseconds only, and
                // should not have to wait for the end of this thread's time slice. It is no pause: what others take of
                // the core belongs to the pace.
                thread::yield_now();
            }
            let spare_workers = shared.queue.spare_workers();
            most_spare = spare_workers.max(most_spare);
            spare_workers
        };
        let started = Instant::now();
        encoder.encode(batch, &mut on_yield, vectors)?;
        let elapsed = started.elapsed().saturating_sub(paused);
        // Those without work may have helped, so there was room for fewer that are as fast.
        let parallelism = shared.config.workers as f64 / (most_spare + 1) as f64;
        shared.admission.observe_batch(tokens, elapsed, parallelism);
        let padding = encoder.padded_tokens(batch).saturating_sub(tokens);
        Ok(BatchReport { inputs: batch.len(), tokens, padding, elapsed })
    }
}

/// Keeps the vectors, and hands each to all who wait for it.
fn deliver(shared: &Shared, items: Vec<Arc<Item>>, vectors: &mut [f32]) {
    let rows = vectors.chunks_exact_mut(shared.config.dimensions);
    let (mut sound, mut unsound) = (Vec::with_capacity(items.len()), Vec::new());
    for (item, row) in items.into_iter().zip(rows) {
        if row.iter().all(|value| value.is_finite()) {
            if shared.config.normalize {
                normalize(row);
            }
            sound.push((item, &*row));
        } else {
            tracing::error!(
                model = shared.config.name,
                tokens = item.tokens(),
                "a vector holds NaN or an infinity"
            );
            unsound.push(item);
        }
    }
    keep(shared, &sound);
    shared.flights.land(sound.iter().map(|(item, _)| item));
    for (item, row) in sound {
        for subscriber in item.close() {
            subscriber.work.complete([(subscriber.position, row)]);
        }
    }
    if !unsound.is_empty() {
        fail(shared, &unsound, |Subscriber { work, position }| {
            work.fail_at(*position, |index| EmbedError::NotFinite { index });
        });
    }
}

/// Puts vectors into the cache and sends them to the second tier, before their sequences can be begun again.
fn keep(shared: &Shared, sound: &[(Arc<Item>, &[f32])]) {
    if shared.memory.is_none() && shared.errands.is_none() {
        return;
    }
    let mut kept = Vec::new();
    for (item, row) in sound.iter().filter(|(item, _)| !item.private) {
        let vector: Arc<[f32]> = (*row).into();
        if shared.errands.is_some() {
            kept.push((Arc::clone(item.ids()), Arc::clone(&vector)));
        }
        if let Some(memory) = &shared.memory {
            memory.insert(Arc::clone(item.ids()), vector);
        }
    }
    if let Some(errands) = shared.errands.as_ref().filter(|_| !kept.is_empty()) {
        errands.keep(kept);
    }
}

/// Fails all who wait for `items`; whoever asks again begins anew.
fn fail(shared: &Shared, items: &[Arc<Item>], tell: impl Fn(&Subscriber)) {
    shared.observer.encoder_failed();
    shared.flights.land(items);
    items.iter().flat_map(|item| item.close()).for_each(|subscriber| tell(&subscriber));
}

/// Builds a new encoder, again and again until it works or the engine stops. Jobs meanwhile wait for their
/// deadlines, and [`Engine::stalled_for`](crate::Engine::stalled_for) tells.
fn rebuild(shared: &Shared, factory: &EncoderFactory) -> Option<Box<dyn Encoder>> {
    loop {
        match catch_unwind(AssertUnwindSafe(|| factory())) {
            Ok(Ok(encoder)) => return Some(encoder),
            Ok(Err(error)) => {
                tracing::error!(
                    model = shared.config.name,
                    error = &error as &dyn std::error::Error,
                    "cannot build a new encoder"
                );
            }
            Err(_) => tracing::error!(model = shared.config.name, "building a new encoder panicked"),
        }
        if shared.queue.stopped_within(REBUILD_PAUSE) {
            return None;
        }
    }
}
