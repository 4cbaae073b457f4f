//! DistilBERT: BERT without segments, with tensor names of its own.

use std::path::Path;

use serde::Deserialize;

use super::{
    Architecture,
    post_norm::{Activation, Positions, PostNorm, TensorNames},
};
use crate::{ImportError, json};

/// Fixed in transformers' `modeling_distilbert.py`; not part of the configuration.
const EPSILON: f32 = 1e-12;

/// `config.json`, with the names and meaning of transformers' `DistilBertConfig`.
#[derive(Deserialize)]
struct DistilBertConfig {
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    activation: String,
}

const NAMES: TensorNames = TensorNames {
    layer: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    output_norm: "output_layer_norm",
};

pub(super) fn read(path: &Path) -> Result<Box<dyn Architecture>, ImportError> {
    let config: DistilBertConfig = json::read(path, "")?;
    let encoder = PostNorm {
        hidden: config.dim,
        heads: config.n_heads,
        layers: config.n_layers,
        intermediate: config.hidden_dim,
        vocabulary: config.vocab_size,
        position_rows: config.max_position_embeddings,
        positions: Positions::FromZero,
        segments: None,
        epsilon: EPSILON,
        activation: Activation::parse(path, &config.activation)?,
        names: &NAMES,
        prefixes: &["distilbert.", "model."],
    };
    Ok(Box::new(encoder.checked(path)?))
}
