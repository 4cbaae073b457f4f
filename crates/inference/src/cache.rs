//! Vectors kept in memory, by the ids they were computed from. Why this library: docs/adr/0006.

use std::{
    fmt,
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync::Cache};
use sha2::{Digest, Sha256};

use crate::{CacheKey, RemoteCache};

/// What an entry takes beside its ids and its vector, in bytes: two allocations with their counters (2 × 32), a
/// place in the list (48) and in the index (12), and half as much again for those that the policy remembers
/// after they went; rounded up, for the list grows by doubling.
const ENTRY_BYTES: usize = 192;

/// Tokens of a usual text: an estimate by which the number of locks is chosen, no more.
const USUAL_TOKENS: usize = 32;

/// Where vectors that were computed are kept, so that no text in use is computed twice.
#[derive(Clone)]
pub struct CacheConfig {
    /// Memory for them, in bytes, keys and overhead included; 0 for none.
    pub bytes: usize,
    /// Names everything that a vector depends on beside the token ids: weights, pooling, precision, kernels. A
    /// remote cache may hold the vectors of many models; equal fingerprints mean equal vectors.
    pub fingerprint: String,
    /// A remote cache, asked for what memory does not hold.
    pub remote: Option<Arc<dyn RemoteCache>>,
}

impl fmt::Debug for CacheConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheConfig")
            .field("bytes", &self.bytes)
            .field("fingerprint", &self.fingerprint)
            .field("remote", &self.remote.is_some())
            .finish()
    }
}

/// The vectors of one engine. An engine has one model, so ids are all that a vector depends on; they are compared
/// as such, and hashed with a random key.
pub(crate) struct Memory {
    entries: Cache<Arc<[u32]>, Arc<[f32]>, ByBytes, RandomState, Evictions>,
    evictions: Evictions,
}

impl Memory {
    /// A cache of at most `bytes` for vectors of `dimensions` values; `None` for no bytes.
    pub(crate) fn new(bytes: usize, dimensions: usize) -> Option<Self> {
        if bytes == 0 {
            return None;
        }
        let usual = 4 * (dimensions + USUAL_TOKENS) + ENTRY_BYTES;
        let shards = thread::available_parallelism().map_or(1, usize::from).next_power_of_two();
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(bytes.div_ceil(usual))
            // The library rounds each share up.
            .weight_capacity((bytes - bytes % shards) as u64)
            .build()
            .ok()?;
        let evictions = Evictions::default();
        let entries = Cache::with_options(options, ByBytes, RandomState::new(), evictions.clone());
        Some(Self { entries, evictions })
    }

    pub(crate) fn get(&self, ids: &[u32]) -> Option<Arc<[f32]>> {
        self.entries.get(ids)
    }

    pub(crate) fn insert(&self, ids: Arc<[u32]>, vector: Arc<[f32]>) {
        self.entries.insert(ids, vector);
    }

    /// Bytes that its entries take, overhead included.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.weight() as usize
    }

    /// Number of its vectors.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Vectors that had to go since the start.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Arc<[u32]>, Arc<[f32]>> for ByBytes {
    fn weight(&self, ids: &Arc<[u32]>, vector: &Arc<[f32]>) -> u64 {
        (size_of_val(&**ids) + size_of_val(&**vector) + ENTRY_BYTES) as u64
    }
}

/// Counts what has to go.
#[derive(Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<Arc<[u32]>, Arc<[f32]>> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Arc<[u32]>, _: Arc<[f32]>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes keys for a remote cache: SHA-256 over the fingerprint (its length first) and the ids, all little-endian.
#[derive(Clone)]
pub(crate) struct Keys {
    prefix: Sha256,
}

impl Keys {
    pub(crate) fn new(fingerprint: &str) -> Self {
        let mut prefix = Sha256::new();
        prefix.update((fingerprint.len() as u64).to_le_bytes());
        prefix.update(fingerprint.as_bytes());
        Self { prefix }
    }

    pub(crate) fn key(&self, ids: &[u32]) -> CacheKey {
        let mut hash = self.prefix.clone();
        let mut bytes = [0; 256];
        for ids in ids.chunks(bytes.len() / 4) {
            for (place, id) in bytes.chunks_exact_mut(4).zip(ids) {
                place.copy_from_slice(&id.to_le_bytes());
            }
            hash.update(&bytes[..4 * ids.len()]);
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_depend_on_fingerprint_and_every_id() {
        let key = Keys::new("a").key(&[1, 2]);
        assert_eq!(key, Keys::new("a").key(&[1, 2]));
        for other in [Keys::new("b").key(&[1, 2]), Keys::new("a").key(&[1, 3]), Keys::new("a").key(&[1])] {
            assert_ne!(key, other);
        }
        // 0100000000000000 61 01000000 02000000 through coreutils' sha256sum.
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "019a2ae89ae9738f19072743e38e33600a2bf97de934132643872bc1a114cbae");
        // Longer than the buffer, and different in the last id only.
        let long: Vec<u32> = (0..1000).collect();
        assert_ne!(Keys::new("a").key(&long), Keys::new("a").key(&long[..999]));
    }

    proptest! {
        #[test]
        fn memory_stays_below_its_bound_and_counts_what_went(
            bytes in 1usize..40_000,
            dimensions in 1usize..64,
            texts in prop::collection::vec(prop::collection::vec(0u32..50, 1..20), 1..300),
        ) {
            let memory = Memory::new(bytes, dimensions).unwrap();
            let mut distinct = std::collections::BTreeSet::new();
            for ids in texts {
                let vector: Arc<[f32]> = vec![ids[0] as f32; dimensions].into();
                memory.insert(ids.as_slice().into(), vector);
                distinct.insert(ids);
                prop_assert!(memory.bytes() <= bytes);
            }
            let kept = distinct.iter().filter_map(|ids| memory.get(ids).map(|vector| (ids, vector)));
            let mut entries = 0;
            for (ids, vector) in kept {
                prop_assert_eq!(&*vector, vec![ids[0] as f32; dimensions]);
                entries += 1;
            }
            prop_assert_eq!(memory.entries(), entries);
            prop_assert!(memory.evictions() as usize + entries >= distinct.len());
        }
    }
}
