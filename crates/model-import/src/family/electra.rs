//! ELECTRA: BERT with embeddings of a width of their own.

use encoder_spec::{EncoderSpec, PositionIds, TensorId};

use super::{
    Location, Network,
    bert::{self, BertKeys},
    config::ConfigFile,
};
use crate::ImportError;

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let keys = BertKeys {
        hidden: ("hidden_size", 256),
        heads: ("num_attention_heads", 4),
        intermediate: ("intermediate_size", 1024),
        ..BertKeys::BERT
    };
    let mut spec = bert::post_norm(config, &keys)?;
    bert::check_encoder(config)?;
    spec.embeddings.width = config.size("embedding_size", 128)?;
    spec.embeddings.has_projection = spec.embeddings.width != spec.hidden;
    spec.embeddings.positions = Some(bert::positions(config, PositionIds::FromZero)?);
    spec.embeddings.segments = Some(config.size("type_vocab_size", 2)?);
    Ok(Network::new(config.validate(spec)?, locate, &["electra.", "model."]))
}

fn locate(spec: &EncoderSpec, tensor: TensorId) -> Location {
    match tensor {
        TensorId::EmbeddingProjection(_) => Location::of("embeddings_project", tensor),
        _ => bert::locate(spec, tensor),
    }
}
