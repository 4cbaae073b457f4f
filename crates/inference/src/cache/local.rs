//! The cache in this process: vectors by the token sequences from which they were computed. docs/adr/0006 says why it
//! uses this library.

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use crate::cache::sequence::TokenSequence;

/// Bytes of an entry in addition to its ids and its vector: two allocations with their counters (2 × 32), a place in
/// the list (56) and in the index (12), and half of this again for evicted entries that the policy remembers; rounded
/// up, since the list grows by doubling.
const ENTRY_BYTES: usize = 200;

/// Estimated tokens of a text, from which the number of entries is estimated.
const TYPICAL_TOKENS: usize = 32;

/// The vectors of one engine in this process. An engine has one model, so its vectors depend on the token sequence
/// only. Sequences are hashed with a random key.
pub(crate) struct LocalCache {
    entries: Cache<TokenSequence, Arc<[f32]>, ByteWeighter, RandomState, Evictions>,
    evictions: Evictions,
}

impl LocalCache {
    /// A cache of at most `bytes` for vectors of `dimensions` values; `None` if `bytes` is 0.
    pub(crate) fn new(bytes: usize, dimensions: usize) -> Option<Self> {
        if bytes == 0 {
            return None;
        }
        let typical = 4 * (dimensions + TYPICAL_TOKENS) + ENTRY_BYTES;
        let shards = thread::available_parallelism().map_or(1, usize::from).next_power_of_two();
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(bytes.div_ceil(typical))
            // The library rounds the capacity of each shard up.
            .weight_capacity((bytes - bytes % shards) as u64)
            .build()
            .ok()?;
        let evictions = Evictions::default();
        let entries = Cache::with_options(options, ByteWeighter, RandomState::new(), evictions.clone());
        Some(Self { entries, evictions })
    }

    pub(crate) fn get(&self, key: &TokenSequence) -> Option<Arc<[f32]>> {
        self.entries.get(key)
    }

    pub(crate) fn insert(&self, key: TokenSequence, vector: Arc<[f32]>) {
        self.entries.insert(key, vector);
    }

    /// Bytes of all entries, overhead included.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.weight() as usize
    }

    /// Number of vectors.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Number of evicted vectors since the start.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct ByteWeighter;

impl Weighter<TokenSequence, Arc<[f32]>> for ByteWeighter {
    fn weight(&self, key: &TokenSequence, vector: &Arc<[f32]>) -> u64 {
        (size_of_val(&*key.ids) + size_of_val(&**vector) + ENTRY_BYTES) as u64
    }
}

/// Counts evicted entries.
#[derive(Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<TokenSequence, Arc<[f32]>> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: TokenSequence, _: Arc<[f32]>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_local_cache_stays_below_its_bound_and_counts_evictions(
            bytes in 1usize..40_000,
            dimensions in 1usize..64,
            texts in prop::collection::vec(prop::collection::vec(0u32..50, 1..20), 1..300),
        ) {
            let cache = LocalCache::new(bytes, dimensions).unwrap();
            let mut distinct = std::collections::BTreeSet::new();
            for ids in texts {
                let vector: Arc<[f32]> = vec![ids[0] as f32; dimensions].into();
                cache.insert(ids.as_slice().into(), vector);
                distinct.insert(ids);
                prop_assert!(cache.bytes() <= bytes);
            }
            let get = |ids: &Vec<u32>| cache.get(&ids.as_slice().into());
            let kept = distinct.iter().filter_map(|ids| get(ids).map(|vector| (ids, vector)));
            let mut entries = 0;
            for (ids, vector) in kept {
                prop_assert_eq!(&*vector, vec![ids[0] as f32; dimensions]);
                entries += 1;
            }
            prop_assert_eq!(cache.entries(), entries);
            prop_assert!(cache.evictions() as usize + entries >= distinct.len());
        }
    }
}
