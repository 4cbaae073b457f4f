//! A ragged batch: whole sequences of different lengths, without padding.

use crate::{BertConfig, EncodeError};

/// Sequences with valid token ids and lengths.
#[derive(Debug)]
pub(crate) struct RaggedBatch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    position_ids: Vec<usize>,
}

impl RaggedBatch {
    /// Checks the ids of all sequences, one after the other, and the length of each sequence.
    ///
    /// # Errors
    /// [`EncodeError`]: an unknown id, a sequence that is too long, lengths that do not add up.
    pub(crate) fn new(config: &BertConfig, ids: &[u32], lengths: &[usize]) -> Result<Self, EncodeError> {
        let (sum, max) = (lengths.iter().sum(), config.max_sequence_length());
        if sum != ids.len() {
            return Err(EncodeError::Lengths { lengths: sum, ids: ids.len() });
        }
        if let Some(&tokens) = lengths.iter().find(|&&tokens| tokens > max) {
            return Err(EncodeError::TooLong { tokens, max });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= config.vocabulary) {
            return Err(EncodeError::UnknownToken { id, vocabulary: config.vocabulary });
        }
        let mut position_ids = Vec::with_capacity(ids.len());
        let mut rest = ids;
        for &length in lengths {
            let (sequence, tail) = rest.split_at(length);
            rest = tail;
            let mut non_padding = 0;
            for (index, &id) in sequence.iter().enumerate() {
                position_ids.push(config.position_id(index, non_padding, id));
                non_padding += usize::from(!config.is_padding(id));
            }
        }
        Ok(Self { ids: ids.to_vec(), lengths: lengths.to_vec(), position_ids })
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

    /// Row of each token in the position embeddings.
    pub(crate) fn position_ids(&self) -> &[usize] {
        &self.position_ids
    }
}
