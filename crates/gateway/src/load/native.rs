//! Weights of a model folder for the native kernels: connects `model_import`, which locates tensors, with `bert_cpu`,
//! which consumes them.

use std::{borrow::Cow, error::Error, sync::Arc};

use bert_cpu::{BertConfig, Isa, LinearId, Model, NormId, TensorId, WeightSource};
use model_import::{EncoderWeights, ModelFolder};

use super::ModelLoadError;

/// Reads and packs the weights of `folder` for `isa`, on up to `threads` threads. `None` if there are no kernels for
/// its network.
pub(super) fn model(
    folder: &ModelFolder,
    isa: Isa,
    threads: usize,
) -> Result<Option<Arc<Model>>, ModelLoadError> {
    let Some(weights) = folder.encoder().map_err(ModelLoadError::Folder)? else { return Ok(None) };
    let Some(config) = bert_config(&weights) else { return Ok(None) };
    // A separate memory map for the token embeddings: the first one, with the pages that packing touched, is closed
    // below.
    let Some(words) = folder.encoder().map_err(ModelLoadError::Folder)? else { return Ok(None) };
    let words = words.into_token_embeddings().map_err(ModelLoadError::Folder)?;
    let words = Arc::new(move |id: u32, out: &mut [f32]| words.read_row(id, out));
    let model = Model::new(config, &WeightAdapter(&weights), words, isa, threads);
    model.map(|model| Some(Arc::new(model))).map_err(|error| ModelLoadError::NativeWeights(Box::new(error)))
}

/// Returns true if there are kernels for the network of `folder`.
pub(super) fn is_supported(folder: &ModelFolder) -> Result<bool, ModelLoadError> {
    let weights = folder.encoder().map_err(ModelLoadError::Folder)?;
    Ok(weights.as_ref().and_then(bert_config).is_some())
}

/// Dimensions of the network in `bert_cpu`'s types; `None` if the kernels do not support them.
fn bert_config(weights: &EncoderWeights) -> Option<BertConfig> {
    let sizes = weights.sizes();
    let config = BertConfig {
        hidden: sizes.hidden,
        heads: sizes.heads,
        layers: sizes.layers,
        intermediate: sizes.intermediate,
        vocabulary: sizes.vocabulary,
        position_rows: sizes.position_rows,
        positions: match sizes.positions {
            model_import::Positions::FromZero => bert_cpu::Positions::FromZero,
            model_import::Positions::AfterPadding(padding) => {
                bert_cpu::Positions::AfterPadding(u32::try_from(padding).ok()?)
            }
        },
        activation: match sizes.activation {
            model_import::Activation::Gelu => bert_cpu::Activation::Gelu,
            model_import::Activation::GeluTanh => bert_cpu::Activation::GeluTanh,
            model_import::Activation::Relu => bert_cpu::Activation::Relu,
        },
        epsilon: sizes.epsilon,
    };
    config.validate().ok()
}

struct WeightAdapter<'w>(&'w EncoderWeights);

impl WeightSource for WeightAdapter<'_> {
    fn read(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>, Box<dyn Error + Send + Sync>> {
        Ok(match tensor {
            TensorId::Weight(layer, id) => self.0.weight(layer, linear(id))?,
            TensorId::Bias(layer, id) => self.0.bias(layer, linear(id))?,
            TensorId::Scale(id) => self.0.scale(norm(id))?,
            TensorId::Shift(id) => self.0.shift(norm(id))?,
            TensorId::Positions => Cow::Owned(self.0.positions()?),
        })
    }
}

fn linear(id: LinearId) -> model_import::Linear {
    match id {
        LinearId::Query => model_import::Linear::Query,
        LinearId::Key => model_import::Linear::Key,
        LinearId::Value => model_import::Linear::Value,
        LinearId::AttentionOutput => model_import::Linear::Projection,
        LinearId::FfnUp => model_import::Linear::Up,
        LinearId::FfnDown => model_import::Linear::Down,
    }
}

fn norm(id: NormId) -> model_import::Norm {
    match id {
        NormId::Embeddings => model_import::Norm::Embeddings,
        NormId::Attention(layer) => model_import::Norm::Attention(layer),
        NormId::Ffn(layer) => model_import::Norm::Output(layer),
    }
}
