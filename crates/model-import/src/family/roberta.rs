//! RoBERTa, XLM-RoBERTa and CamemBERT: BERT's tensors, with positions counted after the padding id.

use encoder_spec::{DenseActivation, PoolingMode, PositionIds};

use super::{
    Network,
    bert::{self, BertKeys},
    config::ConfigFile,
};
use crate::{
    ImportError,
    head::{HeadPlan, LayerPlan},
};

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let mut spec = bert::post_norm(config, &BertKeys::BERT)?;
    bert::check_encoder(config)?;
    let padding = u32::try_from(config.integer("pad_token_id", -1)?)
        .map_err(|_| config.unsupported("pad_token_id", "a token id: positions are counted from it"))?;
    spec.embeddings.positions = Some(bert::positions(config, PositionIds::AfterPadding(padding))?);
    spec.embeddings.segments = Some(config.size("type_vocab_size", 2)?);
    Ok(Network::new(config.validate(spec)?, bert::locate, &["roberta.", "model."]))
}

/// The head of `RobertaForSequenceClassification` and its likes: two linear layers over the first token.
pub(super) fn classifier(config: &ConfigFile) -> Result<HeadPlan, ImportError> {
    let (hidden, default) = BertKeys::BERT.hidden;
    let dense = LayerPlan::Dense {
        weight: "classifier.dense.weight",
        bias: Some("classifier.dense.bias"),
        outputs: config.size(hidden, default)?,
        activation: DenseActivation::Tanh,
    };
    let layers = vec![dense, bert::score_layer("classifier.out_proj.weight", "classifier.out_proj.bias")];
    Ok(HeadPlan { pooling: PoolingMode::Cls, token_layers: vec![], layers })
}
