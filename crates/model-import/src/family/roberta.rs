//! RoBERTa and XLM-RoBERTa: BERT's tensors, with positions counted after the padding id.

use std::path::Path;

use super::{Architecture, bert, post_norm::Positions, refuse};
use crate::{ImportError, json};

pub(super) fn read(path: &Path) -> Result<Box<dyn Architecture>, ImportError> {
    let config: bert::Config = json::read(path, "")?;
    match config.pad_token_id {
        Some(padding @ 0..) => {
            Ok(Box::new(config.encoder(path, Positions::AfterPadding(padding), &["roberta.", "model."])?))
        }
        Some(negative) => Err(refuse(
            path,
            format!("pad_token_id {negative}"),
            "a token's id, which positions are counted from",
        )),
        None => Err(refuse(path, "no `pad_token_id`", "positions are counted from it")),
    }
}
