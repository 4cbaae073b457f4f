//! The remote (L2) cache: shared by processes and more durable than any of them.
//!
//! A thread of its own does all lookups and writes, so neither tokenizer nor worker threads wait for the store. Jobs
//! that wait are looked up together, so they share the latency of one request.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use sha2::{Digest, Sha256};

use crate::{
    cache::{
        inflight::{InflightMap, SequenceRef},
        local::LocalCache,
        sequence::TokenSequence,
    },
    job::JobState,
    observer::{CacheReport, Observer},
};

/// Maximum number of sequences in one lookup; further jobs wait for the next one.
const MAX_LOOKUP_KEYS: usize = 4096;

/// Number of queued operations above which vectors are not written, because the store is too slow.
const QUEUE_CAPACITY: usize = 1024;

/// SHA-256 digest of all that a vector depends on: the model's fingerprint and the token sequence.
pub type CacheKey = [u8; 32];

/// A store of vectors outside this process. It may lose any vector at any time. The engine waits for
/// [`get`](Self::get), so an implementation must bound the time of a lookup, and must return no vectors when the store
/// is slow or unavailable.
pub trait RemoteCache: Send + Sync {
    /// Returns the vectors of `keys`, in order; `None` for each key that the store does not hold. A vector is
    /// returned as it was stored: `dimensions` values, pooled, and normalized if the model normalizes.
    fn get(&self, keys: &[CacheKey]) -> Vec<Option<Vec<f32>>>;

    /// Stores vectors. Must not block: vectors that cannot be stored are dropped.
    fn put(&self, entries: Vec<(CacheKey, Vec<f32>)>);
}

/// Computes cache keys: SHA-256 over the fingerprint (its length first) and the ids, all little-endian; then, if tokens
/// are left out of pooling, `p` and their number, and if tokens are in segment 1, `s` and their number. These odd bytes
/// keep such a key apart from one of ids alone.
pub(crate) struct CacheKeyHasher {
    prefix: Sha256,
}

impl CacheKeyHasher {
    pub(crate) fn new(fingerprint: &str) -> Self {
        let mut prefix = Sha256::new();
        prefix.update((fingerprint.len() as u64).to_le_bytes());
        prefix.update(fingerprint.as_bytes());
        Self { prefix }
    }

    fn key(&self, TokenSequence { ids, prompt_tokens, second_segment }: &TokenSequence) -> CacheKey {
        let mut hash = self.prefix.clone();
        let mut buffer = [0; 256];
        for ids in ids.chunks(buffer.len() / 4) {
            for (bytes, id) in buffer.chunks_exact_mut(4).zip(ids) {
                bytes.copy_from_slice(&id.to_le_bytes());
            }
            hash.update(&buffer[..4 * ids.len()]);
        }
        if *prompt_tokens > 0 {
            hash.update(b"p");
            hash.update(prompt_tokens.to_le_bytes());
        }
        if *second_segment > 0 {
            hash.update(b"s");
            hash.update(second_segment.to_le_bytes());
        }
        hash.finalize().into()
    }
}

/// A sequence and its vector.
type ComputedVector = (TokenSequence, Arc<[f32]>);

/// A job and those of its sequences that the local cache does not hold.
pub(crate) struct JobLookup {
    pub(crate) job: Arc<JobState>,
    pub(crate) sequences: Vec<SequenceRef>,
}

/// An operation of the cache's thread.
pub(crate) enum RemoteCacheOp {
    /// Look up a job's sequences, then queue the job with those that are not found.
    Get(JobLookup),
    /// Store computed vectors.
    Put(Vec<ComputedVector>),
    Stop,
}

/// Sends operations to the thread of the remote cache.
pub(crate) struct RemoteCacheHandle(Sender<RemoteCacheOp>);

impl RemoteCacheHandle {
    pub(crate) fn new() -> (Self, Receiver<RemoteCacheOp>) {
        let (sender, receiver) = unbounded();
        (Self(sender), receiver)
    }

    pub(crate) fn get(&self, job: Arc<JobState>, sequences: Vec<SequenceRef>) {
        self.send(RemoteCacheOp::Get(JobLookup { job, sequences }));
    }

    pub(crate) fn put(&self, vectors: Vec<ComputedVector>) {
        if self.0.len() < QUEUE_CAPACITY {
            self.send(RemoteCacheOp::Put(vectors));
        }
    }

    pub(crate) fn stop(&self) {
        self.send(RemoteCacheOp::Stop);
    }

    fn send(&self, operation: RemoteCacheOp) {
        // The thread holds the receiver until `Stop`, which the engine sends after all other threads have ended.
        let _ = self.0.send(operation);
    }
}

/// The thread of the remote cache.
pub(crate) struct RemoteCacheWorker {
    pub(crate) cache: Arc<dyn RemoteCache>,
    pub(crate) hasher: CacheKeyHasher,
    /// Name of the model, for the log.
    pub(crate) model: String,
    pub(crate) dimensions: usize,
    pub(crate) local_cache: Option<Arc<LocalCache>>,
    pub(crate) inflight: Arc<InflightMap>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Queues a job with the sequences that were not found.
    pub(crate) enqueue: Box<dyn Fn(JobLookup) + Send>,
}

