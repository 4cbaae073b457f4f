//! Reading of weights, one tensor at a time, so that no more than one layer is in memory twice.

use std::{borrow::Cow, error::Error, sync::Arc};

use encoder_spec::{EncoderSpec, TensorId};

use crate::ModelError;

/// Writes the embedding of a token id, as many values as the embeddings are wide, into the slice. Called for every
/// token of every batch, only with ids below the [`vocabulary`](EncoderSpec::vocabulary).
pub type TokenEmbeddings = Arc<dyn Fn(u32, &mut [f32]) + Send + Sync>;

/// Source of weights. Several threads read at the same time.
pub trait WeightSource: Sync {
    /// Values of one tensor, row-major. Only tensors that have a [shape](EncoderSpec::shape) are read, except the token
    /// embeddings.
    ///
    /// # Errors
    /// The source cannot read the tensor.
    fn read(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>, Box<dyn Error + Send + Sync>>;

    /// The first layer whose tensors are those of `layer`: another one if layers share their weights, as in ALBERT.
    fn source_layer(&self, layer: usize) -> usize {
        layer
    }
}

/// Reads a tensor and checks its size; `None` if the network does not have it.
pub(crate) fn read<'s>(
    source: &'s dyn WeightSource,
    tensor: TensorId,
    spec: &EncoderSpec,
) -> Result<Option<Cow<'s, [f32]>>, ModelError> {
    let Some(shape) = spec.shape(tensor) else { return Ok(None) };
    let values =
        source.read(tensor).map_err(|source| ModelError::Weight { tensor: tensor.to_string(), source })?;
    let (found, expected) = (values.len(), shape.iter().product());
    if found != expected {
        return Err(ModelError::Length { tensor: tensor.to_string(), found, expected });
    }
    Ok(Some(values))
}
