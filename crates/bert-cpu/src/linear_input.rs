//! Names of the inputs of linear layers, for what belongs to an input and not to a weight: its rounding, its maxima.

use encoder_spec::EncoderSpec;

/// The input of a linear layer; the number is the layer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LinearInput {
    /// Factorized embeddings.
    EmbeddingProjection,
    /// Of queries, keys and values.
    Qkv(usize),
    /// The result of attention.
    AttentionOutput(usize),
    FfnUp(usize),
    FfnDown(usize),
}

impl LinearInput {
    /// Inputs of all linear layers.
    pub(crate) fn all(spec: &EncoderSpec) -> Vec<Self> {
        let projection = spec.embeddings.has_projection.then_some(Self::EmbeddingProjection);
        let of_layer =
            |layer| [Self::Qkv, Self::AttentionOutput, Self::FfnUp, Self::FfnDown].map(|of| of(layer));
        projection.into_iter().chain((0..spec.layers.len()).flat_map(of_layer)).collect()
    }

    /// Number of values, without padding.
    pub(crate) fn width(self, spec: &EncoderSpec) -> usize {
        match self {
            Self::EmbeddingProjection => spec.embeddings.width,
            Self::Qkv(_) | Self::FfnUp(_) => spec.hidden,
            Self::AttentionOutput(_) => spec.attention.query_width(),
            Self::FfnDown(_) => spec.feed_forward.intermediate,
        }
    }

    /// The same input of another layer.
    pub(crate) fn with_layer(self, layer: impl Fn(usize) -> usize) -> Self {
        match self {
            Self::EmbeddingProjection => self,
            Self::Qkv(of) => Self::Qkv(layer(of)),
            Self::AttentionOutput(of) => Self::AttentionOutput(layer(of)),
            Self::FfnUp(of) => Self::FfnUp(layer(of)),
            Self::FfnDown(of) => Self::FfnDown(layer(of)),
        }
    }
}
