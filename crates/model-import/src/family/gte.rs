//! GTE: BERT with rotary positions and a gated feed-forward network. The published models have the `model_type` `new`
//! and NTK-scaled positions, those of transformers 5 `gte`; the tensors are the same.

use encoder_spec::{EncoderSpec, LayerNormId, LinearId, NormId, TensorId};

use super::{
    Location, Network,
    bert::{self, BertKeys},
    config::{AttentionKind, ConfigFile, RopeKeys},
    norm_of,
};
use crate::ImportError;

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let is_published = config.model_type()? == "new";
    let (vocabulary, positions, theta) =
        if is_published { (30_528, 2048, 10_000.0) } else { (250_048, 8192, 160_000.0) };
    config.expect("is_decoder", false)?;
    config.expect("position_embedding_type", "rope")?;
    config.expect("layer_norm_type", "layer_norm")?;
    config.expect("pack_qkv", true)?;
    config.expect("logn_attention_scale", false)?;
    let mut spec =
        bert::post_norm(config, &BertKeys { vocabulary: ("vocab_size", vocabulary), ..BertKeys::BERT })?;
    config.expect("head_dim", spec.attention.head_dim)?;
    spec.feed_forward.is_gated = true;
    spec.feed_forward.has_up_bias = false;
    let keys = RopeKeys {
        kind: AttentionKind::Full,
        theta: "rope_theta",
        default_theta: theta,
        scaled: true,
        ntk: is_published,
        by_kind: false,
    };
    let rope = config.rope(&keys, spec.attention.head_dim)?;
    spec.layers.iter_mut().for_each(|layer| layer.rope = Some(rope));
    spec.embeddings.segments = config.rows("type_vocab_size", 1)?;
    let max_tokens = Some(config.size("max_position_embeddings", positions)?);
    let network = Network::new(config.validate(spec)?, locate, &["new.", "gte.", "model."]);
    Ok(Network { max_tokens, ..network })
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let packed = |layer, module| format!("encoder.layer.{layer}.{module}");
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (TensorId::Linear(layer, LinearId::Query | LinearId::Key | LinearId::Value, _), _) => {
            return Location::in_packed_qkv(packed(layer, "attention.qkv_proj"), tensor, spec);
        }
        (TensorId::Linear(layer, linear @ (LinearId::Up | LinearId::Gate), _), _) => {
            let is_gate = linear == LinearId::Gate;
            return Location::in_packed_halves(packed(layer, "mlp.up_gate_proj"), tensor, spec, is_gate);
        }
        (TensorId::Linear(layer, LinearId::AttentionOutput, _), _) => (layer, "attention.o_proj"),
        (TensorId::Linear(layer, LinearId::Down, _), _) => (layer, "mlp.down_proj"),
        (_, Some(NormId::Layer(layer, LayerNormId::AttentionOutput))) => (layer, "attn_ln"),
        (_, Some(NormId::Layer(layer, LayerNormId::FeedForwardOutput))) => (layer, "mlp_ln"),
        _ => return bert::locate(spec, tensor),
    };
    Location::of(format!("encoder.layer.{layer}.{module}"), tensor)
}
