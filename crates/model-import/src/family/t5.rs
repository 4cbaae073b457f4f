//! The encoders of T5 and mT5: relative attention bias, RMS norms before each sublayer, no scaling of the scores.

use encoder_spec::{
    Activation, AttentionSpec, EmbeddingSpec, EncoderSpec, FeedForwardSpec, LayerNormId, LayerSpec, LinearId,
    NormId, NormKind, NormPlacement, NormSpec, RelativeBias, ScoreBias, Span, TensorId,
};

use super::{
    Location, Network,
    config::{ConfigFile, known_activations},
    norm_of,
};
use crate::ImportError;

/// Sizes that apply where a `config.json` omits them.
struct T5Defaults {
    vocabulary: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    feed_forward: &'static str,
}

const T5: T5Defaults =
    T5Defaults { vocabulary: 32_128, intermediate: 2048, layers: 6, heads: 8, feed_forward: "relu" };
const MT5: T5Defaults =
    T5Defaults { vocabulary: 250_112, intermediate: 1024, layers: 8, heads: 6, feed_forward: "gated-gelu" };

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let defaults = if config.model_type()? == "mt5" { MT5 } else { T5 };
    let heads = config.size(config.first(&["num_heads", "num_attention_heads"]), defaults.heads)?;
    let layers = config.size(config.first(&["num_layers", "num_hidden_layers"]), defaults.layers)?;
    let score_bias = ScoreBias::Relative(relative_bias(config)?);
    let (activation, is_gated) = feed_forward(config, defaults.feed_forward)?;
    let hidden = config.size(config.first(&["d_model", "hidden_size"]), 512)?;
    let spec = EncoderSpec {
        hidden,
        vocabulary: config.size("vocab_size", defaults.vocabulary)?,
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
            kv_heads: heads,
            head_dim: config.size(config.first(&["d_kv", "head_dim"]), 64)?,
            scale: 1.0,
            has_query_key_norm: false,
            has_qkv_bias: false,
            has_output_bias: false,
            score_bias,
        },
        feed_forward: FeedForwardSpec {
            intermediate: config.size("d_ff", defaults.intermediate)?,
            activation,
            is_gated,
            has_up_bias: false,
            has_down_bias: false,
        },
        norm: NormSpec {
            kind: NormKind::RmsNorm { has_unit_offset: false },
            epsilon: config.epsilon("layer_norm_epsilon", 1e-6)?,
        },
        norm_placement: NormPlacement::Pre { first_attention_norm: true },
        layers: vec![LayerSpec { span: Span::Full, rope: None }; layers],
    };
    let network = Network::new(config.validate(spec)?, locate, &["transformer."]);
    // Old configurations state the length of training.
    let trained = if config.has("n_positions") { Some(config.size("n_positions", 512)?) } else { None };
    Ok(Network { default_max_tokens: trained, ..network })
}

/// Returns the buckets of relative positions.
fn relative_bias(config: &ConfigFile) -> Result<RelativeBias, ImportError> {
    let (buckets_key, distance_key) = ("relative_attention_num_buckets", "relative_attention_max_distance");
    let (buckets, max_distance) = (config.size(buckets_key, 32)?, config.size(distance_key, 128)?);
    if buckets < 4 || !buckets.is_multiple_of(2) {
        return Err(config.unsupported(buckets_key, "an even number of at least 4"));
    }
    // A quarter of the buckets is for single distances.
    if max_distance <= buckets / 4 {
        return Err(config.unsupported(distance_key, format!("more than {}", buckets / 4)));
    }
    Ok(RelativeBias { rows: buckets, buckets, max_distance })
}

/// Parses `feed_forward_proj`: the name of an activation function, for example `relu`, or `gated-` before one.
fn feed_forward(config: &ConfigFile, default: &str) -> Result<(Activation, bool), ImportError> {
    const KEY: &str = "feed_forward_proj";
    let text = config.text(KEY, default)?;
    let (name, is_gated) = text.strip_prefix("gated-").map_or((text, false), |name| (name, true));
    // T5 1.1 writes `gelu` for the approximation.
    let activation = match name {
        "gelu" if is_gated => Some(Activation::GeluTanh),
        name => Activation::from_name(name),
    };
    let expected = || format!("{}, each also with `gated-` before it", known_activations());
    Ok((activation.ok_or_else(|| config.unsupported(KEY, expected()))?, is_gated))
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (TensorId::TokenEmbeddings, _) => return Location::of("shared", tensor),
        (_, Some(NormId::Final)) => return Location::of("encoder.final_layer_norm", tensor),
        (TensorId::RelativeBias, _) => (0, "0.SelfAttention.relative_attention_bias"),
        (TensorId::Linear(layer, LinearId::Query, _), _) => (layer, "0.SelfAttention.q"),
        (TensorId::Linear(layer, LinearId::Key, _), _) => (layer, "0.SelfAttention.k"),
        (TensorId::Linear(layer, LinearId::Value, _), _) => (layer, "0.SelfAttention.v"),
        (TensorId::Linear(layer, LinearId::AttentionOutput, _), _) => (layer, "0.SelfAttention.o"),
        (TensorId::Linear(layer, LinearId::Gate, _), _) => (layer, "1.DenseReluDense.wi_0"),
        (TensorId::Linear(layer, LinearId::Up, _), _) if spec.feed_forward.is_gated => {
            (layer, "1.DenseReluDense.wi_1")
        }
        (TensorId::Linear(layer, LinearId::Up, _), _) => (layer, "1.DenseReluDense.wi"),
        (TensorId::Linear(layer, LinearId::Down, _), _) => (layer, "1.DenseReluDense.wo"),
        (_, Some(NormId::Layer(layer, LayerNormId::AttentionInput))) => (layer, "0.layer_norm"),
        (_, Some(NormId::Layer(layer, LayerNormId::FeedForwardInput))) => (layer, "1.layer_norm"),
        _ => return Location::nowhere(tensor),
    };
    Location::of(format!("encoder.block.{layer}.layer.{module}"), tensor)
}
