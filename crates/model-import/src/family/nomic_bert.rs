//! NomicBERT: BERT with rotary positions, a gated feed-forward network and no biases in linear layers.
//!
//! `config.json` has either the keys of the published models, which derive from GPT-2's, or those of transformers 5. If
//! both are there, transformers 5 reads its own.

use encoder_spec::{Activation, EncoderSpec, LayerNormId, LinearId, NormId, Rope, TensorId};

use super::{
    Location, Network,
    bert::{self, BertKeys},
    config::{AttentionKind, ConfigFile, RopeKeys},
    norm_of,
};
use crate::ImportError;

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let is_published = config.has("n_embd") && !config.has("hidden_size");
    let keys = BertKeys {
        vocabulary: ("vocab_size", 30_528),
        hidden: (config.first(&["hidden_size", "n_embd"]), 768),
        layers: (config.first(&["num_hidden_layers", "n_layer"]), 12),
        heads: (config.first(&["num_attention_heads", "n_head"]), 12),
        intermediate: (config.first(&["intermediate_size", "n_inner"]), 3072),
        activation: ("hidden_act", "silu"),
        epsilon: match is_published {
            true => ("layer_norm_epsilon", 1e-5),
            false => (config.first(&["layer_norm_eps", "layer_norm_epsilon"]), 1e-12),
        },
    };
    check_published(config, is_published)?;
    let mut spec = bert::post_norm(config, &keys)?;
    let (attention, feed_forward) = (&mut spec.attention, &mut spec.feed_forward);
    attention.head_dim = config.size("head_dim", attention.head_dim)?;
    attention.scale = 1.0 / (attention.head_dim as f32).sqrt();
    attention.has_qkv_bias = config.flag("qkv_proj_bias", is_published)?;
    attention.has_output_bias = attention.has_qkv_bias;
    feed_forward.is_gated = true;
    feed_forward.has_up_bias = config.flag("mlp_fc1_bias", is_published)?;
    feed_forward.has_down_bias = config.flag("mlp_fc2_bias", is_published)?;
    if is_published || !config.has("hidden_act") {
        feed_forward.activation = match config.text("activation_function", "swiglu")? {
            "swiglu" => Activation::Silu,
            "geglu" => Activation::Gelu,
            _ => return Err(config.unsupported("activation_function", "swiglu or geglu")),
        };
    }
    let rope = rope(config, is_published, attention.head_dim)?;
    spec.layers.iter_mut().for_each(|layer| layer.rope = Some(rope));
    spec.embeddings.segments = config.rows("type_vocab_size", 2)?;
    let positions = config.first(&["max_position_embeddings", "n_positions"]);
    let max_tokens = Some(config.size(positions, 2048)?);
    let network = Network::new(config.validate(spec)?, locate, &["nomic_bert.", "bert.", "model."]);
    Ok(Network { max_tokens, ..network })
}

/// Checks the settings that only the published code reads. Wherever its default is not supported, they must be stated.
fn check_published(config: &ConfigFile, is_published: bool) -> Result<(), ImportError> {
    for key in [
        "causal",
        "parallel_block",
        "parallel_block_tied_norm",
        "prenorm",
        "rotary_emb_interleaved",
        "scale_attn_by_inverse_layer_idx",
        "use_rms_norm",
        "expert_choice_router",
    ] {
        config.expect(key, false)?;
    }
    config.expect("scale_attn_weights", true)?;
    config.expect("rotary_emb_scale_base", serde_json::Value::Null)?;
    config.expect("rotary_scaling_factor", serde_json::Value::Null)?;
    if config.integer("moe_every_n_layers", 0)? > 0 {
        return Err(config.unsupported("moe_every_n_layers", "no layers with a mixture of experts"));
    }
    match is_published {
        true => {
            config.require("rotary_emb_fraction", 1)?;
            if config.has("activation_function") {
                return Ok(());
            }
            Err(config.unsupported("activation_function", "swiglu or geglu"))
        }
        false => config.expect("rotary_emb_fraction", 1),
    }
}

fn rope(config: &ConfigFile, is_published: bool, head_dim: usize) -> Result<Rope, ImportError> {
    let keys = RopeKeys {
        kind: AttentionKind::Full,
        theta: config.first(&["rope_theta", "rotary_emb_base"]),
        default_theta: if is_published { 10_000.0 } else { 1000.0 },
        scaled: true,
        ntk: false,
        by_kind: false,
    };
    config.rope(&keys, head_dim)
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (_, Some(NormId::Embeddings)) => return Location::of("emb_ln", tensor),
        (TensorId::Linear(layer, LinearId::Query | LinearId::Key | LinearId::Value, _), _) => {
            let module = format!("encoder.layers.{layer}.attn.Wqkv");
            return Location::in_packed_qkv(module, tensor, spec);
        }
        (TensorId::Linear(layer, LinearId::AttentionOutput, _), _) => (layer, "attn.out_proj"),
        (TensorId::Linear(layer, LinearId::Up, _), _) => (layer, "mlp.fc11"),
        (TensorId::Linear(layer, LinearId::Gate, _), _) => (layer, "mlp.fc12"),
        (TensorId::Linear(layer, LinearId::Down, _), _) => (layer, "mlp.fc2"),
        (_, Some(NormId::Layer(layer, LayerNormId::AttentionOutput))) => (layer, "norm1"),
        (_, Some(NormId::Layer(layer, LayerNormId::FeedForwardOutput))) => (layer, "norm2"),
        _ => return bert::locate(spec, tensor),
    };
    Location::of(format!("encoder.layers.{layer}.{module}"), tensor)
}
