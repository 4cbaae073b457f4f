//! How weights come in: one tensor at a time, so that no more than one layer is held twice.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::{ModelError, Shape};

/// An affine map of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linear {
    /// `[hidden, hidden]`.
    Query,
    /// `[hidden, hidden]`.
    Key,
    /// `[hidden, hidden]`.
    Value,
    /// After attention, `[hidden, hidden]`.
    Projection,
    /// Into the feed-forward part, `[intermediate, hidden]`.
    Up,
    /// Out of it, `[hidden, intermediate]`.
    Down,
}

/// A layer norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// After the embeddings' sum.
    Embeddings,
    /// After a layer's attention.
    Attention(usize),
    /// After a layer's feed-forward part.
    Output(usize),
}

impl fmt::Display for Norm {
    /// Names the part of the network after which the norm stands.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embeddings => f.write_str("the embeddings"),
            Self::Attention(layer) => write!(f, "the attention of layer {layer}"),
            Self::Output(layer) => write!(f, "the feed-forward part of layer {layer}"),
        }
    }
}

/// One tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `[outputs, inputs]` of a layer's map, row-major.
    Weight(usize, Linear),
    /// `[outputs]`.
    Bias(usize, Linear),
    /// `[hidden]`.
    Scale(Norm),
    /// `[hidden]`.
    Shift(Norm),
    /// `[position_rows, hidden]`, with the first segment's row added to each where the model has segments.
    Positions,
}

impl Part {
    /// Number of values.
    pub fn len(self, shape: &Shape) -> usize {
        let (hidden, wide) = (shape.hidden, shape.intermediate);
        match self {
            Self::Weight(_, Linear::Up | Linear::Down) => hidden * wide,
            Self::Weight(..) => hidden * hidden,
            Self::Bias(_, Linear::Up) => wide,
            Self::Bias(..) | Self::Scale(_) | Self::Shift(_) => hidden,
            Self::Positions => hidden * shape.position_rows,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(layer, linear) => write!(f, "the weight of {linear:?} in layer {layer}"),
            Self::Bias(layer, linear) => write!(f, "the bias of {linear:?} in layer {layer}"),
            Self::Scale(norm) => write!(f, "the scale of the norm after {norm}"),
            Self::Shift(norm) => write!(f, "the shift of the norm after {norm}"),
            Self::Positions => f.write_str("the position table"),
        }
    }
}

/// Writes row `id` of the word table, `hidden` values, into the slice. Called for every token of every block,
/// with ids below the vocabulary's size only.
pub type Words = Arc<dyn Fn(u32, &mut [f32]) + Send + Sync>;

/// Where weights come from. Asked from several threads at once.
pub trait WeightSource: Sync {
    /// The values of one tensor.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    fn read(&self, part: Part) -> Result<Cow<'_, [f32]>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Reads a tensor and checks its size.
pub(crate) fn read<'s>(
    source: &'s dyn WeightSource,
    part: Part,
    shape: &Shape,
) -> Result<Cow<'s, [f32]>, ModelError> {
    let values = source.read(part).map_err(|source| ModelError::Weight { part: part.to_string(), source })?;
    let (found, expected) = (values.len(), part.len(shape));
    if found != expected {
        return Err(ModelError::Length { part: part.to_string(), found, expected });
    }
    Ok(values)
}