impl RemoteCacheWorker {
    /// Executes operations until `Stop`.
    pub(crate) fn run(self, operations: &Receiver<RemoteCacheOp>) {
        let mut lookups = Vec::new();
        for first in operations {
            let (mut keys, mut is_stopping) = (0, false);
            for operation in std::iter::once(first).chain(operations.try_iter()) {
                match operation {
                    RemoteCacheOp::Get(lookup) => {
                        keys += lookup.sequences.len();
                        lookups.push(lookup);
                    }
                    RemoteCacheOp::Put(vectors) => self.put(vectors),
                    RemoteCacheOp::Stop => is_stopping = true,
                }
                if keys >= MAX_LOOKUP_KEYS {
                    break;
                }
            }
            self.resolve(&mut lookups);
            if is_stopping {
                return;
            }
        }
    }

    /// Delivers the vectors that the cache holds, and queues the jobs with the other sequences.
    fn resolve(&self, lookups: &mut Vec<JobLookup>) {
        let live = lookups.iter().filter(|lookup| !lookup.job.is_finished());
        let missing: Vec<SequenceRef> = live
            .flat_map(|lookup| &lookup.sequences)
            .filter(|sequence| sequence.try_look_up())
            .map(Arc::clone)
            .collect();
        if !missing.is_empty() {
            let vectors = self.get(&missing);
            let (mut found, mut rows) = (Vec::new(), Vec::new());
            for (sequence, vector) in missing.iter().zip(vectors) {
                let Some(vector) = vector.filter(|vector| self.is_valid_vector(vector)) else { continue };
                let vector: Arc<[f32]> = vector.into();
                if let Some(local_cache) = &self.local_cache {
                    local_cache.insert(sequence.key().clone(), Arc::clone(&vector));
                }
                found.push(Arc::clone(sequence));
                rows.push(vector);
            }
            self.observer.cache(&CacheReport {
                remote_hits: found.len(),
                misses: missing.len() - found.len(),
                ..CacheReport::default()
            });
            self.inflight.remove_completed(&found);
            for (sequence, row) in found.iter().zip(&rows) {
                for subscriber in sequence.take_subscribers() {
                    subscriber.job.complete([(subscriber.position, &**row)]);
                }
            }
        }
        for mut lookup in lookups.drain(..) {
            lookup.sequences.retain(|sequence| !sequence.is_claimed());
            if lookup.job.is_finished() {
                self.inflight.remove_abandoned(&lookup.sequences);
            } else {
                (self.enqueue)(lookup);
            }
        }
    }

    /// Looks sequences up. Returns no vectors if the cache panics or does not return one result for each key.
    fn get(&self, sequences: &[SequenceRef]) -> Vec<Option<Vec<f32>>> {
        let keys: Vec<_> = sequences.iter().map(|sequence| self.hasher.key(sequence.key())).collect();
        match catch_unwind(AssertUnwindSafe(|| self.cache.get(&keys))) {
            Ok(vectors) if vectors.len() == keys.len() => vectors,
            Ok(vectors) => {
                tracing::warn!(
                    model = self.model,
                    keys = keys.len(),
                    results = vectors.len(),
                    "the remote cache did not return one result for each key; its results are ignored"
                );
                Vec::new()
            }
            Err(_) => {
                tracing::error!(model = self.model, "the remote cache panicked in a lookup");
                Vec::new()
            }
        }
    }

    fn is_valid_vector(&self, vector: &[f32]) -> bool {
        let is_valid = vector.len() == self.dimensions && vector.iter().all(|value| value.is_finite());
        if !is_valid {
            tracing::warn!(
                model = self.model,
                "a vector from the remote cache has a wrong length or is not finite; it is ignored"
            );
        }
        is_valid
    }

    fn put(&self, vectors: Vec<ComputedVector>) {
        let entries =
            vectors.into_iter().map(|(key, vector)| (self.hasher.key(&key), vector.to_vec())).collect();
        if catch_unwind(AssertUnwindSafe(|| self.cache.put(entries))).is_err() {
            tracing::error!(model = self.model, "the remote cache panicked in a write");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_keys_depend_on_the_fingerprint_every_id_the_tokens_left_out_and_the_segments() {
        let of = |fingerprint, ids: &[u32]| CacheKeyHasher::new(fingerprint).key(&ids.into());
        let key = of("a", &[1, 2]);
        assert_eq!(key, of("a", &[1, 2]));
        for (fingerprint, ids) in [("b", &[1, 2][..]), ("a", &[1, 3]), ("a", &[1])] {
            assert_ne!(key, of(fingerprint, ids));
        }
        let with_prompt = |prompt_tokens| {
            let sequence = TokenSequence { prompt_tokens, ..TokenSequence::from(&[1, 2][..]) };
            CacheKeyHasher::new("a").key(&sequence)
        };
        let with_segment = |second_segment| {
            let sequence = TokenSequence { second_segment, ..TokenSequence::from(&[1, 2][..]) };
            CacheKeyHasher::new("a").key(&sequence)
        };
        assert_eq!(with_prompt(0), key);
        assert!(with_prompt(1) != key && with_prompt(1) != with_prompt(2));
        assert_eq!(with_segment(0), key);
        assert!(![key, with_prompt(1), with_segment(2)].contains(&with_segment(1)));
        // 0100000000000000 61 01000000 02000000 through coreutils' sha256sum.
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "019a2ae89ae9738f19072743e38e33600a2bf97de934132643872bc1a114cbae");
        // Longer than the buffer, and different in the last id only.
        let long: Vec<u32> = (0..1000).collect();
        assert_ne!(of("a", &long), of("a", &long[..999]));
    }
}
