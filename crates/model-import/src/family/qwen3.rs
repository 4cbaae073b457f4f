//! Qwen3, and the settings and tensor names that Gemma 3 shares: pre-norm with RMS norms, norms of queries and keys,
//! grouped queries, rotary positions, and a gated feed-forward network.

use encoder_spec::{
    AttentionSpec, EmbeddingSpec, EncoderSpec, FeedForwardSpec, LayerNormId, LayerSpec, LinearId, NormId,
    NormKind, NormPlacement, NormSpec, ScoreBias, Span, TensorId,
};

use super::{
    Location, Network,
    config::{AttentionKind, ConfigFile, RopeKeys},
    norm_of,
};
use crate::ImportError;

/// Keys and the values that apply where a `config.json` omits them.
pub(super) struct DecoderKeys {
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) intermediate: usize,
    pub(super) activation: (&'static str, &'static str),
    pub(super) max_tokens: usize,
}

const QWEN3: DecoderKeys = DecoderKeys {
    vocabulary: 151_936,
    hidden: 4096,
    layers: 32,
    heads: 32,
    kv_heads: 32,
    head_dim: 128,
    intermediate: 22_016,
    activation: ("hidden_act", "silu"),
    max_tokens: 32_768,
};

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    config.expect("use_sliding_window", false)?;
    let Network { mut spec, max_tokens, .. } = network(config, &QWEN3)?;
    let count = spec.layers.len();
    if config.layer_types(count)?.is_some_and(|kinds| kinds.contains(&AttentionKind::Sliding)) {
        return Err(config.unsupported("layer_types", "only `full_attention`"));
    }
    let keys = RopeKeys {
        kind: AttentionKind::Full,
        theta: "rope_theta",
        default_theta: 10_000.0,
        scaled: true,
        ntk: false,
        by_kind: false,
    };
    let rope = Some(config.rope(&keys, spec.attention.head_dim)?);
    spec.layers = vec![LayerSpec { span: Span::Causal, rope }; count];
    Ok(Network { max_tokens, ..Network::new(config.validate(spec)?, locate, &["model."]) })
}

/// Returns the network from the keys that Gemma 3 shares; the layers attend to all tokens.
pub(super) fn network(config: &ConfigFile, keys: &DecoderKeys) -> Result<Network, ImportError> {
    let hidden = config.size("hidden_size", keys.hidden)?;
    let heads = config.size("num_attention_heads", keys.heads)?;
    // Null stands for as many as query heads.
    let default = if config.is_null("num_key_value_heads") { heads } else { keys.kv_heads };
    let kv_heads = config.size("num_key_value_heads", default)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(
            config.unsupported("num_key_value_heads", format!("a divisor of {heads} attention heads"))
        );
    }
    let head_dim = config.size("head_dim", keys.head_dim)?;
    let has_bias = config.flag("attention_bias", false)?;
    let layers = config.size("num_hidden_layers", keys.layers)?;
    let spec = EncoderSpec {
        hidden,
        vocabulary: config.size("vocab_size", keys.vocabulary)?,
        embeddings: EmbeddingSpec {
            width: hidden,
            has_projection: false,
            scale: 1.0,
            positions: None,
            segments: None,
            has_norm: false,
        },
        attention: AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            has_query_key_norm: true,
            has_qkv_bias: has_bias,
            has_output_bias: has_bias,
            score_bias: ScoreBias::None,
        },
        feed_forward: FeedForwardSpec {
            intermediate: config.size("intermediate_size", keys.intermediate)?,
            activation: config.activation(keys.activation.0, keys.activation.1)?,
            is_gated: true,
            has_up_bias: false,
            has_down_bias: false,
        },
        norm: NormSpec {
            kind: NormKind::RmsNorm { has_unit_offset: false },
            epsilon: config.epsilon("rms_norm_eps", 1e-6)?,
        },
        norm_placement: NormPlacement::Pre { first_attention_norm: true },
        layers: vec![LayerSpec { span: Span::Full, rope: None }; layers],
    };
    let max_tokens = Some(config.size("max_position_embeddings", keys.max_tokens)?);
    Ok(Network { max_tokens, ..Network::new(spec, locate, &["model."]) })
}

pub(super) fn locate(_: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (TensorId::TokenEmbeddings, _) => return Location::of("embed_tokens", tensor),
        (_, Some(NormId::Final)) => return Location::of("norm", tensor),
        (TensorId::Linear(layer, LinearId::Query, _), _) => (layer, "self_attn.q_proj"),
        (TensorId::Linear(layer, LinearId::Key, _), _) => (layer, "self_attn.k_proj"),
        (TensorId::Linear(layer, LinearId::Value, _), _) => (layer, "self_attn.v_proj"),
        (TensorId::Linear(layer, LinearId::AttentionOutput, _), _) => (layer, "self_attn.o_proj"),
        (TensorId::Linear(layer, LinearId::Gate, _), _) => (layer, "mlp.gate_proj"),
        (TensorId::Linear(layer, LinearId::Up, _), _) => (layer, "mlp.up_proj"),
        (TensorId::Linear(layer, LinearId::Down, _), _) => (layer, "mlp.down_proj"),
        (_, Some(NormId::Layer(layer, LayerNormId::AttentionInput))) => (layer, "input_layernorm"),
        (_, Some(NormId::Layer(layer, LayerNormId::Query))) => (layer, "self_attn.q_norm"),
        (_, Some(NormId::Layer(layer, LayerNormId::Key))) => (layer, "self_attn.k_norm"),
        // In Qwen3, the norm after attention is the one before the feed-forward network.
        (_, Some(NormId::Layer(layer, LayerNormId::FeedForwardInput))) => (layer, "post_attention_layernorm"),
        _ => return Location::nowhere(tensor),
    };
    Location::of(format!("layers.{layer}.{module}"), tensor)
}
