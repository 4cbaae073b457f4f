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
    item::Item,
    pooling::normalize,
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
    // A batch that failed as a whole, as batches of one: what failed may be one text of one job, or too little memory
    // for all of them together.
    let mut singles = Vec::new();
    while let Some(Taken { items, spare_workers }) = singles.pop().or_else(|| shared.queue.take(budget)) {
        shared.heartbeat.beat();
        fill(&mut batch, &items, shared);
        vectors.clear();
        vectors.resize(batch.len() * shared.config.dimensions, 0.0);
        let started = Instant::now();
        let encode = AssertUnwindSafe(|| encoder.encode(&batch, spare_workers, &mut vectors));
        let result = catch_unwind(encode);
        let elapsed = started.elapsed();
        shared.heartbeat.beat();
        match result {
            Ok(Ok(())) => {
                // Those without work may have helped, so there was room for fewer that are as fast.
                let alike = shared.config.workers as f64 / (spare_workers + 1) as f64;
                shared.admission.observe_pace(batch.tokens(), elapsed, alike);
                if items.iter().any(|item| !item.private) {
                    let (tokens, spent) = (batch.tokens(), encoder.spent(&batch));
                    let padding = spent.saturating_sub(tokens);
                    shared.observer.batch(&BatchReport { inputs: batch.len(), tokens, padding, elapsed });
                }
                deliver(shared, items, &mut vectors);
            }
            Ok(Err(error)) => {
                let split = items.len() > 1;
                tracing::error!(
                    model = shared.config.name,
                    error = &error as &dyn std::error::Error,
                    "a batch failed{}",
                    if split { "; its texts are tried one by one" } else { "" }
                );
                if split {
                    shared.observer.encoder_failed();
                    singles.extend(
                        items.into_iter().rev().map(|item| Taken { items: vec![item], spare_workers }),
                    );
                } else {
                    let error = Arc::new(error);
                    fail(shared, &items, || EmbedError::Encoder(Arc::clone(&error)));
                }
            }
            Err(_) => {
                tracing::error!(model = shared.config.name, "the encoder panicked; building a new one");
                fail(shared, &items, || EmbedError::Panicked);
                // Whatever state the panic left behind goes with the old encoder.
                drop(encoder);
                match rebuild(shared, factory) {
                    Some(fresh) => encoder = fresh,
                    None => {
                        for Taken { items, .. } in &singles {
                            fail(shared, items, || EmbedError::Panicked);
                        }
                        return;
                    }
                }
            }
        }
    }
}

/// Gathers what was taken into a batch.
fn fill(batch: &mut Batch, items: &[Arc<Item>], shared: &Shared) {
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
        let error = Arc::new(EncodeError::NotFinite);
        fail(shared, &unsound, || EmbedError::Encoder(Arc::clone(&error)));
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
fn fail(shared: &Shared, items: &[Arc<Item>], error: impl Fn() -> EmbedError) {
    shared.observer.encoder_failed();
    shared.flights.land(items);
    for subscriber in items.iter().flat_map(|item| item.close()) {
        subscriber.work.fail(error());
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
