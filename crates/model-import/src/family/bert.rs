//! BERT: positions counted from zero, segment embeddings, and tensor names shared with RoBERTa.

use std::path::Path;

use serde::Deserialize;

use super::{
    Architecture,
    post_norm::{Activation, Positions, PostNorm, TensorNames},
};
use crate::{ImportError, json};

/// `config.json`, with the names and meaning of transformers' `BertConfig`.
#[derive(Deserialize)]
pub(super) struct BertConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    pub(super) pad_token_id: Option<i64>,
}

const NAMES: TensorNames = TensorNames {
    layer: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

pub(super) fn read(path: &Path) -> Result<Box<dyn Architecture>, ImportError> {
    let config: BertConfig = json::read(path, "")?;
    Ok(Box::new(config.encoder(path, Positions::FromZero, &["bert.", "model."])?))
}

impl BertConfig {
    /// Returns the encoder of this configuration, after checking every setting that would change its vectors.
    pub(super) fn encoder(
        self,
        path: &Path,
        positions: Positions,
        prefixes: &'static [&'static str],
    ) -> Result<PostNorm, ImportError> {
        if let Some(kind) = self.position_embedding_type.filter(|kind| kind != "absolute") {
            let setting = format!("position_embedding_type `{kind}`");
            return Err(ImportError::unsupported_setting(path, setting, "only `absolute`"));
        }
        if self.is_decoder {
            return Err(ImportError::unsupported_setting(path, "is_decoder = true", "only encoders"));
        }
        PostNorm {
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            layers: self.num_hidden_layers,
            intermediate: self.intermediate_size,
            vocabulary: self.vocab_size,
            position_rows: self.max_position_embeddings,
            positions,
            segments: Some(self.type_vocab_size),
            epsilon: self.layer_norm_eps,
            activation: Activation::parse(path, &self.hidden_act)?,
            names: &NAMES,
            prefixes,
        }
        .checked(path)
    }
}
