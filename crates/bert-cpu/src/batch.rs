//! A ragged batch: whole sequences of different lengths, without padding.

use crate::{EncodeError, EncoderConfig};

/// Sequences with valid token ids and lengths.
#[derive(Debug)]
pub(crate) struct RaggedBatch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    table_rows: Vec<usize>,
    positions: Vec<usize>,
}

impl RaggedBatch {
    /// Checks the ids of all sequences, one after the other, the length of each sequence, and the number of tokens in
    /// segment 1 at its end; an empty slice of these means that all tokens are in segment 0.
    ///
    /// # Errors
    /// [`EncodeError`]: an unknown id, a sequence that is too long, lengths that do not add up, segments that the model
    /// does not have.
    pub(crate) fn new(
        config: &EncoderConfig,
        ids: &[u32],
        lengths: &[usize],
        second_segments: &[usize],
    ) -> Result<Self, EncodeError> {
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
        let fits =
            |(&length, &second): (&usize, &usize)| second <= length && (second == 0 || config.segments() > 1);
        let is_complete = second_segments.is_empty() || second_segments.len() == lengths.len();
        if !is_complete || !lengths.iter().zip(second_segments).all(fits) {
            return Err(EncodeError::Segments { max: config.segments() });
        }
        let table = config.spec().embeddings.positions;
        // The embeddings of the positions in segment 1 follow those in segment 0.
        let rows_per_segment = table.map_or(1, |table| table.rows);
        let mut table_rows = Vec::new();
        let mut positions = Vec::with_capacity(ids.len());
        let mut rest = ids;
        for (index, &length) in lengths.iter().enumerate() {
            let (sequence, tail) = rest.split_at(length);
            rest = tail;
            let first = table_rows.len();
            match table {
                Some(table) => table_rows.extend(table.position_ids(sequence)),
                None if config.segments() > 1 => table_rows.resize(first + length, 0),
                None => {}
            }
            let second = second_segments.get(index).copied().unwrap_or(0);
            for row in table_rows.iter_mut().rev().take(second) {
                *row += rows_per_segment;
            }
            positions.extend(0..length);
        }
        Ok(Self { ids: ids.to_vec(), lengths: lengths.to_vec(), table_rows, positions })
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

    /// Row of a token in the embeddings of positions and segments; `None` if it is the first one for all tokens.
    pub(crate) fn table_row(&self, token: usize) -> Option<usize> {
        self.table_rows.get(token).copied()
    }

    /// Index of each token in its sequence.
    pub(crate) fn positions(&self) -> &[usize] {
        &self.positions
    }
}
