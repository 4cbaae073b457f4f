//! Errors of building a model and of encoding a batch.

use crate::Isa;

/// A model cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The network has a mechanism for which there are no kernels.
    #[error("no native kernels for {0}")]
    Unsupported(&'static str),
    /// A weight could not be read.
    #[error("cannot read {tensor}")]
    Weight {
        /// The tensor.
        tensor: String,
        /// Error of the weight source.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A weight has the wrong number of values.
    #[error("{tensor} has {found} values, expected {expected}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Number of values read.
        found: usize,
        /// Number of values by the config.
        expected: usize,
    },
    /// This CPU lacks the instruction set.
    #[error("this CPU has no {0}")]
    Isa(Isa),
    /// Kernels in int8 without the maxima of activations.
    #[error(
        "the kernels for {0} need the maxima of activations: record them with `Encoder::activation_maxima`"
    )]
    NoMaxima(Isa),
    /// The maxima of activations are of another network.
    #[error("the maxima of activations are of another network")]
    OtherMaxima,
    /// A thread could not be started.
    #[error("cannot start a helper thread: lower `threads`, or raise the system's limit of tasks")]
    Thread(#[source] std::io::Error),
}

/// A batch cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A token id outside the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the token embeddings.
        vocabulary: usize,
    },
    /// A sequence longer than the model's limit.
    #[error("a sequence has {tokens} tokens, the model accepts at most {max}")]
    TooLong {
        /// Length of the sequence.
        tokens: usize,
        /// Maximum length.
        max: usize,
    },
    /// The lengths do not add up to the number of ids.
    #[error("the lengths add up to {lengths} tokens, but there are {ids} ids")]
    Lengths {
        /// Sum of the lengths.
        lengths: usize,
        /// Number of ids.
        ids: usize,
    },
    /// A sequence has more segments than the model was built for, or a segment is longer than its sequence.
    #[error(
        "the segments of a sequence do not fit: the model was built for sequences of up to {max} segments"
    )]
    Segments {
        /// Maximum number of segments.
        max: usize,
    },
    /// The kernels do not record maxima of activations.
    #[error("the kernels for amx do not record maxima of activations: use a model in f32")]
    NoMaxima,
    /// A task panicked: a defect of this crate. The encoder must not be used again.
    #[error("a task of the encoder panicked")]
    Panicked,
}
