//! Running blocks: what a caller holds, and what it hands in.

use std::sync::Arc;

use crate::{
    BertConfig, EncodeError, Model, ThreadPool,
    model::{HiddenStates, Runner},
};

/// Runs blocks of whole sequences through a model. Holds memory for the largest block so far; one thread owns it.
pub struct Encoder {
    model: Arc<Model>,
    pool: Arc<ThreadPool>,
    runner: Box<dyn Runner>,
}

impl Encoder {
    /// An encoder of `model`, which asks `pool` for help.
    pub fn new(model: Arc<Model>, pool: Arc<ThreadPool>) -> Self {
        let runner = model.runner();
        Self { model, pool, runner }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Computes the final hidden states of a block: `ids` of all sequences in one run, and each sequence's length
    /// in tokens.
    ///
    /// `meanwhile` is called on this thread, before each step and more often where a step is shared. It may take its
    /// time, and returns how many of the pool's threads may help from now on; they do if no other encoder uses them,
    /// and leave when there are to be fewer.
    ///
    /// # Errors
    /// [`EncodeError`]: an unknown id, a sequence that is too long, lengths that do not add up; checked before
    /// anything is computed.
    pub fn encode(
        &mut self,
        ids: &[u32],
        lengths: &[usize],
        meanwhile: &mut dyn FnMut() -> usize,
    ) -> Result<HiddenStates<'_>, EncodeError> {
        let block = Block::new(self.model.config(), ids, lengths)?;
        self.runner.run(block, &self.pool, meanwhile)
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("model", &self.model).finish_non_exhaustive()
    }
}

/// Sequences that were checked: every id has a row in the word table, every position one in its table.
#[derive(Debug, Default)]
pub(crate) struct Block {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    position_rows: Vec<usize>,
}

impl Block {
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
        let mut position_rows = Vec::with_capacity(ids.len());
        let mut rest = ids;
        for &length in lengths {
            let (sequence, tail) = rest.split_at(length);
            rest = tail;
            // Tokens before this one that are not padding, where those are what is counted.
            let mut seen = 0;
            for (position, &id) in sequence.iter().enumerate() {
                let row = config.position_id(position, seen, id);
                seen += usize::from(!config.is_padding(id));
                position_rows.push(row);
            }
        }
        Ok(Self { ids: ids.to_vec(), lengths: lengths.to_vec(), position_rows })
    }

    /// Tokens of all sequences.
    pub(crate) fn rows(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// For each token, its row in the position table.
    pub(crate) fn position_rows(&self) -> &[usize] {
        &self.position_rows
    }
}
