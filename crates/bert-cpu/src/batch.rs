//! A ragged batch: whole sequences of different lengths, without padding.

use crate::{EncodeError, EncoderConfig};

/// Sequences with valid token ids and lengths.
#[derive(Debug)]
pub(crate) struct RaggedBatch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    position_ids: Vec<usize>,
    positions: Vec<usize>,
}

impl RaggedBatch {
    /// Checks the ids of all sequences, one after the other, and the length of each sequence.
    ///
    /// # Errors
    /// [`EncodeError`]: an unknown id, a sequence that is too long, lengths that do not add up.
    pub(crate) fn new(config: &EncoderConfig, ids: &[u32], lengths: &[usize]) -> Result<Self, EncodeError> {
        let (sum, max, vocabulary) = (lengths.iter().sum(), config.max_tokens(), config.spec().vocabulary);
        if sum != ids.len() {
            return Err(EncodeError::Lengths { lengths: sum, ids: ids.len() });
        }
        if let Some(&tokens) = lengths.iter().find(|&&tokens| tokens > max) {
            return Err(EncodeError::TooLong { tokens, max });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(EncodeError::UnknownToken { id, vocabulary });
        }
        let mut position_ids = Vec::new();
        let mut positions = Vec::with_capacity(ids.len());
        let mut rest = ids;
        for &length in lengths {
            let (sequence, tail) = rest.split_at(length);
            rest = tail;
            if let Some(table) = config.spec().embeddings.positions {
                position_ids.extend(table.position_ids(sequence));
            }
            positions.extend(0..length);
        }
        Ok(Self { ids: ids.to_vec(), lengths: lengths.to_vec(), position_ids, positions })
    }

    /// Number of tokens of all sequences: the rows of every activation matrix.
    pub(crate) fn rows(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Row of a token in the position embeddings, if there are any.
    pub(crate) fn position_id(&self, token: usize) -> Option<usize> {
        self.position_ids.get(token).copied()
    }

    /// Index of each token in its sequence.
    pub(crate) fn positions(&self) -> &[usize] {
        &self.positions
    }
}
