//! Weights of a model folder for the native kernels: connects `model_import`, which locates tensors, with `bert_cpu`,
//! which packs them.

use std::{borrow::Cow, error::Error, sync::Arc};

use bert_cpu::{ActivationMaxima, EncoderConfig, Isa, Model, ModelInputs, WeightSource};
use encoder_spec::TensorId;
use model_import::{EncoderWeights, ModelFolder};

use super::ModelLoadError;

/// Reads and packs the weights of `folder` for `isa`, on up to `threads` threads. `None` if there are no kernels for
/// its network. Kernels in int8 need the `maxima` of its activations.
pub(super) fn model(
    folder: &ModelFolder,
    isa: Isa,
    threads: usize,
    maxima: Option<&ActivationMaxima>,
) -> Result<Option<Arc<Model>>, ModelLoadError> {
    let Some(weights) = folder.encoder().map_err(ModelLoadError::Folder)? else { return Ok(None) };
    let Some(config) = encoder_config(folder, &weights) else { return Ok(None) };
    // A separate memory map for the token embeddings: the first one, with the pages that packing touched, is closed
    // below.
    let Some(tokens) = folder.encoder().map_err(ModelLoadError::Folder)? else { return Ok(None) };
    let tokens = tokens.into_token_embeddings().map_err(ModelLoadError::Folder)?;
    let tokens = Arc::new(move |id: u32, out: &mut [f32]| tokens.read_row(id, out));
    let inputs = ModelInputs {
        config,
        source: &WeightAdapter(&weights),
        token_embeddings: tokens,
        activation_maxima: maxima,
        threads,
    };
    let model = Model::new(isa, inputs);
    model.map(|model| Some(Arc::new(model))).map_err(|error| ModelLoadError::NativeWeights(Box::new(error)))
}

/// Returns true if there are kernels for the network of `folder`.
pub(super) fn is_supported(folder: &ModelFolder) -> Result<bool, ModelLoadError> {
    let weights = folder.encoder().map_err(ModelLoadError::Folder)?;
    Ok(weights.is_some_and(|weights| encoder_config(folder, &weights).is_some()))
}

/// The network, with the maximum length of its sequences; `None` if there are no kernels for it.
fn encoder_config(folder: &ModelFolder, weights: &EncoderWeights) -> Option<EncoderConfig> {
    if bert_cpu::unsupported(weights.spec()).is_some() {
        return None;
    }
    let config = EncoderConfig::new(weights.spec().clone(), folder.max_input_tokens()).ok()?;
    Some(config.with_segments(folder.segments()))
}

struct WeightAdapter<'w>(&'w EncoderWeights);

impl WeightSource for WeightAdapter<'_> {
    fn read(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>, Box<dyn Error + Send + Sync>> {
        Ok(self.0.read(tensor)?)
    }

    fn source_layer(&self, layer: usize) -> usize {
        self.0.source_layer(layer)
    }
}
