//! The tensors of an encoder, and their shapes.

use std::fmt;

use crate::{EncoderSpec, NormPlacement, ScoreBias};

/// Linear layer of a transformer layer; its weight has shape `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinearId {
    /// Queries of all heads.
    Query,
    /// Keys of all key heads.
    Key,
    /// Values of all value heads.
    Value,
    /// Output projection of attention.
    AttentionOutput,
    /// The activated half of a gated feed-forward network.
    Gate,
    /// First layer of the feed-forward network; without a gate, its output is activated.
    Up,
    /// Second layer of the feed-forward network.
    Down,
}

impl LinearId {
    /// All linear layers, in the order of the computation.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::AttentionOutput, Self::Gate, Self::Up, Self::Down];
}

/// Weight or bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// `[outputs, inputs]`.
    Weight,
    /// `[outputs]`.
    Bias,
}

/// Norm of a transformer layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerNormId {
    /// Before attention.
    AttentionInput,
    /// Of each head's query, `[head_dim]`.
    Query,
    /// Of each head's key, `[head_dim]`.
    Key,
    /// After attention: after the sum if the norms are post-norms, otherwise before it.
    AttentionOutput,
    /// Before the feed-forward network.
    FeedForwardInput,
    /// After the feed-forward network: as [`AttentionOutput`](Self::AttentionOutput).
    FeedForwardOutput,
}

impl LayerNormId {
    /// All norms of a layer, in the order of the computation.
    pub const ALL: [Self; 6] = [
        Self::AttentionInput,
        Self::Query,
        Self::Key,
        Self::AttentionOutput,
        Self::FeedForwardInput,
        Self::FeedForwardOutput,
    ];
}

/// Norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormId {
    /// After the sum of the embeddings.
    Embeddings,
    /// Of the relative position embeddings of disentangled attention.
    RelativePositions,
    /// Of a layer.
    Layer(usize, LayerNormId),
    /// After the last layer.
    Final,
}

/// Weight tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorId {
    /// `[vocabulary, width]`.
    TokenEmbeddings,
    /// `[rows, width]`.
    PositionEmbeddings,
    /// `[segments, width]`.
    SegmentEmbeddings,
    /// Projection of the embeddings: `[hidden, width]` and `[hidden]`.
    EmbeddingProjection(Part),
    /// Bias by relative position: `[rows, heads]`.
    RelativeBias,
    /// Relative position embeddings of disentangled attention: `[2 · span, hidden]`.
    RelativePositions,
    /// Linear layer of a layer.
    Linear(usize, LinearId, Part),
    /// Weight of a norm.
    Scale(NormId),
    /// Bias of a norm.
    Shift(NormId),
}

impl EncoderSpec {
    /// Shape of a linear layer's weight, `[outputs, inputs]`.
    pub fn linear_shape(&self, linear: LinearId) -> [usize; 2] {
        let (attention, intermediate) = (&self.attention, self.feed_forward.intermediate);
        match linear {
            LinearId::Query => [attention.query_width(), self.hidden],
            LinearId::Key | LinearId::Value => [attention.kv_width(), self.hidden],
            LinearId::AttentionOutput => [self.hidden, attention.query_width()],
            LinearId::Gate | LinearId::Up => [intermediate, self.hidden],
            LinearId::Down => [self.hidden, intermediate],
        }
    }

    /// Returns true if a linear layer has a bias.
    pub fn has_bias(&self, linear: LinearId) -> bool {
        match linear {
            LinearId::Query | LinearId::Key | LinearId::Value => self.attention.has_qkv_bias,
            LinearId::AttentionOutput => self.attention.has_output_bias,
            LinearId::Gate | LinearId::Up => self.feed_forward.has_up_bias,
            LinearId::Down => self.feed_forward.has_down_bias,
        }
    }

    /// Returns true if the network has this linear layer.
    pub fn has_linear(&self, linear: LinearId) -> bool {
        linear != LinearId::Gate || self.feed_forward.is_gated
    }

    /// Returns true if the network has this norm.
    pub fn has_norm(&self, norm: NormId) -> bool {
        let is_post = self.norm_placement == NormPlacement::Post;
        match norm {
            NormId::Embeddings => self.embeddings.has_norm,
            NormId::RelativePositions => match self.attention.score_bias {
                ScoreBias::Disentangled(spec) => spec.has_norm,
                ScoreBias::None | ScoreBias::Relative(_) => false,
            },
            NormId::Layer(layer, _) if layer >= self.layers.len() => false,
            NormId::Layer(_, LayerNormId::Query | LayerNormId::Key) => self.attention.has_query_key_norm,
            NormId::Layer(layer, LayerNormId::AttentionInput) => match self.norm_placement {
                NormPlacement::Post => false,
                NormPlacement::Pre { first_attention_norm } => layer > 0 || first_attention_norm,
                NormPlacement::PreAndPost => true,
            },
            NormId::Layer(_, LayerNormId::FeedForwardInput) | NormId::Final => !is_post,
            NormId::Layer(_, LayerNormId::AttentionOutput | LayerNormId::FeedForwardOutput) => {
                !matches!(self.norm_placement, NormPlacement::Pre { .. })
            }
        }
    }

