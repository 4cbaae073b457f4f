//! Heads whose tensors lie next to those of the network: the classification head of a cross-encoder, and the masked
//! language model's head of SPLADE.

use encoder_spec::{DenseActivation, DenseLayer, HeadLayerNorm, HeadModule, HeadSpec, PoolingMode};

use crate::{ImportError, weights::Weights};

/// A head by the names of its tensors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeadPlan {
    pub(crate) pooling: PoolingMode,
    /// Layers of each token, before pooling.
    pub(crate) token_layers: Vec<LayerPlan>,
    /// Layers of the pooled vector.
    pub(crate) layers: Vec<LayerPlan>,
}

/// A layer of a head by the names of its tensors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LayerPlan {
    Dense {
        /// Name of the weight, `[outputs, inputs]`.
        weight: &'static str,
        /// Name of the bias, if there is one.
        bias: Option<&'static str>,
        outputs: usize,
        activation: DenseActivation,
    },
    LayerNorm {
        weight: &'static str,
        /// Name of the shift, if there is one.
        bias: Option<&'static str>,
        epsilon: f64,
    },
}

impl HeadPlan {
    /// Reads the head's tensors, for hidden states of width `hidden`.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, or holds a value that is not finite.
    pub(crate) fn read(&self, weights: &Weights, hidden: usize) -> Result<HeadSpec, ImportError> {
        let (token_modules, width) = read_layers(&self.token_layers, weights, hidden)?;
        let (modules, _) = read_layers(&self.layers, weights, width)?;
        Ok(HeadSpec { token_modules, modules, ..HeadSpec::from(self.pooling) })
    }
}

/// Reads successive layers for `width` inputs, and returns them with the number of outputs of the last one.
fn read_layers(
    layers: &[LayerPlan],
    weights: &Weights,
    mut width: usize,
) -> Result<(Vec<HeadModule>, usize), ImportError> {
    let mut modules = Vec::with_capacity(layers.len());
    for layer in layers {
        modules.push(match *layer {
            LayerPlan::Dense { weight, bias, outputs, activation } => {
                let inputs = std::mem::replace(&mut width, outputs);
                let weight = weights.tensor(weight, &[outputs, inputs])?;
                let bias = bias.map(|bias| weights.tensor(bias, &[outputs])).transpose()?;
                HeadModule::Dense(DenseLayer { inputs, outputs, weight, bias, activation })
            }
            LayerPlan::LayerNorm { weight, bias, epsilon } => {
                let weight = weights.tensor(weight, &[width])?;
                let bias =
                    bias.map_or_else(|| Ok(vec![0.0; width]), |bias| weights.tensor(bias, &[width]))?;
                HeadModule::LayerNorm(HeadLayerNorm { weight, bias, epsilon })
            }
        });
    }
    Ok((modules, width))
}
