//! RoBERTa, XLM-RoBERTa and CamemBERT: BERT's tensors, with positions counted after the padding id.

use encoder_spec::PositionIds;

use super::{
    Network,
    bert::{self, BertKeys},
    config::ConfigFile,
};
use crate::ImportError;

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let mut spec = bert::post_norm(config, &BertKeys::BERT)?;
    bert::check_encoder(config)?;
    let padding = u32::try_from(config.integer("pad_token_id", -1)?)
        .map_err(|_| config.unsupported("pad_token_id", "a token id: positions are counted from it"))?;
    spec.embeddings.positions = Some(bert::positions(config, PositionIds::AfterPadding(padding))?);
    spec.embeddings.segments = Some(config.size("type_vocab_size", 2)?);
    Ok(Network::new(config.validate(spec)?, bert::locate, &["roberta.", "model."]))
}
