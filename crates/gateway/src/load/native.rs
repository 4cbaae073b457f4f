//! Weights of a model folder for the native kernels: connects `model_import`, which locates tensors, with `bert_cpu`,
//! which consumes them.

use std::{borrow::Cow, error::Error, sync::Arc};

use bert_cpu::{EncoderConfig, Isa, Model, WeightSource};
use encoder_spec::{
    Activation, AttentionSpec, EmbeddingSpec, EncoderSpec, FeedForwardSpec, LayerNormId, LayerSpec, LinearId,
    NormId, NormKind, NormPlacement, NormSpec, Part, PositionIds, PositionTable, ScoreBias, Span, TensorId,
};
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
    let Some(config) = encoder_config(&weights) else { return Ok(None) };
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
    Ok(weights.as_ref().and_then(encoder_config).is_some())
}

/// The network, with the maximum length of its sequences; `None` if there are no kernels for it.
fn encoder_config(weights: &EncoderWeights) -> Option<EncoderConfig> {
    let sizes = weights.sizes();
    let spec = EncoderSpec {
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        embeddings: EmbeddingSpec {
            width: sizes.hidden,
            has_projection: false,
            scale: 1.0,
            positions: Some(PositionTable {
                rows: sizes.position_rows,
                ids: match sizes.positions {
                    model_import::Positions::FromZero => PositionIds::FromZero,
                    model_import::Positions::AfterPadding(padding) => {
                        PositionIds::AfterPadding(u32::try_from(padding).ok()?)
                    }
                },
            }),
            // Part of the positions.
            segments: None,
            has_norm: true,
        },
        attention: AttentionSpec {
            heads: sizes.heads,
            kv_heads: sizes.heads,
            head_dim: sizes.hidden / sizes.heads,
            scale: 1.0 / ((sizes.hidden / sizes.heads) as f32).sqrt(),
            has_query_key_norm: false,
            has_qkv_bias: true,
            has_output_bias: true,
            score_bias: ScoreBias::None,
        },
        feed_forward: FeedForwardSpec {
            intermediate: sizes.intermediate,
            activation: match sizes.activation {
                model_import::Activation::Gelu => Activation::Gelu,
                model_import::Activation::GeluTanh => Activation::GeluTanh,
                model_import::Activation::Relu => Activation::Relu,
            },
            is_gated: false,
            has_up_bias: true,
            has_down_bias: true,
        },
        norm: NormSpec { kind: NormKind::LayerNorm { has_shift: true }, epsilon: sizes.epsilon },
        norm_placement: NormPlacement::Post,
        layers: vec![LayerSpec { span: Span::Full, rope: None }; sizes.layers],
    };
    EncoderConfig::new(spec, usize::MAX).ok()
}

struct WeightAdapter<'w>(&'w EncoderWeights);

impl WeightSource for WeightAdapter<'_> {
    fn read(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>, Box<dyn Error + Send + Sync>> {
        Ok(match tensor {
            TensorId::Linear(layer, id, Part::Weight) => self.0.weight(layer, linear(id)?)?,
            TensorId::Linear(layer, id, Part::Bias) => self.0.bias(layer, linear(id)?)?,
            TensorId::Scale(id) => self.0.scale(norm(id)?)?,
            TensorId::Shift(id) => self.0.shift(norm(id)?)?,
            TensorId::PositionEmbeddings => Cow::Owned(self.0.positions()?),
            other => return Err(format!("BERT has no {other}").into()),
        })
    }
}

fn linear(id: LinearId) -> Result<model_import::Linear, String> {
    Ok(match id {
        LinearId::Query => model_import::Linear::Query,
        LinearId::Key => model_import::Linear::Key,
        LinearId::Value => model_import::Linear::Value,
        LinearId::AttentionOutput => model_import::Linear::Projection,
        LinearId::Up => model_import::Linear::Up,
        LinearId::Down => model_import::Linear::Down,
        LinearId::Gate => return Err("BERT has no gate".to_owned()),
    })
}

fn norm(id: NormId) -> Result<model_import::Norm, String> {
    Ok(match id {
        NormId::Embeddings => model_import::Norm::Embeddings,
        NormId::Layer(layer, LayerNormId::AttentionOutput) => model_import::Norm::Attention(layer),
        NormId::Layer(layer, LayerNormId::FeedForwardOutput) => model_import::Norm::Output(layer),
        other => return Err(format!("BERT has no {other}")),
    })
}
