//! RoBERTa and XLM-RoBERTa: BERT's tensors, with positions counted after the padding id.

use std::path::Path;

use super::{Architecture, bert, post_norm::Positions};
use crate::{ImportError, json};

pub(super) fn read(path: &Path) -> Result<Box<dyn Architecture>, ImportError> {
    let config: bert::BertConfig = json::read(path, "")?;
    let unsupported = |setting, expected| Err(ImportError::unsupported_setting(path, setting, expected));
    match config.pad_token_id {
        Some(padding @ 0..) => {
            Ok(Box::new(config.encoder(path, Positions::AfterPadding(padding), &["roberta.", "model."])?))
        }
        Some(negative) => {
            unsupported(format!("pad_token_id {negative}"), "a token id: positions are counted from it")
        }
        None => unsupported("no `pad_token_id`".to_owned(), "a token id: positions are counted from it"),
    }
}
