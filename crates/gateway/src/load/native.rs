//! Weights of a model folder for the native kernels: connects `model_import`, which locates tensors, with `bert_cpu`,
//! which consumes them.

use std::{borrow::Cow, error::Error, sync::Arc};

use bert_cpu::{BertConfig, Isa, Model, WeightSource};
use encoder_spec::{
    Activation, LayerNormId, LinearId, NormId, NormPlacement, Part, PositionIds, ScoreBias, Span, TensorId,
};
use model_import::{EncoderWeights, ImportError, ModelFolder};

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

/// Dimensions of the network in `bert_cpu`'s types; `None` if the kernels do not support it.
fn bert_config(weights: &EncoderWeights) -> Option<BertConfig> {
    let spec = weights.spec();
    let (attention, feed_forward) = (&spec.attention, &spec.feed_forward);
    let table = spec.embeddings.positions?;
    let is_bert = spec.norm_placement == NormPlacement::Post
        && spec.norm.has_shift()
        && spec.embeddings.has_norm
        && !spec.embeddings.has_projection
        && spec.embeddings.scale == 1.0
        && attention.kv_heads == attention.heads
        && attention.query_width() == spec.hidden
        && attention.scale == 1.0 / (attention.head_dim as f32).sqrt()
        && !attention.has_query_key_norm
        && attention.has_qkv_bias
        && attention.has_output_bias
        && attention.score_bias == ScoreBias::None
        && !feed_forward.is_gated
        && feed_forward.has_up_bias
        && feed_forward.has_down_bias
        && spec.layers.iter().all(|layer| layer.span == Span::Full && layer.rope.is_none());
    let config = BertConfig {
        hidden: spec.hidden,
        heads: attention.heads,
        layers: spec.layers.len(),
        intermediate: feed_forward.intermediate,
        vocabulary: spec.vocabulary,
        position_rows: table.rows,
        positions: match table.ids {
            PositionIds::FromZero => bert_cpu::Positions::FromZero,
            PositionIds::AfterPadding(padding) => bert_cpu::Positions::AfterPadding(padding),
        },
        activation: match feed_forward.activation {
            Activation::Gelu => bert_cpu::Activation::Gelu,
            Activation::GeluTanh => bert_cpu::Activation::GeluTanh,
            Activation::Relu => bert_cpu::Activation::Relu,
            Activation::Silu => return None,
        },
        epsilon: spec.norm.epsilon,
    };
    if is_bert { config.validate().ok() } else { None }
}

struct WeightAdapter<'w>(&'w EncoderWeights);

impl WeightSource for WeightAdapter<'_> {
    fn read(
        &self,
        tensor: bert_cpu::TensorId,
    ) -> Result<Cow<'_, [f32]>, Box<dyn Error + Send + Sync>> {
        use bert_cpu::TensorId as Kernel;
        let tensor = match tensor {
            Kernel::Weight(layer, id) => TensorId::Linear(layer, linear(id), Part::Weight),
            Kernel::Bias(layer, id) => TensorId::Linear(layer, linear(id), Part::Bias),
            Kernel::Scale(id) => TensorId::Scale(norm(id)),
            Kernel::Shift(id) => TensorId::Shift(norm(id)),
            Kernel::Positions => return Ok(Cow::Owned(self.positions()?)),
        };
        Ok(self.0.read(tensor)?)
    }
}

impl WeightAdapter<'_> {
    /// Returns the position table, to which the row of segment 0 has been added if the model has segments.
    fn positions(&self) -> Result<Vec<f32>, ImportError> {
        let embeddings = &self.0.spec().embeddings;
        let mut table = self.0.read(TensorId::PositionEmbeddings)?.into_owned();
        if embeddings.segments.is_some() {
            let segments = self.0.read(TensorId::SegmentEmbeddings)?;
            for row in table.chunks_exact_mut(embeddings.width) {
                row.iter_mut().zip(&*segments).for_each(|(value, segment)| *value += segment);
            }
        }
        Ok(table)
    }
}

fn linear(id: bert_cpu::LinearId) -> LinearId {
    match id {
        bert_cpu::LinearId::Query => LinearId::Query,
        bert_cpu::LinearId::Key => LinearId::Key,
        bert_cpu::LinearId::Value => LinearId::Value,
        bert_cpu::LinearId::AttentionOutput => LinearId::AttentionOutput,
        bert_cpu::LinearId::FfnUp => LinearId::Up,
        bert_cpu::LinearId::FfnDown => LinearId::Down,
    }
}

fn norm(id: bert_cpu::NormId) -> NormId {
    match id {
        bert_cpu::NormId::Embeddings => NormId::Embeddings,
        bert_cpu::NormId::Attention(layer) => NormId::Layer(layer, LayerNormId::AttentionOutput),
        bert_cpu::NormId::Ffn(layer) => NormId::Layer(layer, LayerNormId::FeedForwardOutput),
    }
}
