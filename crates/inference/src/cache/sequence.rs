//! The key of a vector within one model.

use std::sync::Arc;

/// Everything that a vector depends on, apart from the model. It is compared as a whole: with a hash as the key, a
/// collision would give a text the vector of another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenSequence {
    /// The ids, special tokens included.
    pub(crate) ids: Arc<[u32]>,
    /// Number of leading tokens that pooling leaves out: those of the prompt if the model's head does not include it,
    /// otherwise 0.
    pub(crate) prompt_tokens: u32,
    /// Number of tokens at the end that are in segment 1.
    pub(crate) second_segment: u32,
}

impl From<&[u32]> for TokenSequence {
    /// A sequence of which all tokens are pooled and in segment 0.
    fn from(ids: &[u32]) -> Self {
        Self { ids: ids.into(), prompt_tokens: 0, second_segment: 0 }
    }
}
