//! DistilBERT: BERT without segments, with keys and tensor names of its own.

use encoder_spec::{EncoderSpec, LayerNormId, LinearId, NormId, PositionIds, TensorId};

use super::{
    Location, Network,
    bert::{self, BertKeys, MaskedLmNames},
    config::ConfigFile,
    norm_of,
};
use crate::{ImportError, head::HeadPlan};

/// Fixed in transformers' `modeling_distilbert.py`; not part of the configuration.
const EPSILON: f32 = 1e-12;

fn keys(config: &ConfigFile) -> BertKeys {
    BertKeys {
        hidden: (config.first(&["dim", "hidden_size"]), 768),
        layers: (config.first(&["n_layers", "num_hidden_layers"]), 6),
        heads: (config.first(&["n_heads", "num_attention_heads"]), 12),
        intermediate: ("hidden_dim", 3072),
        activation: ("activation", "gelu"),
        ..BertKeys::BERT
    }
}

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let mut spec = bert::post_norm(config, &keys(config))?;
    spec.norm.epsilon = EPSILON;
    spec.embeddings.positions = Some(bert::positions(config, PositionIds::FromZero)?);
    Ok(Network::new(config.validate(spec)?, locate, &["distilbert.", "model."]))
}

/// The head of `DistilBertForMaskedLM`.
pub(super) fn masked_lm_head(config: &ConfigFile) -> Result<HeadPlan, ImportError> {
    let names = MaskedLmNames {
        transform: ["vocab_transform.weight", "vocab_transform.bias"],
        norm: ["vocab_layer_norm.weight", "vocab_layer_norm.bias"],
        decoder: ["vocab_projector.weight", "vocab_projector.bias"],
    };
    names.head(config, &keys(config), EPSILON)
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (TensorId::Linear(layer, LinearId::Query, _), _) => (layer, "attention.q_lin"),
        (TensorId::Linear(layer, LinearId::Key, _), _) => (layer, "attention.k_lin"),
        (TensorId::Linear(layer, LinearId::Value, _), _) => (layer, "attention.v_lin"),
        (TensorId::Linear(layer, LinearId::AttentionOutput, _), _) => (layer, "attention.out_lin"),
        (TensorId::Linear(layer, LinearId::Up, _), _) => (layer, "ffn.lin1"),
        (TensorId::Linear(layer, LinearId::Down, _), _) => (layer, "ffn.lin2"),
        (_, Some(NormId::Layer(layer, LayerNormId::AttentionOutput))) => (layer, "sa_layer_norm"),
        (_, Some(NormId::Layer(layer, LayerNormId::FeedForwardOutput))) => (layer, "output_layer_norm"),
        _ => return bert::locate(spec, tensor),
    };
    Location::of(format!("transformer.layer.{layer}.{module}"), tensor)
}
