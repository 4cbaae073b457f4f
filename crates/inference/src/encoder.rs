//! The interface between the engine and the backends that compute vectors.

use std::sync::Arc;

use crate::error::{EncodeError, StartError};

/// Turns token ids into sentence vectors. Each encoder is owned by one worker thread.
pub trait Encoder: Send {
    /// Length of the vectors that [`encode`](Self::encode) writes.
    fn dimensions(&self) -> usize;

    /// Returns true if the encoder pads every sequence of a batch to the longest. The planner then counts a batch as
    /// `sequences × longest` and groups texts of similar length.
    fn needs_padding(&self) -> bool;

    /// Number of tokens that the encoder computes for `batch`, padding included.
    fn padded_tokens(&self, batch: &Batch) -> usize {
        if self.needs_padding() { batch.max_length() * batch.len() } else { batch.tokens() }
    }

    /// Returns true if the first runs are slower than later ones, because a graph is compiled or memory is planned. The
    /// engine then warms the encoder up before it accepts jobs.
    fn needs_warm_up(&self) -> bool {
        true
    }

    /// Returns true if [`encode`](Self::encode) calls `on_yield`. Each worker then has a second encoder, which runs
    /// short jobs inside that callback.
    fn supports_preemption(&self) -> bool {
        false
    }

    /// Writes one vector for each sequence of `batch` into `out`: row-major, `batch.len() × dimensions()`,
    /// pooled, not normalized. A sequence's vector must not depend on the other sequences.
    ///
    /// `on_yield` may be called on this thread wherever a pause costs nothing, such as between steps. It runs short
    /// jobs that must not wait for this batch, and returns the number of idle workers: as many other threads may help
    /// with this batch.
    ///
    /// # Errors
    /// The worker then runs each sequence of the batch in a batch of its own. A sequence that fails again fails with
    /// the returned error. If the last one fails, the worker runs the probe, a short text that every model can read:
    /// if the probe is computed, the sequences are the cause. After a panic the encoder is dropped, the jobs of the
    /// batch fail, and a new encoder is built.
    fn encode(
        &mut self,
        batch: &Batch,
        on_yield: &mut dyn FnMut() -> usize,
        out: &mut [f32],
    ) -> Result<(), EncodeError>;
}

/// Builds an encoder: one or two for each worker at start, and another one after a panic.
pub type EncoderFactory = Arc<dyn Fn() -> Result<Box<dyn Encoder>, StartError> + Send + Sync>;

/// A ragged batch: token sequences without padding, as one array of ids and the length of each sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    prompt_tokens: Vec<usize>,
    second_segments: Vec<usize>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a sequence without a prompt.
    pub fn push(&mut self, ids: &[u32]) {
        self.push_with_prompt(ids, 0);
    }

    /// Appends a sequence whose first `prompt_tokens` ids are the prompt's, with the special tokens before it.
    pub fn push_with_prompt(&mut self, ids: &[u32], prompt_tokens: usize) {
        self.push_sequence(ids, prompt_tokens, 0);
    }

    /// Appends the sequence of a pair, whose last `second_segment` ids are in segment 1.
    pub fn push_pair(&mut self, ids: &[u32], second_segment: usize) {
        self.push_sequence(ids, 0, second_segment);
    }

    pub(crate) fn push_sequence(&mut self, ids: &[u32], prompt_tokens: usize, second_segment: usize) {
        self.ids.extend_from_slice(ids);
        self.lengths.push(ids.len());
        self.prompt_tokens.push(prompt_tokens);
        self.second_segments.push(second_segment);
    }

    /// Removes all sequences and keeps the allocations.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.lengths.clear();
        self.prompt_tokens.clear();
        self.second_segments.clear();
    }

    /// All ids, one sequence after the other.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Number of tokens at the start of each sequence that a head without `include_prompt` leaves out of pooling.
    pub fn prompt_tokens(&self) -> &[usize] {
        &self.prompt_tokens
    }

    /// Number of tokens at the end of each sequence that are in segment 1: those of the second text of a pair, if the
    /// model distinguishes them by token types.
    pub fn second_segments(&self) -> &[usize] {
        &self.second_segments
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Returns true if the batch has no sequence.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Number of tokens of the longest sequence.
    pub fn max_length(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// The sequences, in order.
    pub fn sequences(&self) -> impl Iterator<Item = &[u32]> {
        let mut rest = self.ids.as_slice();
        self.lengths.iter().map(move |&length| {
            let (sequence, tail) = rest.split_at(length);
            rest = tail;
            sequence
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_returns_its_sequences_in_order() {
        let mut batch = Batch::new();
        let sequences: [&[u32]; 4] = [&[1, 2, 3], &[], &[4], &[5, 6]];
        for (prompt_tokens, sequence) in sequences.into_iter().enumerate() {
            batch.push_with_prompt(sequence, prompt_tokens);
        }
        assert_eq!(batch.sequences().collect::<Vec<_>>(), sequences);
        assert_eq!(batch.prompt_tokens(), [0, 1, 2, 3]);
        assert_eq!((batch.len(), batch.tokens(), batch.max_length()), (4, 6, 3));
        batch.push_pair(&[7, 8, 9], 2);
        assert_eq!(batch.second_segments(), [0, 0, 0, 0, 2]);
        batch.clear();
        assert!(batch.is_empty() && batch.second_segments().is_empty());
        assert_eq!(batch.sequences().count(), 0);
    }
}
