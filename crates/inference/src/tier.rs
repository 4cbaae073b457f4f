//! The seam to a second tier of the cache: one that processes share and that outlives them.

/// What a vector depends on, as one digest: everything in the model's fingerprint, and the token ids.
pub type CacheKey = [u8; 32];

/// Keeps vectors elsewhere. It may lose any of them at any time, and it must never be in the way: the engine
/// waits for [`get`](Self::get), so an implementation bounds the time itself, and answers as if it held
/// nothing when its store is slow or gone.
pub trait RemoteCache: Send + Sync {
    /// The vectors of `keys`, in order; `None` for one that is not held. Every vector is as it was put:
    /// `dimensions` values, pooled, and normalised where the model normalises.
    fn get(&self, keys: &[CacheKey]) -> Vec<Option<Vec<f32>>>;

    /// Takes vectors to keep. Must return at once: what cannot be stored is dropped.
    fn put(&self, entries: Vec<(CacheKey, Vec<f32>)>);
}
