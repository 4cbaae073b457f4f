//! What can be wrong with a model, and with a block.

use crate::Isa;

/// A model cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Sizes that make no sense together.
    #[error("the encoder's shape cannot be computed: {0}")]
    Shape(String),
    /// A weight could not be read.
    #[error("cannot read {part}")]
    Weight {
        /// Which.
        part: String,
        /// What its source says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A weight has the wrong number of values.
    #[error("{part} has {found} values, expected {expected}")]
    Length {
        /// Which.
        part: String,
        /// Values that came.
        found: usize,
        /// Values that the shape asks for.
        expected: usize,
    },
    /// This processor lacks the instruction set.
    #[error("this processor has no {0}")]
    Isa(Isa),
    /// A thread could not be started.
    #[error("cannot start a thread of the encoder: lower `threads`, or raise the system's limit of tasks")]
    Thread(#[source] std::io::Error),
}

/// A block cannot be encoded. Nothing was computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// An id that the word table has no row for.
    #[error("token id {id} is not in the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the word table.
        vocabulary: usize,
    },
    /// A sequence longer than the position table.
    #[error("a sequence has {tokens} tokens, the model reads at most {longest}")]
    TooLong {
        /// Its length.
        tokens: usize,
        /// The longest that can be computed.
        longest: usize,
    },
    /// The lengths do not add up to the number of ids.
    #[error("the lengths add up to {lengths} tokens, but there are {ids} ids")]
    Lengths {
        /// Sum of the lengths.
        lengths: usize,
        /// Number of ids.
        ids: usize,
    },
    /// A task panicked; a defect of this crate. The encoder must not be used again.
    #[error("a task of the encoder panicked")]
    Panicked,
}
