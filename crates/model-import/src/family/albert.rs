//! ALBERT: factorized embeddings, and groups of layers that share their weights.

use encoder_spec::{EncoderSpec, LayerNormId, LinearId, NormId, PositionIds, TensorId};

use super::{
    Location, Network,
    bert::{self, BertKeys},
    config::ConfigFile,
    norm_of,
};
use crate::ImportError;

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let keys = BertKeys {
        vocabulary: ("vocab_size", 30_000),
        hidden: ("hidden_size", 4096),
        heads: ("num_attention_heads", 64),
        intermediate: ("intermediate_size", 16_384),
        activation: ("hidden_act", "gelu_new"),
        ..BertKeys::BERT
    };
    let mut spec = bert::post_norm(config, &keys)?;
    bert::check_encoder(config)?;
    config.expect("inner_group_num", 1)?;
    spec.embeddings.width = config.size("embedding_size", 128)?;
    // ALBERT projects even to an equal width.
    spec.embeddings.has_projection = true;
    spec.embeddings.positions = Some(bert::positions(config, PositionIds::FromZero)?);
    spec.embeddings.segments = Some(config.size("type_vocab_size", 2)?);
    let groups = config.size("num_hidden_groups", 1)?;
    if groups > spec.layers.len() {
        return Err(config.unsupported("num_hidden_groups", "at most one group for each layer"));
    }
    let network = Network::new(config.validate(spec)?, locate, &["albert.", "model."]);
    Ok(Network { groups: Some(groups), ..network })
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    let (group, module) = match (tensor, norm_of(tensor)) {
        (TensorId::EmbeddingProjection(_), _) => {
            return Location::of("encoder.embedding_hidden_mapping_in", tensor);
        }
        (TensorId::Linear(group, LinearId::Query, _), _) => (group, "attention.query"),
        (TensorId::Linear(group, LinearId::Key, _), _) => (group, "attention.key"),
        (TensorId::Linear(group, LinearId::Value, _), _) => (group, "attention.value"),
        (TensorId::Linear(group, LinearId::AttentionOutput, _), _) => (group, "attention.dense"),
        (TensorId::Linear(group, LinearId::Up, _), _) => (group, "ffn"),
        (TensorId::Linear(group, LinearId::Down, _), _) => (group, "ffn_output"),
        (_, Some(NormId::Layer(group, LayerNormId::AttentionOutput))) => (group, "attention.LayerNorm"),
        (_, Some(NormId::Layer(group, LayerNormId::FeedForwardOutput))) => (group, "full_layer_layer_norm"),
        _ => return bert::locate(spec, tensor),
    };
    Location::of(format!("encoder.albert_layer_groups.{group}.albert_layers.0.{module}"), tensor)
}
