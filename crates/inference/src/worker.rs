//! A worker thread: owns its encoders, runs batches, survives their panics, and runs short jobs between the steps of a
//! long job's batch.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    cache::{
        inflight::{SequenceRef, Subscriber},
        sequence::TokenSequence,
    },
    context::{EngineConfig, EngineContext},
    encoder::{Batch, Encoder, EncoderFactory},
    error::{EmbedError, EncodeError},
    golden::PROBE,
    observer::BatchReport,
    pooling::normalize,
    scheduler::{BatchBudget, NextBatch},
};

/// Time between attempts to build a new encoder after a panic.
const REBUILD_BACKOFF: Duration = Duration::from_secs(1);

/// Runs batches until the scheduler is stopped.
pub(crate) fn run(context: &EngineContext, encoder: Box<dyn Encoder>, factory: &EncoderFactory) {
    // A batch that runs inside another one needs an encoder of its own.
    let second = if encoder.supports_preemption() { build_encoder(context, factory) } else { None };
    let mut slot = EncoderSlot::new(context, factory, encoder);
    let mut preempting_slot = second.map(|encoder| EncoderSlot::new(context, factory, encoder));
    while slot.encoder.is_some()
        && let Some(NextBatch { sequences, is_preemptible }) = context.scheduler.take_batch(slot.budget)
    {
        slot.run(sequences, preempting_slot.as_mut().filter(|_| is_preemptible));
    }
}

/// An encoder and the buffers of its batches.
struct EncoderSlot<'c> {
    context: &'c EngineContext,
    factory: &'c EncoderFactory,
    /// `None` after a panic if the engine was stopped before a new encoder was built.
    encoder: Option<Box<dyn Encoder>>,
    budget: BatchBudget,
    batch: Batch,
    vectors: Vec<f32>,
}

/// Result of one attempt to run a batch.
enum Outcome {
    Computed,
    Panicked,
    /// The subscribers of these sequences have not been told.
    Failed(Vec<SequenceRef>, EncodeError),
}

impl<'c> EncoderSlot<'c> {
    fn new(context: &'c EngineContext, factory: &'c EncoderFactory, encoder: Box<dyn Encoder>) -> Self {
        let budget = BatchBudget {
            tokens: context.config.max_batch_tokens,
            inputs: context.config.max_batch_inputs,
            needs_padding: encoder.needs_padding(),
        };
        Self { context, factory, encoder: Some(encoder), budget, batch: Batch::new(), vectors: Vec::new() }
    }

    /// Runs a batch and delivers its vectors or errors. Short jobs that arrive meanwhile run in `preempting_slot`.
    fn run(&mut self, sequences: Vec<SequenceRef>, preempting_slot: Option<&mut Self>) {
        let Outcome::Failed(sequences, error) = self.attempt(sequences, preempting_slot) else { return };
        let context = self.context;
        tracing::error!(
            model = context.config.name,
            error = &error as &dyn std::error::Error,
            "a batch failed; each of its texts is computed in a batch of its own"
        );
        context.observer.encoder_failed();
        // Possible causes: one text, too little memory for all of them together, or a transient fault.
        let (mut failed, mut is_last_computed) = (Vec::new(), false);
        for sequence in sequences {
            let outcome = self.attempt(vec![sequence], None);
            is_last_computed = matches!(outcome, Outcome::Computed);
            if let Outcome::Failed(sequences, error) = outcome {
                failed.push((sequences, Arc::new(error)));
            }
        }
        let Some((_, first)) = failed.first() else { return };
        // A text that was computed before the failures proves nothing: the device may have failed since.
        let is_text_at_fault = is_last_computed || self.computes_probe();
        tracing::error!(
            model = context.config.name,
            texts = failed.len(),
            error = &**first as &dyn std::error::Error,
            "the encoder failed twice on texts, and then {}",
            if is_text_at_fault { "computed another" } else { "failed on the probe text, too" }
        );
        for (sequences, error) in failed {
            fail_all(context, &sequences, |Subscriber { job, position }| {
                let source = Arc::clone(&error);
                if is_text_at_fault {
                    job.fail_at(*position, |index| EmbedError::Unencodable { index, source });
                } else {
                    job.fail(EmbedError::Encoder(source));
                }
            });
        }
    }

