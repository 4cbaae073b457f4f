//! The seam between the engine and whatever computes vectors.

use std::sync::Arc;

use crate::StartError;

/// Turns token ids into sentence vectors. One worker thread owns each encoder by value.
pub trait Encoder: Send {
    /// Length of the vectors that [`encode`](Self::encode) writes.
    fn dimensions(&self) -> usize;

    /// Whether the encoder pads every sequence of a batch to the longest. The planner then counts a batch as
    /// `sequences × longest` and puts texts of like length together.
    fn needs_padding(&self) -> bool;

    /// Tokens that computing `batch` costs, padding included.
    fn padded_tokens(&self, batch: &Batch) -> usize {
        if self.needs_padding() { batch.max_length() * batch.len() } else { batch.tokens() }
    }

    /// Whether the first runs are slower than those after them: a graph is compiled, memory planned. The engine then
    /// runs the encoder before anyone waits for it.
    fn needs_warm_up(&self) -> bool {
        true
    }

    /// Whether [`encode`](Self::encode) calls `meanwhile`. Then each worker has a second encoder for what it is given to
    /// do in there.
    fn supports_preemption(&self) -> bool {
        false
    }

    /// Writes one vector for each sequence of `batch` into `out`: row-major, `batch.len() × dimensions()`,
    /// pooled, not normalised. A sequence's vector must not depend on the other sequences.
    ///
    /// `meanwhile` may be called on this thread as often as there is nothing to lose by a pause. It runs what should not
    /// wait for this batch, and returns how many workers have nothing to do at present: as many further threads
    /// may help with this batch.
    ///
    /// # Errors
    /// The encoder is used again afterwards, for each sequence of the batch by itself. A sequence that fails again fails
    /// with what is returned. If the last one fails, the encoder is given a short text that every model can read: if it
    /// computes that, the sequences are the cause. After a panic the encoder is dropped, the batch's jobs fail, and a new one is built.
    fn encode(
        &mut self,
        batch: &Batch,
        on_yield: &mut dyn FnMut() -> usize,
        out: &mut [f32],
    ) -> Result<(), EncodeError>;
}

/// Builds an encoder: once for each worker at start, and again after a panic.
pub type EncoderFactory = Arc<dyn Fn() -> Result<Box<dyn Encoder>, StartError> + Send + Sync>;

/// A batch could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// ONNX Runtime failed.
    #[error("ONNX Runtime failed to run the graph")]
    Runtime(#[from] ort::Error),
    /// The graph's output does not have the shape that the model folder promised.
    #[error("the graph's output has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Shape that came.
        found: Vec<i64>,
        /// Shape that was promised.
        expected: Vec<i64>,
    },
    /// Anything that an encoder outside this crate has to say.
    #[error("{0}")]
    Other(String),
}

/// Token sequences without padding: all ids in one run, and each sequence's length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a sequence.
    pub fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.lengths.push(ids.len());
    }

    /// Removes every sequence and keeps the allocations.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.lengths.clear();
    }

    /// All ids, one sequence after the other.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of the longest sequence.
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
    fn sequences_come_back_as_they_went_in() {
        let mut batch = Batch::new();
        let sequences: [&[u32]; 4] = [&[1, 2, 3], &[], &[4], &[5, 6]];
        for sequence in sequences {
            batch.push(sequence);
        }
        assert_eq!(batch.sequences().collect::<Vec<_>>(), sequences);
        assert_eq!((batch.len(), batch.tokens(), batch.max_length()), (4, 6, 3));
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch.sequences().count(), 0);
    }
}
