//! MPNet: BERT with relative attention bias, without segments.

use encoder_spec::{
    EncoderSpec, LayerNormId, LinearId, NormId, PositionIds, RelativeBias, ScoreBias, TensorId,
};

use super::{
    Location, Network,
    bert::{self, BertKeys},
    config::ConfigFile,
    norm_of,
};
use crate::ImportError;

/// Padding id that positions are counted from. transformers takes this one even if `pad_token_id` is another.
const PADDING: u32 = 1;
/// Buckets and maximum distance of relative positions. transformers takes these even if
/// `relative_attention_num_buckets`, the number of rows of the table, is larger.
const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let mut spec =
        bert::post_norm(config, &BertKeys { vocabulary: ("vocab_size", 30_527), ..BertKeys::BERT })?;
    let rows = config.size("relative_attention_num_buckets", BUCKETS)?;
    if rows < BUCKETS {
        let expected = format!("at least {BUCKETS}");
        return Err(config.unsupported("relative_attention_num_buckets", expected));
    }
    spec.attention.score_bias =
        ScoreBias::Relative(RelativeBias { rows, buckets: BUCKETS, max_distance: MAX_DISTANCE });
    spec.embeddings.positions = Some(bert::positions(config, PositionIds::AfterPadding(PADDING))?);
    Ok(Network::new(config.validate(spec)?, locate, &["mpnet.", "model."]))
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (TensorId::RelativeBias, _) => return Location::of("encoder.relative_attention_bias", tensor),
        (TensorId::Linear(layer, LinearId::Query, _), _) => (layer, "attention.attn.q"),
        (TensorId::Linear(layer, LinearId::Key, _), _) => (layer, "attention.attn.k"),
        (TensorId::Linear(layer, LinearId::Value, _), _) => (layer, "attention.attn.v"),
        (TensorId::Linear(layer, LinearId::AttentionOutput, _), _) => (layer, "attention.attn.o"),
        (_, Some(NormId::Layer(layer, LayerNormId::AttentionOutput))) => (layer, "attention.LayerNorm"),
        _ => return bert::locate(spec, tensor),
    };
    Location::of(format!("encoder.layer.{layer}.{module}"), tensor)
}
