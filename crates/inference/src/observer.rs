//! The engine's window to metrics: it reports, someone else counts.

use std::time::Duration;

/// Receives what the engine measures. Every method has an empty default and must be quick: it is called on
/// the tokenizer and worker threads.
pub trait Observer: Send + Sync {
    /// A job was tokenized: the length of each input in tokens as the model will read it (special tokens
    /// included, after truncation), how many were cut, and how long it took.
    fn tokenized(&self, lengths: &[u32], truncated: usize, elapsed: Duration) {
        let _ = (lengths, truncated, elapsed);
    }

    /// Sequences that need not be computed, or that the cache was asked for in vain. An input is one sequence, or
    /// one for each of its windows where all of them are embedded.
    fn cache(&self, report: &CacheReport) {
        let _ = report;
    }

    /// One job's first sequence left the queue after waiting this long.
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

/// An observer that ignores everything.
impl Observer for () {}

/// One batch as the encoder ran it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchReport {
    /// Sequences in the batch.
    pub inputs: usize,
    /// Tokens in the batch, special tokens included, padding excluded.
    pub tokens: usize,
    /// Padding tokens that the encoder added.
    pub padding: usize,
    /// Time in the encoder.
    pub elapsed: Duration,
}

/// What became of sequences on their way to an encoder. A sequence counts once: what another one in flight stands
/// for is not looked up. Without a cache only `deduplicated` is ever other than 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Found in memory.
    pub hits: usize,
    /// Found in the second tier.
    pub remote_hits: usize,
    /// Found nowhere.
    pub misses: usize,
    /// Equal to one in flight, of this job or of another, whose vector they share.
    pub deduplicated: usize,
}
