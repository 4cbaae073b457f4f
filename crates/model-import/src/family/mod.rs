//! The architectures that can be exported. Adding one: a file beside this one, and its line in [`FAMILIES`].

mod bert;
mod distilbert;
pub(crate) mod post_norm;
mod roberta;

use std::{fmt, path::Path};

use post_norm::{Positions, PostNorm};
use serde::Deserialize;

use crate::{ImportError, graph::GraphBuilder, json, safetensors::Weights};

/// Largest number of anything in a `config.json`: far above any known encoder, and low enough that no product of two
/// such numbers overflows.
pub(crate) const MAX_SIZE: usize = 1 << 20;

/// An exporter: the `model_type` of the `config.json` it reads, and how.
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

/// A model of some family, with the sizes of its configuration.
pub(crate) trait Architecture: fmt::Debug + Send + Sync {
    /// Width of a token's embedding.
    fn hidden(&self) -> usize;

    /// The most tokens that a sequence may have.
    fn positions(&self) -> usize;

    /// Rows of the word table.
    fn vocabulary(&self) -> usize;

    /// What may stand before the tensors' names, depending on the class the model was saved as.
    fn prefixes(&self) -> &'static [&'static str];

    /// Sizes and names, if the encoder is one with norms after its residuals.
    fn post_norm(&self) -> Option<PostNorm>;

    /// Adds the whole network: inputs `input_ids` and `attention_mask`, both i64 `[batch, sequence]`, output
    /// `last_hidden_state`, f32 `[batch, sequence, hidden]`.
    fn write(&self, weights: &Weights, graph: &mut GraphBuilder<'_>) -> Result<(), ImportError>;
}

#[derive(Deserialize)]
struct ModelType {
    model_type: String,
}

/// Reads a `config.json`, returning the `model_type` and its exporter; a missing one is reported with `hint`.
pub(crate) fn read(config: &Path, hint: &str) -> Result<(&'static str, Box<dyn Architecture>), ImportError> {
    let ModelType { model_type } = json::read(config, hint)?;
    let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) else {
        let supported = FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
        return Err(ImportError::UnsupportedFamily { path: config.to_owned(), model_type, supported });
    };
    Ok((family.model_type, (family.read)(config)?))
}

/// Families whose position table's first rows, up to the one of the padding id, belong to no token.
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

/// The way in which a family counts positions; `None` if the padding id that it counts from is missing.
pub(crate) fn positions(model_type: &str, padding: Option<i64>) -> Option<Positions> {
    if !AFTER_PADDING.contains(&model_type) {
        return Some(Positions::FromZero);
    }
    padding.filter(|&padding| padding >= 0).map(Positions::AfterPadding)
}

/// Refuses a size with which the model cannot be computed.
pub(crate) fn check_size(config: &Path, name: &str, size: usize) -> Result<(), ImportError> {
    if (1..=MAX_SIZE).contains(&size) {
        return Ok(());
    }
    Err(refuse(config, format!("{name} = {size}"), format!("1 to {MAX_SIZE}")))
}

/// Refuses a setting of `config.json`.
fn refuse(config: &Path, setting: impl Into<String>, expected: impl Into<String>) -> ImportError {
    ImportError::Setting { path: config.to_owned(), setting: setting.into(), expected: expected.into() }
}
