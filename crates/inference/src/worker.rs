//! A worker thread: owns one encoder by value, runs batches, survives their panics.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    BatchReport, EmbedError, Encoder, EncoderFactory,
    batch::Budget,
    encoder::{Batch, EncodeError},
    engine::Shared,
    queue::Taken,
};

/// Pause between attempts to build a new encoder after a panic.
const REBUILD_PAUSE: Duration = Duration::from_secs(1);

/// Body of a worker thread: runs batches until the queue is stopped.
pub(crate) fn run(shared: &Shared, mut encoder: Box<dyn Encoder>, factory: &EncoderFactory) {
    let mut batch = Batch::new();
    let mut vectors = Vec::new();
    let budget = Budget {
        tokens: shared.config.batch_tokens,
        inputs: shared.config.batch_inputs,
        pads: encoder.pads(),
    };
    while let Some(taken) = shared.queue.take(budget) {
        shared.heartbeat.beat();
        fill(&mut batch, &taken, shared);
        vectors.clear();
        vectors.resize(batch.len() * shared.config.dimensions, 0.0);
        let started = Instant::now();
        let encode =
            AssertUnwindSafe(|| if batch.is_empty() { Ok(()) } else { encoder.encode(&batch, &mut vectors) });
        let result = catch_unwind(encode);
        let elapsed = started.elapsed();
        shared.heartbeat.beat();
        match result {
            Ok(Ok(())) => {
                let spent = if encoder.pads() { batch.longest() * batch.len() } else { batch.tokens() };
                if !batch.is_empty() {
                    shared.admission.observe_pace(batch.tokens(), elapsed, shared.config.workers);
                    let padding = spent - batch.tokens();
                    shared.observer.batch(&BatchReport {
                        inputs: batch.len(),
                        tokens: batch.tokens(),
                        padding,
                        elapsed,
                    });
                }
                deliver(shared, taken, &vectors);
            }
            Ok(Err(error)) => {
                tracing::error!(
                    model = shared.config.name,
                    error = &error as &dyn std::error::Error,
                    "a batch failed"
                );
                let error = Arc::new(error);
                fail(shared, taken, || EmbedError::Encoder(Arc::clone(&error)));
            }
            Err(_) => {
                tracing::error!(model = shared.config.name, "the encoder panicked; building a new one");
                fail(shared, taken, || EmbedError::Panicked);
                // Whatever state the panic left behind goes with the old encoder.
                drop(encoder);
                match rebuild(shared, factory) {
                    Some(fresh) => encoder = fresh,
                    None => return,
                }
            }
        }
    }
}

/// Gathers what was taken into a batch. A sequence without tokens stays out: no encoder need know that case,
/// and its vector is zero.
fn fill(batch: &mut Batch, taken: &[Taken], shared: &Shared) {
    batch.clear();
    let now = Instant::now();
    for taken in taken {
        if let Some(waited) = taken.work.start(now) {
            shared.observer.queue_wait(waited);
        }
        if !taken.ids.is_empty() {
            batch.push(&taken.ids);
        }
    }
}

fn deliver(shared: &Shared, taken: Vec<Taken>, vectors: &[f32]) {
    let zero = vec![0.0; shared.config.dimensions];
    let mut rows = vectors.chunks_exact(shared.config.dimensions);
    for Taken { work, index, ids } in taken {
        let vector = if ids.is_empty() { None } else { rows.next() }.unwrap_or(&zero);
        if vector.iter().all(|value| value.is_finite()) {
            work.complete(index, vector, shared.config.normalize);
        } else {
            tracing::error!(
                model = shared.config.name,
                tokens = ids.len(),
                "a vector holds NaN or an infinity"
            );
            shared.observer.encoder_failed();
            work.fail(EmbedError::Encoder(Arc::new(EncodeError::NotFinite)));
        }
    }
}

fn fail(shared: &Shared, taken: Vec<Taken>, error: impl Fn() -> EmbedError) {
    shared.observer.encoder_failed();
    for taken in taken {
        taken.work.fail(error());
    }
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
