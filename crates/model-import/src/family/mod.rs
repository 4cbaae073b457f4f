//! The architectures that can be exported. A new one needs a file in this folder and a line in [`FAMILIES`].

mod bert;
mod distilbert;
pub(crate) mod post_norm;
mod roberta;

use std::{fmt, path::Path};

use post_norm::{Positions, PostNorm};
use serde::Deserialize;

use crate::{ImportError, graph_builder::GraphBuilder, json, weights::Weights};

/// Largest size in a `config.json`: far above any known encoder, and low enough that no product of two sizes overflows.
pub(crate) const MAX_SIZE: usize = 1 << 20;

/// An exporter, with the `model_type` of the `config.json` that it reads.
struct Family {
    model_type: &'static str,
    read: fn(config: &Path) -> Result<Box<dyn Architecture>, ImportError>,
}

const FAMILIES: &[Family] = &[
    Family { model_type: "bert", read: bert::read },
    Family { model_type: "roberta", read: roberta::read },
    Family { model_type: "xlm-roberta", read: roberta::read },
    Family { model_type: "distilbert", read: distilbert::read },
];

/// A model's architecture, with the sizes of its configuration.
pub(crate) trait Architecture: fmt::Debug + Send + Sync {
    /// Returns the width of a token's embedding.
    fn hidden(&self) -> usize;

    /// Returns the maximum number of tokens of a sequence.
    fn positions(&self) -> usize;

    /// Returns the number of rows of the token embedding table.
    fn vocabulary(&self) -> usize;

    /// Returns the prefixes that the tensors' names may have, depending on the class that the model was saved as.
    fn prefixes(&self) -> &'static [&'static str];

    /// Returns sizes and names if this is a post-norm encoder.
    fn post_norm(&self) -> Option<PostNorm>;

    /// Adds the whole network to a graph: inputs `input_ids` and `attention_mask`, both i64 `[batch, sequence]`, output
    /// `last_hidden_state`, f32 `[batch, sequence, hidden]`.
    fn write(&self, weights: &Weights, graph: &mut GraphBuilder<'_>) -> Result<(), ImportError>;
}

#[derive(Deserialize)]
struct ModelType {
    model_type: String,
}

/// Reads a `config.json` and returns its `model_type` and exporter; a missing file is reported with `hint`.
pub(crate) fn read(config: &Path, hint: &str) -> Result<(&'static str, Box<dyn Architecture>), ImportError> {
    let ModelType { model_type } = json::read(config, hint)?;
    let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) else {
        let supported = FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
        return Err(ImportError::UnsupportedFamily { path: config.to_owned(), model_type, supported });
    };
    Ok((family.model_type, (family.read)(config)?))
}

/// The families that count positions from the row after the padding id. Earlier rows belong to no token.
const AFTER_PADDING: &[&str] = &[
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mluke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
];

/// Returns the way in which a family counts positions; `None` if the padding id that it counts from is missing.
pub(crate) fn positions(model_type: &str, padding: Option<i64>) -> Option<Positions> {
    if !AFTER_PADDING.contains(&model_type) {
        return Some(Positions::FromZero);
    }
    padding.filter(|&padding| padding >= 0).map(Positions::AfterPadding)
}

/// Returns an error for a size with which the model cannot be computed.
pub(crate) fn check_size(config: &Path, name: &str, size: usize) -> Result<(), ImportError> {
    if (1..=MAX_SIZE).contains(&size) {
        return Ok(());
    }
    Err(ImportError::unsupported_setting(config, format!("{name} = {size}"), format!("1 to {MAX_SIZE}")))
}
