//! Reuse of vectors: the cache in this process, coalescing of equal sequences in flight, and a cache shared by
//! processes.

pub(crate) mod inflight;
pub(crate) mod local;
pub(crate) mod remote;
pub(crate) mod sequence;

use std::{fmt, sync::Arc};

use self::remote::RemoteCache;

/// Settings of the caches of an engine.
#[derive(Clone)]
pub struct CacheConfig {
    /// Capacity of the local cache in bytes, keys and overhead included; 0 for no local cache.
    pub bytes: usize,
    /// Identifies all that a vector depends on, except the token sequence: weights, pooling, precision, backend. A
    /// remote cache may hold the vectors of many models; models with equal fingerprints share vectors.
    pub fingerprint: String,
    /// The remote cache, which is asked for vectors that the local one does not hold.
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
