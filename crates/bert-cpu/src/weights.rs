//! Reading of weights, one tensor at a time, so that no more than one layer is in memory twice.

use std::{borrow::Cow, error::Error, fmt, sync::Arc};

use crate::{BertConfig, ModelError};

/// A linear layer of an encoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearId {
    /// `[hidden, hidden]`.
    Query,
    /// `[hidden, hidden]`.
    Key,
    /// `[hidden, hidden]`.
    Value,
    /// Output projection of attention, `[hidden, hidden]`.
    AttentionOutput,
    /// First layer of the feed-forward network, `[intermediate, hidden]`.
    FfnUp,
    /// Second layer of the feed-forward network, `[hidden, intermediate]`.
    FfnDown,
}

/// A layer norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormId {
    /// After the sum of the embeddings.
    Embeddings,
    /// After a layer's attention.
    Attention(usize),
    /// After a layer's feed-forward network.
    Ffn(usize),
}

impl fmt::Display for NormId {
    /// Names the part of the network before the norm.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embeddings => f.write_str("the embeddings"),
            Self::Attention(layer) => write!(f, "the attention of layer {layer}"),
            Self::Ffn(layer) => write!(f, "the feed-forward network of layer {layer}"),
        }
    }
}

/// A weight tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorId {
    /// `[outputs, inputs]` of a linear layer, row-major.
    Weight(usize, LinearId),
    /// `[outputs]`.
    Bias(usize, LinearId),
    /// `[hidden]`.
    Scale(NormId),
    /// `[hidden]`.
    Shift(NormId),
    /// `[position_rows, hidden]`; if the model has segment embeddings, with segment 0's row added to each.
    Positions,
}

impl TensorId {
    /// Number of values.
    pub fn len(self, config: &BertConfig) -> usize {
        let BertConfig { hidden, intermediate, .. } = *config;
        match self {
            Self::Weight(_, LinearId::FfnUp | LinearId::FfnDown) => hidden * intermediate,
            Self::Weight(..) => hidden * hidden,
            Self::Bias(_, LinearId::FfnUp) => intermediate,
            Self::Bias(..) | Self::Scale(_) | Self::Shift(_) => hidden,
            Self::Positions => hidden * config.position_rows,
        }
    }
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(layer, linear) => write!(f, "the weight of {linear:?} in layer {layer}"),
            Self::Bias(layer, linear) => write!(f, "the bias of {linear:?} in layer {layer}"),
            Self::Scale(norm) => write!(f, "the scale of the norm after {norm}"),
            Self::Shift(norm) => write!(f, "the shift of the norm after {norm}"),
            Self::Positions => f.write_str("the position embeddings"),
        }
    }
}

/// Writes the embedding of a token id, `hidden` values, into the slice. Called for every token of every batch, only
/// with ids below [`vocabulary`](BertConfig::vocabulary).
pub type TokenEmbeddings = Arc<dyn Fn(u32, &mut [f32]) + Send + Sync>;

/// Source of weights. Several threads read at the same time.
pub trait WeightSource: Sync {
    /// Values of one tensor.
    ///
    /// # Errors
    /// The source cannot read the tensor.
    fn read(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>, Box<dyn Error + Send + Sync>>;
}

/// Reads a tensor and checks its size.
pub(crate) fn read<'s>(
    source: &'s dyn WeightSource,
    tensor: TensorId,
    config: &BertConfig,
) -> Result<Cow<'s, [f32]>, ModelError> {
    let values =
        source.read(tensor).map_err(|source| ModelError::Weight { tensor: tensor.to_string(), source })?;
    let (found, expected) = (values.len(), tensor.len(config));
    if found != expected {
        return Err(ModelError::Length { tensor: tensor.to_string(), found, expected });
    }
    Ok(values)
}
