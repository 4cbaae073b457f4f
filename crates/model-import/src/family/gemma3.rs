//! Gemma 3 as EmbeddingGemma uses it: bidirectional, with local layers, and norms before and after each sublayer.

use encoder_spec::{EncoderSpec, LayerNormId, LayerSpec, NormId, NormKind, NormPlacement, Span, TensorId};

use super::{
    Location, Network,
    config::{AttentionKind, ConfigFile, RopeKeys},
    norm_of,
    qwen3::{self, DecoderKeys},
};
use crate::ImportError;

const GEMMA3: DecoderKeys = DecoderKeys {
    vocabulary: 262_208,
    hidden: 2304,
    layers: 26,
    heads: 8,
    kv_heads: 4,
    head_dim: 256,
    intermediate: 9216,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    max_tokens: 131_072,
};

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    config.require("use_bidirectional_attention", true)?;
    config.expect("attn_logit_softcapping", serde_json::Value::Null)?;
    let Network { mut spec, max_tokens, .. } = qwen3::network(config, &GEMMA3)?;
    spec.embeddings.scale = (spec.hidden as f64).sqrt() as f32;
    spec.norm.kind = NormKind::RmsNorm { has_unit_offset: true };
    spec.norm_placement = NormPlacement::PreAndPost;
    // Not the width of a head.
    let scalar = config.number("query_pre_attn_scalar", 256.0)?;
    spec.attention.scale = (1.0 / scalar.sqrt()) as f32;
    if !(spec.attention.scale.is_finite() && spec.attention.scale > 0.0) {
        return Err(config.unsupported("query_pre_attn_scalar", "a number above 0"));
    }
    spec.layers = layers(config, spec.layers.len(), spec.attention.head_dim)?;
    Ok(Network { max_tokens, ..Network::new(config.validate(spec)?, locate, &["model."]) })
}

/// Returns span and rotary positions of each of `count` layers.
fn layers(config: &ConfigFile, count: usize, head_dim: usize) -> Result<Vec<LayerSpec>, ImportError> {
    let keys = |kind, theta, default_theta| RopeKeys {
        kind,
        theta,
        default_theta,
        scaled: kind == AttentionKind::Full,
        ntk: false,
        by_kind: true,
    };
    let full = LayerSpec {
        span: Span::Full,
        rope: Some(config.rope(&keys(AttentionKind::Full, "rope_theta", 1e6), head_dim)?),
    };
    let local = LayerSpec {
        // The window has this many tokens on both sides together.
        span: Span::Window(config.size("sliding_window", 4096)? / 2),
        rope: Some(config.rope(&keys(AttentionKind::Sliding, "rope_local_base_freq", 10_000.0), head_dim)?),
    };
    let period = config.size("sliding_window_pattern", 6)?;
    let layer = |is_full| if is_full { full } else { local };
    Ok(match config.layer_types(count)? {
        Some(kinds) => kinds.into_iter().map(|kind| layer(kind == AttentionKind::Full)).collect(),
        None => (1..=count).map(|number| layer(number % period == 0)).collect(),
    })
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match norm_of(tensor) {
        Some(NormId::Layer(layer, LayerNormId::AttentionOutput)) => (layer, "post_attention_layernorm"),
        Some(NormId::Layer(layer, LayerNormId::FeedForwardInput)) => (layer, "pre_feedforward_layernorm"),
        Some(NormId::Layer(layer, LayerNormId::FeedForwardOutput)) => (layer, "post_feedforward_layernorm"),
        _ => return qwen3::locate(spec, tensor),
    };
    Location::of(format!("layers.{layer}.{module}"), tensor)
}