    /// Runs a batch once. Delivers its vectors, or the error of a panic; an encoder's error is returned.
    fn attempt(&mut self, sequences: Vec<SequenceRef>, preempting_slot: Option<&mut Self>) -> Outcome {
        let context = self.context;
        context.heartbeat.beat();
        self.fill_batch(&sequences);
        let result = catch_unwind(AssertUnwindSafe(|| self.encode(preempting_slot)));
        context.heartbeat.beat();
        match result {
            Ok(Ok(report)) => {
                if sequences.iter().any(|sequence| !sequence.bypass_cache) {
                    context.observer.batch(&report);
                }
                deliver(context, sequences, &mut self.vectors);
                Outcome::Computed
            }
            Ok(Err(error)) => Outcome::Failed(sequences, error),
            Err(_) => {
                fail_all(context, &sequences, |subscriber| subscriber.job.fail(EmbedError::Panicked));
                self.replace_encoder();
                Outcome::Panicked
            }
        }
    }

    /// Builds a new encoder after a panic. The state of the old one is discarded with it.
    fn replace_encoder(&mut self) {
        tracing::error!(model = self.context.config.name, "the encoder panicked; a new one is built");
        self.encoder = None;
        self.encoder = build_encoder(self.context, self.factory);
    }

    /// Returns true if the encoder computes a text that every model can read.
    fn computes_probe(&mut self) -> bool {
        let Self { context, encoder, batch, vectors, .. } = self;
        let EngineConfig { tokenizer, max_input_tokens, dimensions, .. } = &context.config;
        let (Some(encoder), Ok(mut content)) = (encoder, tokenizer.encode(PROBE)) else { return false };
        content.truncate(max_input_tokens - tokenizer.num_special_tokens());
        let mut ids = Vec::new();
        tokenizer.add_special_tokens(&content, &mut ids);
        batch.clear();
        batch.push(&ids);
        vectors.clear();
        vectors.resize(*dimensions, 0.0);
        let result = catch_unwind(AssertUnwindSafe(|| encoder.encode(batch, &mut || 0, vectors)));
        context.heartbeat.beat();
        let is_computed = matches!(result, Ok(Ok(()))) && vectors.iter().all(|value| value.is_finite());
        if result.is_err() {
            self.replace_encoder();
        }
        is_computed
    }

    /// Copies the sequences into the batch and records their start.
    fn fill_batch(&mut self, sequences: &[SequenceRef]) {
        let Self { context, batch, vectors, .. } = self;
        batch.clear();
        let now = Instant::now();
        for sequence in sequences {
            let TokenSequence { ids, prompt_tokens, second_segment } = sequence.key();
            batch.push_sequence(ids, *prompt_tokens as usize, *second_segment as usize);
            sequence.record_start(now, |waited| {
                if !sequence.bypass_cache {
                    context.observer.queue_wait(waited);
                }
            });
        }
        vectors.clear();
        vectors.resize(batch.len() * context.config.dimensions, 0.0);
    }

    fn encode(&mut self, mut preempting_slot: Option<&mut Self>) -> Result<BatchReport, EncodeError> {
        let Self { context, encoder, batch, vectors, .. } = self;
        let Some(encoder) = encoder else {
            return Err(EncodeError::Other("the engine was stopped".to_owned()));
        };
        let tokens = batch.tokens();
        let (mut paused, mut preempting_tokens, mut max_idle_workers) = (Duration::ZERO, 0, 0);
        let mut on_yield = || {
            if let Some(slot) = preempting_slot.as_deref_mut() {
                // At most as many tokens as this batch has, so that it takes no more than twice its time.
                if preempting_tokens < tokens
                    && let Some(short) = context.scheduler.take_preempting_batch(slot.budget)
                {
                    let started = Instant::now();
                    preempting_tokens += short.tokens();
                    slot.run(short.sequences, None);
                    paused += started.elapsed();
                }
                // An HTTP thread that submits a short job or reads its result needs this core for some microseconds,
                // and must not wait for the end of this thread's time slice. The time counts as part of the batch,
                // since other threads' use of the core belongs to the throughput.
                thread::yield_now();
            }
            let idle_workers = context.scheduler.idle_workers();
            max_idle_workers = idle_workers.max(max_idle_workers);
            idle_workers
        };
        let started = Instant::now();
        encoder.encode(batch, &mut on_yield, vectors)?;
        let elapsed = started.elapsed().saturating_sub(paused);
        // Idle workers may have helped with this batch, so fewer such batches can run in parallel.
        let parallelism = context.config.workers as f64 / (max_idle_workers + 1) as f64;
        context.admission.observe_batch(tokens, elapsed, parallelism);
        let padding = encoder.padded_tokens(batch).saturating_sub(tokens);
        Ok(BatchReport { inputs: batch.len(), tokens, padding, elapsed })
    }
}

