//! ModernBERT: pre-norm, rotary positions, a gated feed-forward network, and layers with local attention.

use encoder_spec::{
    AttentionSpec, EmbeddingSpec, EncoderSpec, FeedForwardSpec, LayerNormId, LayerSpec, LinearId, NormId,
    NormKind, NormPlacement, NormSpec, PoolingMode, ScoreBias, Span, TensorId,
};

use super::{
    Location, Network, bert,
    config::{AttentionKind, ConfigFile, RopeKeys},
    norm_of,
};
use crate::{
    ImportError,
    head::{HeadPlan, LayerPlan},
};

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let hidden = config.size("hidden_size", 768)?;
    let heads = config.size("num_attention_heads", 12)?;
    let head_dim = config.head_dim(hidden, heads)?;
    config.expect("head_dim", head_dim)?;
    let has_attention_bias = config.flag("attention_bias", false)?;
    let has_mlp_bias = config.flag("mlp_bias", false)?;
    let spec = EncoderSpec {
        hidden,
        vocabulary: config.size("vocab_size", 50_368)?,
        embeddings: EmbeddingSpec {
            width: hidden,
            has_projection: false,
            scale: 1.0,
            positions: None,
            segments: None,
            has_norm: true,
        },
        attention: AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            has_query_key_norm: false,
            has_qkv_bias: has_attention_bias,
            has_output_bias: has_attention_bias,
            score_bias: ScoreBias::None,
        },
        feed_forward: FeedForwardSpec {
            intermediate: config.size("intermediate_size", 1152)?,
            activation: config.activation("hidden_activation", "gelu")?,
            is_gated: true,
            has_up_bias: has_mlp_bias,
            has_down_bias: has_mlp_bias,
        },
        norm: NormSpec {
            kind: NormKind::LayerNorm { has_shift: config.flag("norm_bias", false)? },
            epsilon: config.epsilon("norm_eps", 1e-5)?,
        },
        norm_placement: NormPlacement::Pre { first_attention_norm: false },
        layers: layers(config, head_dim)?,
    };
    let max_tokens = Some(config.size("max_position_embeddings", 8192)?);
    let network = Network::new(config.validate(spec)?, locate, &["model."]);
    Ok(Network { max_tokens, ..network })
}

/// The head of `ModernBertForSequenceClassification`: a dense layer, a norm and a linear layer.
pub(super) fn classifier(config: &ConfigFile) -> Result<HeadPlan, ImportError> {
    let pooling = match config.text("classifier_pooling", "cls")? {
        "cls" => PoolingMode::Cls,
        "mean" => PoolingMode::Mean,
        _ => return Err(config.unsupported("classifier_pooling", "`cls` or `mean`")),
    };
    let has_bias = config.flag("classifier_bias", false)?;
    let dense = LayerPlan::Dense {
        weight: "head.dense.weight",
        bias: has_bias.then_some("head.dense.bias"),
        outputs: config.size("hidden_size", 768)?,
        activation: config.dense_activation("classifier_activation", "gelu")?,
    };
    let norm = LayerPlan::LayerNorm {
        weight: "head.norm.weight",
        bias: config.flag("norm_bias", false)?.then_some("head.norm.bias"),
        epsilon: config.epsilon("norm_eps", 1e-5)?.into(),
    };
    let layers = vec![dense, norm, bert::score_layer("classifier.weight", "classifier.bias")];
    Ok(HeadPlan { pooling, token_layers: vec![], layers })
}

/// Returns span and rotary positions of each layer.
fn layers(config: &ConfigFile, head_dim: usize) -> Result<Vec<LayerSpec>, ImportError> {
    // The window has this many tokens on both sides together.
    let distance = config.count("local_attention", 128)? / 2;
    config.expect("sliding_window", distance)?;
    let keys = |kind, theta, default_theta| RopeKeys {
        kind,
        theta,
        default_theta,
        scaled: true,
        ntk: false,
        by_kind: true,
    };
    let full = LayerSpec {
        span: Span::Full,
        rope: Some(config.rope(&keys(AttentionKind::Full, "global_rope_theta", 160_000.0), head_dim)?),
    };
    let local = LayerSpec {
        span: Span::Window(distance),
        rope: Some(config.rope(&keys(AttentionKind::Sliding, "local_rope_theta", 10_000.0), head_dim)?),
    };
    let count = config.size("num_hidden_layers", 22)?;
    let period = config.size("global_attn_every_n_layers", 3)?;
    let layer = |is_full| if is_full { full } else { local };
    Ok(match config.layer_types(count)? {
        Some(kinds) => kinds.into_iter().map(|kind| layer(kind == AttentionKind::Full)).collect(),
        None => (0..count).map(|index| layer(index % period == 0)).collect(),
    })
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (TensorId::TokenEmbeddings, _) => return Location::of("embeddings.tok_embeddings", tensor),
        (_, Some(NormId::Embeddings)) => return Location::of("embeddings.norm", tensor),
        (_, Some(NormId::Final)) => return Location::of("final_norm", tensor),
        (TensorId::Linear(layer, LinearId::Query | LinearId::Key | LinearId::Value, _), _) => {
            return Location::in_packed_qkv(format!("layers.{layer}.attn.Wqkv"), tensor, spec);
        }
        (TensorId::Linear(layer, linear @ (LinearId::Gate | LinearId::Up), _), _) => {
            let (module, is_up) = (format!("layers.{layer}.mlp.Wi"), linear == LinearId::Up);
            return Location::in_packed_halves(module, tensor, spec, is_up);
        }
        (TensorId::Linear(layer, LinearId::AttentionOutput, _), _) => (layer, "attn.Wo"),
        (TensorId::Linear(layer, LinearId::Down, _), _) => (layer, "mlp.Wo"),
        (_, Some(NormId::Layer(layer, LayerNormId::AttentionInput))) => (layer, "attn_norm"),
        (_, Some(NormId::Layer(layer, LayerNormId::FeedForwardInput))) => (layer, "mlp_norm"),
        _ => return Location::nowhere(tensor),
    };
    Location::of(format!("layers.{layer}.{module}"), tensor)
}