    /// Number of values that a norm normalizes together.
    pub fn norm_width(&self, norm: NormId) -> usize {
        match norm {
            NormId::Embeddings => self.embeddings.width,
            NormId::Layer(_, LayerNormId::Query | LayerNormId::Key) => self.attention.head_dim,
            NormId::RelativePositions | NormId::Layer(..) | NormId::Final => self.hidden,
        }
    }

    /// Shape of a tensor; `None` if the network does not have it.
    pub fn shape(&self, tensor: TensorId) -> Option<Vec<usize>> {
        let embeddings = &self.embeddings;
        match tensor {
            TensorId::TokenEmbeddings => Some(vec![self.vocabulary, embeddings.width]),
            TensorId::PositionEmbeddings => {
                embeddings.positions.map(|table| vec![table.rows, embeddings.width])
            }
            TensorId::SegmentEmbeddings => embeddings.segments.map(|rows| vec![rows, embeddings.width]),
            TensorId::EmbeddingProjection(part) => embeddings.has_projection.then(|| match part {
                Part::Weight => vec![self.hidden, embeddings.width],
                Part::Bias => vec![self.hidden],
            }),
            TensorId::RelativeBias => match self.attention.score_bias {
                ScoreBias::Relative(bias) => Some(vec![bias.rows, self.attention.heads]),
                ScoreBias::None | ScoreBias::Disentangled(_) => None,
            },
            TensorId::RelativePositions => match self.attention.score_bias {
                ScoreBias::Disentangled(spec) => Some(vec![2 * spec.span, self.hidden]),
                ScoreBias::None | ScoreBias::Relative(_) => None,
            },
            TensorId::Linear(layer, linear, part) => {
                let [outputs, inputs] = self.linear_shape(linear);
                let exists = layer < self.layers.len() && self.has_linear(linear);
                match part {
                    Part::Weight => exists.then(|| vec![outputs, inputs]),
                    Part::Bias => (exists && self.has_bias(linear)).then(|| vec![outputs]),
                }
            }
            TensorId::Scale(norm) => self.has_norm(norm).then(|| vec![self.norm_width(norm)]),
            TensorId::Shift(norm) => {
                (self.has_norm(norm) && self.norm.has_shift()).then(|| vec![self.norm_width(norm)])
            }
        }
    }

    /// All tensors that the network has, in the order of the computation.
    pub fn tensors(&self) -> Vec<TensorId> {
        let mut all = vec![
            TensorId::TokenEmbeddings,
            TensorId::PositionEmbeddings,
            TensorId::SegmentEmbeddings,
            TensorId::Scale(NormId::Embeddings),
            TensorId::Shift(NormId::Embeddings),
            TensorId::EmbeddingProjection(Part::Weight),
            TensorId::EmbeddingProjection(Part::Bias),
            TensorId::RelativeBias,
            TensorId::RelativePositions,
            TensorId::Scale(NormId::RelativePositions),
            TensorId::Shift(NormId::RelativePositions),
        ];
        for layer in 0..self.layers.len() {
            for linear in LinearId::ALL {
                all.extend([Part::Weight, Part::Bias].map(|part| TensorId::Linear(layer, linear, part)));
            }
            for norm in LayerNormId::ALL {
                let norm = NormId::Layer(layer, norm);
                all.extend([TensorId::Scale(norm), TensorId::Shift(norm)]);
            }
        }
        all.extend([TensorId::Scale(NormId::Final), TensorId::Shift(NormId::Final)]);
        all.retain(|&tensor| self.shape(tensor).is_some());
        all
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
        })
    }
}

impl fmt::Display for NormId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embeddings => f.write_str("the embeddings' norm"),
            Self::RelativePositions => f.write_str("the norm of the relative positions"),
            Self::Layer(layer, norm) => write!(f, "norm {norm:?} of layer {layer}"),
            Self::Final => f.write_str("the final norm"),
        }
    }
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenEmbeddings => f.write_str("the token embeddings"),
            Self::PositionEmbeddings => f.write_str("the position embeddings"),
            Self::SegmentEmbeddings => f.write_str("the segment embeddings"),
            Self::EmbeddingProjection(part) => write!(f, "the {part} of the embeddings' projection"),
            Self::RelativeBias => f.write_str("the relative attention bias"),
            Self::RelativePositions => f.write_str("the relative position embeddings"),
            Self::Linear(layer, linear, part) => write!(f, "the {part} of {linear:?} in layer {layer}"),
            Self::Scale(norm) => write!(f, "the scale of {norm}"),
            Self::Shift(norm) => write!(f, "the shift of {norm}"),
        }
    }
}