/// Caches the vectors and delivers them to all subscribers.
fn deliver(context: &EngineContext, sequences: Vec<SequenceRef>, vectors: &mut [f32]) {
    let rows = vectors.chunks_exact_mut(context.config.dimensions);
    let (mut finite, mut not_finite) = (Vec::with_capacity(sequences.len()), Vec::new());
    for (sequence, row) in sequences.into_iter().zip(rows) {
        if row.iter().all(|value| value.is_finite()) {
            if context.config.normalize {
                normalize(row);
            }
            finite.push((sequence, &*row));
        } else {
            tracing::error!(
                model = context.config.name,
                tokens = sequence.tokens(),
                "a vector holds NaN or an infinity"
            );
            not_finite.push(sequence);
        }
    }
    store_in_caches(context, &finite);
    context.inflight.remove_completed(finite.iter().map(|(sequence, _)| sequence));
    for (sequence, row) in finite {
        for subscriber in sequence.take_subscribers() {
            subscriber.job.complete([(subscriber.position, row)]);
        }
    }
    if !not_finite.is_empty() {
        fail_all(context, &not_finite, |Subscriber { job, position }| {
            job.fail_at(*position, |index| EmbedError::NotFinite { index });
        });
    }
}

/// Stores vectors in both caches. Must happen before their sequences leave the map of sequences in flight.
fn store_in_caches(context: &EngineContext, computed: &[(SequenceRef, &[f32])]) {
    if context.local_cache.is_none() && context.remote_cache.is_none() {
        return;
    }
    let mut for_remote = Vec::new();
    for (sequence, row) in computed.iter().filter(|(sequence, _)| !sequence.bypass_cache) {
        let vector: Arc<[f32]> = (*row).into();
        if context.remote_cache.is_some() {
            for_remote.push((sequence.key().clone(), Arc::clone(&vector)));
        }
        if let Some(local_cache) = &context.local_cache {
            local_cache.insert(sequence.key().clone(), vector);
        }
    }
    if let Some(remote_cache) = context.remote_cache.as_ref().filter(|_| !for_remote.is_empty()) {
        remote_cache.put(for_remote);
    }
}

/// Fails all jobs that wait for `sequences`. Later jobs compute them again.
fn fail_all(context: &EngineContext, sequences: &[SequenceRef], fail: impl Fn(&Subscriber)) {
    context.observer.encoder_failed();
    context.inflight.remove_completed(sequences);
    let subscribers = sequences.iter().flat_map(|sequence| sequence.take_subscribers());
    subscribers.for_each(|subscriber| fail(&subscriber));
}

/// Builds an encoder, and retries until it succeeds or the engine stops. Jobs wait meanwhile, up to their deadlines,
/// and [`Engine::stalled_for`](crate::Engine::stalled_for) reports the stall.
fn build_encoder(context: &EngineContext, factory: &EncoderFactory) -> Option<Box<dyn Encoder>> {
    loop {
        match catch_unwind(AssertUnwindSafe(|| factory())) {
            Ok(Ok(encoder)) => return Some(encoder),
            Ok(Err(error)) => {
                tracing::error!(
                    model = context.config.name,
                    error = &error as &dyn std::error::Error,
                    "cannot build an encoder; retrying"
                );
            }
            Err(_) => tracing::error!(model = context.config.name, "building an encoder panicked; retrying"),
        }
        if context.scheduler.wait_for_stop(REBUILD_BACKOFF) {
            return None;
        }
    }
}
