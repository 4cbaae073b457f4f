//! The errands to a second tier, on a thread of their own: neither tokenizing nor an encoder ever waits for it.
//!
//! Jobs that wait for an answer are asked for together, so a slow store costs its latency once for all of them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender};

use crate::{CacheReport, RemoteCache, cache::Keys, engine::Shared, item::Item, job::Work};

/// Sequences to ask for at a time; jobs beyond wait for the next answer.
const MOST_KEYS: usize = 4096;
/// Errands in the channel beyond which vectors are not put any more: the store does not keep up.
const MOST_ERRANDS: usize = 1024;

/// Ids and their vector.
pub(crate) type Computed = (Arc<[u32]>, Arc<[f32]>);

/// Something for the thread to do.
pub(crate) enum Errand {
    /// Ask for a job's items, then queue the job for what is not there.
    Find(Arc<Work>, Vec<Arc<Item>>),
    /// Put vectors that were computed.
    Keep(Vec<Computed>),
    /// End.
    Stop,
}

/// The way to the thread.
pub(crate) struct Errands(Sender<Errand>);

impl Errands {
    pub(crate) fn new(sender: Sender<Errand>) -> Self {
        Self(sender)
    }

    pub(crate) fn find(&self, work: Arc<Work>, items: Vec<Arc<Item>>) {
        self.send(Errand::Find(work, items));
    }

    pub(crate) fn keep(&self, vectors: Vec<Computed>) {
        if self.0.len() < MOST_ERRANDS {
            self.send(Errand::Keep(vectors));
        }
    }

    pub(crate) fn stop(&self) {
        self.send(Errand::Stop);
    }

    fn send(&self, errand: Errand) {
        // The thread holds the receiver until it is told to stop, which is after everybody else has ended.
        let _ = self.0.send(errand);
    }
}

/// Body of the thread.
pub(crate) fn run(shared: &Shared, tier: &dyn RemoteCache, keys: &Keys, errands: &Receiver<Errand>) {
    let mut jobs = Vec::new();
    for first in errands {
        let (mut waiting, mut stop) = (0, false);
        for errand in std::iter::once(first).chain(errands.try_iter()) {
            match errand {
                Errand::Find(work, items) => {
                    waiting += items.len();
                    jobs.push((work, items));
                }
                Errand::Keep(vectors) => keep(shared, tier, keys, vectors),
                Errand::Stop => stop = true,
            }
            if waiting >= MOST_KEYS {
                break;
            }
        }
        find(shared, tier, keys, &mut jobs);
        if stop {
            return;
        }
    }
}

/// Answers what the tier holds, and queues the rest.
fn find(shared: &Shared, tier: &dyn RemoteCache, keys: &Keys, jobs: &mut Vec<(Arc<Work>, Vec<Arc<Item>>)>) {
    let live = jobs.iter().filter(|(work, _)| !work.is_over());
    let asked: Vec<Arc<Item>> =
        live.flat_map(|(_, items)| items).filter(|item| item.look_up()).map(Arc::clone).collect();
    if !asked.is_empty() {
        let vectors = ask(shared, tier, keys, &asked);
        let (mut found, mut rows) = (Vec::new(), Vec::new());
        for (item, vector) in asked.iter().zip(vectors) {
            let Some(vector) = vector.filter(|vector| is_sound(shared, vector)) else { continue };
            let vector: Arc<[f32]> = vector.into();
            if let Some(memory) = &shared.memory {
                memory.insert(Arc::clone(item.ids()), Arc::clone(&vector));
            }
            found.push(Arc::clone(item));
            rows.push(vector);
        }
        shared.observer.cache(&CacheReport {
            remote_hits: found.len(),
            misses: asked.len() - found.len(),
            ..CacheReport::default()
        });
        shared.flights.land(&found);
        for (item, row) in found.iter().zip(&rows) {
            for subscriber in item.close() {
                subscriber.work.complete([(subscriber.position, &**row)]);
            }
        }
    }
    for (work, mut items) in jobs.drain(..) {
        items.retain(|item| !item.is_taken());
        if work.is_over() {
            shared.flights.release(&items);
        } else {
            shared.enqueue(work, items);
        }
    }
}

/// What the tier says, or nothing where it panics or does not answer every key.
fn ask(shared: &Shared, tier: &dyn RemoteCache, keys: &Keys, items: &[Arc<Item>]) -> Vec<Option<Vec<f32>>> {
    let keys: Vec<_> = items.iter().map(|item| keys.key(item.ids())).collect();
    match catch_unwind(AssertUnwindSafe(|| tier.get(&keys))) {
        Ok(vectors) if vectors.len() == keys.len() => vectors,
        Ok(_) => {
            tracing::warn!(model = shared.config.name, "the cache's second tier did not answer every key");
            Vec::new()
        }
        Err(_) => {
            tracing::error!(model = shared.config.name, "the cache's second tier panicked");
            Vec::new()
        }
    }
}

/// Whether a vector from elsewhere can be one of this model's.
fn is_sound(shared: &Shared, vector: &[f32]) -> bool {
    let sound = vector.len() == shared.config.dimensions && vector.iter().all(|value| value.is_finite());
    if !sound {
        tracing::warn!(model = shared.config.name, "a vector of the cache's second tier is damaged");
    }
    sound
}

fn keep(shared: &Shared, tier: &dyn RemoteCache, keys: &Keys, vectors: Vec<Computed>) {
    let entries = vectors.into_iter().map(|(ids, vector)| (keys.key(&ids), vector.to_vec())).collect();
    if catch_unwind(AssertUnwindSafe(|| tier.put(entries))).is_err() {
        tracing::error!(model = shared.config.name, "the cache's second tier panicked");
    }
}
