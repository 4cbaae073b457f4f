//! DeBERTa-v2 and v3: BERT with disentangled attention over content and relative positions.

use encoder_spec::{Disentangled, EncoderSpec, LinearId, NormId, PositionIds, ScoreBias, TensorId};

use super::{
    Location, Network,
    bert::{self, BertKeys},
    config::ConfigFile,
    norm_of,
};
use crate::ImportError;

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let keys = BertKeys {
        vocabulary: ("vocab_size", 128_100),
        hidden: ("hidden_size", 1536),
        layers: ("num_hidden_layers", 24),
        heads: ("num_attention_heads", 24),
        intermediate: ("intermediate_size", 6144),
        epsilon: ("layer_norm_eps", 1e-7),
        ..BertKeys::BERT
    };
    let mut spec = bert::post_norm(config, &keys)?;
    // Without relative attention, the scale still counts the terms that are then not added.
    config.require("relative_attention", true)?;
    config.require("share_att_key", true)?;
    config.expect("conv_kernel_size", 0)?;
    config.expect("embedding_size", spec.hidden)?;
    config.expect("attention_head_size", spec.attention.head_dim)?;
    if config.flag("position_biased_input", true)? {
        spec.embeddings.positions = Some(bert::positions(config, PositionIds::FromZero)?);
    }
    spec.embeddings.segments = config.rows("type_vocab_size", 0)?;
    let disentangled = disentangled(config)?;
    spec.attention.score_bias = ScoreBias::Disentangled(disentangled);
    spec.attention.scale = 1.0 / ((spec.attention.head_dim * disentangled.terms()) as f32).sqrt();
    let mut network = Network::new(config.validate(spec)?, locate, &["deberta.", "model."]);
    network.max_tokens = Some(config.size("max_position_embeddings", 512)?);
    Ok(network)
}

/// Returns the settings of relative positions.
fn disentangled(config: &ConfigFile) -> Result<Disentangled, ImportError> {
    let max_distance = match config.integer("max_relative_positions", -1)? {
        ..1 => config.size("max_position_embeddings", 512)?,
        _ => config.size("max_relative_positions", 512)?,
    };
    let (span, max_distance) = match config.integer("position_buckets", -1)? {
        ..1 => (max_distance, None),
        _ => (config.size("position_buckets", 0)?, Some(max_distance)),
    };
    let terms = config.texts("pos_att_type")?;
    if let Some(other) = terms.iter().find(|term| !["c2p", "p2c"].contains(&term.as_str())) {
        return Err(config.unsupported("pos_att_type", format!("c2p and p2c, not `{other}`")));
    }
    let norms = config.texts("norm_rel_ebd")?;
    if let Some(other) = norms.iter().find(|norm| !["none", "layer_norm"].contains(&norm.as_str())) {
        return Err(config.unsupported("norm_rel_ebd", format!("none or layer_norm, not `{other}`")));
    }
    Ok(Disentangled {
        span,
        max_distance,
        content_to_position: terms.iter().any(|term| term == "c2p"),
        position_to_content: terms.iter().any(|term| term == "p2c"),
        has_norm: norms.iter().any(|norm| norm == "layer_norm"),
    })
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (TensorId::RelativePositions, _) => return Location::of("encoder.rel_embeddings", tensor),
        (_, Some(NormId::RelativePositions)) => return Location::of("encoder.LayerNorm", tensor),
        (TensorId::Linear(layer, LinearId::Query, _), _) => (layer, "query_proj"),
        (TensorId::Linear(layer, LinearId::Key, _), _) => (layer, "key_proj"),
        (TensorId::Linear(layer, LinearId::Value, _), _) => (layer, "value_proj"),
        _ => return bert::locate(spec, tensor),
    };
    Location::of(format!("encoder.layer.{layer}.attention.self.{module}"), tensor)
}
