//! The interface to metrics: the engine reports events, the caller's observer counts them.

use std::time::Duration;

/// Receives the engine's measurements. All methods have an empty default. They run on tokenizer and worker threads, so
/// they must not block.
pub trait Observer: Send + Sync {
    /// A job was tokenized in `elapsed`. `lengths` are the tokens of each input as the model reads them (special tokens
    /// included, after truncation); `truncated` is the number of inputs that were cut.
    fn tokenized(&self, lengths: &[u32], truncated: usize, elapsed: Duration) {
        let _ = (lengths, truncated, elapsed);
    }

    /// Sequences were looked up in the caches. An input is one sequence, or one for each window if it is averaged.
    fn cache(&self, report: &CacheReport) {
        let _ = report;
    }

    /// A job's first sequence left the queue after `waited`.
    fn queue_wait(&self, waited: Duration) {
        let _ = waited;
    }

    /// The encoder finished a batch.
    fn batch(&self, report: &BatchReport) {
        let _ = report;
    }

    /// A batch failed, by an error or a panic.
    fn encoder_failed(&self) {}
}

/// An observer that ignores all events.
impl Observer for () {}

/// Measurements of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchReport {
    /// Number of sequences.
    pub inputs: usize,
    /// Number of tokens, special tokens included, padding excluded.
    pub tokens: usize,
    /// Number of padding tokens that the encoder added.
    pub padding: usize,
    /// Time in the encoder.
    pub elapsed: Duration,
}

/// Result of cache lookups. A sequence counts once: one that is equal to a sequence in flight is not looked up. Without
/// a cache all fields but `deduplicated` are 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Sequences found in the local cache.
    pub hits: usize,
    /// Sequences found in the remote cache.
    pub remote_hits: usize,
    /// Sequences found in neither cache.
    pub misses: usize,
    /// Sequences equal to one in flight, of the same job or of another, whose vector they share.
    pub deduplicated: usize,
}
