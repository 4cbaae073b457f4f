//! The families of encoders. A family's file maps `config.json` to a specification, and tensors to their names. A new
//! family needs a file in this folder and a line in [`FAMILIES`].

mod albert;
mod bert;
mod config;
mod deberta_v2;
mod distilbert;
mod electra;
mod gemma3;
mod gte;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod qwen3;
mod roberta;
mod t5;

use std::{borrow::Cow, path::Path};

use config::ConfigFile;
use encoder_spec::{EncoderSpec, LinearId, MAX_SIZE, NormId, Part, PositionIds, TensorId};

use crate::{ImportError, head::HeadPlan, weights::Weights};

/// A family, by the `model_type` in `config.json`.
struct Family {
    model_type: &'static str,
    read: fn(&ConfigFile) -> Result<Network, ImportError>,
}

const FAMILIES: &[Family] = &[
    Family { model_type: "bert", read: bert::read },
    Family { model_type: "roberta", read: roberta::read },
    Family { model_type: "xlm-roberta", read: roberta::read },
    Family { model_type: "distilbert", read: distilbert::read },
    Family { model_type: "camembert", read: roberta::read },
    Family { model_type: "electra", read: electra::read },
    Family { model_type: "albert", read: albert::read },
    Family { model_type: "mpnet", read: mpnet::read },
    Family { model_type: "deberta-v2", read: deberta_v2::read },
    Family { model_type: "t5", read: t5::read },
    Family { model_type: "mt5", read: t5::read },
    Family { model_type: "nomic_bert", read: nomic_bert::read },
    Family { model_type: "gte", read: gte::read },
    Family { model_type: "new", read: gte::read },
    Family { model_type: "modernbert", read: modernbert::read },
    Family { model_type: "qwen3", read: qwen3::read },
    Family { model_type: "gemma3_text", read: gemma3::read },
];

/// Reads the layout of a head from `config.json`.
type ReadHead = fn(&ConfigFile) -> Result<HeadPlan, ImportError>;

/// The families of cross-encoders, by `model_type`, with their classification heads.
const CLASSIFIERS: &[(&str, ReadHead)] = &[
    ("bert", bert::classifier),
    ("roberta", roberta::classifier),
    ("xlm-roberta", roberta::classifier),
    ("camembert", roberta::classifier),
    ("modernbert", modernbert::classifier),
];

/// The families of SPLADE models, by `model_type`, with their heads for masked language models.
const MASKED_LM_HEADS: &[(&str, ReadHead)] =
    &[("bert", bert::masked_lm_head), ("distilbert", distilbert::masked_lm_head)];

/// A model's encoder, with the places of its tensors.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) spec: EncoderSpec,
    /// Maximum length that the model was made for, in tokens. Without a position table, longer texts can be computed.
    pub(crate) max_tokens: Option<usize>,
    /// Maximum length if not even the tokenizer states one.
    pub(crate) default_max_tokens: Option<usize>,
    /// Number of groups of successive layers that share their weights; `None` if each layer has its own.
    pub(crate) groups: Option<usize>,
    /// Returns the place of a tensor of the specification. Layers that share weights have the index of their group.
    locate: fn(&EncoderSpec, TensorId) -> Location,
    /// Prefixes that the tensors' names may have, depending on the class that the model was saved as.
    pub(crate) prefixes: &'static [&'static str],
}

/// The place of a tensor in the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    /// The name of the stored tensor.
    pub(crate) name: String,
    /// The rows of a stored tensor that holds several: the first one, and the number of all.
    pub(crate) rows: Option<(usize, usize)>,
}

impl Location {
    /// The weight or bias of a module.
    fn of(module: impl AsRef<str>, tensor: TensorId) -> Self {
        let part = match tensor {
            TensorId::Linear(_, _, part) | TensorId::EmbeddingProjection(part) => part,
            TensorId::Shift(_) => Part::Bias,
            _ => Part::Weight,
        };
        Self { name: format!("{}.{part}", module.as_ref()), rows: None }
    }

    /// The rows of query, key or value in a module that packs them in this order.
    fn in_packed_qkv(module: impl AsRef<str>, tensor: TensorId, spec: &EncoderSpec) -> Self {
        let (query, kv) = (spec.attention.query_width(), spec.attention.kv_width());
        let first = match tensor {
            TensorId::Linear(_, LinearId::Key, _) => query,
            TensorId::Linear(_, LinearId::Value, _) => query + kv,
            _ => 0,
        };
        Self { rows: Some((first, query + 2 * kv)), ..Self::of(module, tensor) }
    }

    /// The first or second half of a module that packs gate and up projection.
    fn in_packed_halves(module: impl AsRef<str>, tensor: TensorId, spec: &EncoderSpec, second: bool) -> Self {
        let half = spec.feed_forward.intermediate;
        Self { rows: Some((if second { half } else { 0 }, 2 * half)), ..Self::of(module, tensor) }
    }

    /// The place of a tensor that no network of the family has.
    fn nowhere(tensor: TensorId) -> Self {
        Self { name: tensor.to_string(), rows: None }
    }
}

impl Network {
    /// The network of a specification whose length is limited by its position table, if by anything.
    fn new(
        spec: EncoderSpec,
        locate: fn(&EncoderSpec, TensorId) -> Location,
        prefixes: &'static [&'static str],
    ) -> Self {
        let max_tokens = spec.max_tokens();
        Self { spec, max_tokens, default_max_tokens: None, groups: None, locate, prefixes }
    }

    /// Returns the place of a tensor.
    pub(crate) fn locate(&self, tensor: TensorId) -> Location {
        let stored = match (tensor, norm_of(tensor)) {
            (TensorId::Linear(layer, linear, part), _) => TensorId::Linear(self.stored(layer), linear, part),
            (TensorId::Scale(_), Some(NormId::Layer(layer, norm))) => {
                TensorId::Scale(NormId::Layer(self.stored(layer), norm))
            }
            (TensorId::Shift(_), Some(NormId::Layer(layer, norm))) => {
                TensorId::Shift(NormId::Layer(self.stored(layer), norm))
            }
            _ => tensor,
        };
        (self.locate)(&self.spec, stored)
    }

    /// Returns the index of the weights of a layer.
    fn stored(&self, layer: usize) -> usize {
        let Some(groups) = self.groups else { return layer };
        // In floating point, as transformers computes it: rounding decides at the borders of groups.
        (layer as f64 / (self.spec.layers.len() as f64 / groups as f64)) as usize
    }

    /// Returns the first layer that has the weights of `layer`.
    pub(crate) fn source_layer(&self, layer: usize) -> usize {
        (0..layer).find(|&other| self.stored(other) == self.stored(layer)).unwrap_or(layer)
    }

    /// Reads a tensor, row-major; its values are finite.
    ///
    /// # Errors
    /// If the network has no such tensor, or the weights do not hold it with the shape that follows from the
    /// configuration.
    pub(crate) fn read<'w>(
        &self,
        weights: &'w Weights,
        tensor: TensorId,
    ) -> Result<Cow<'w, [f32]>, ImportError> {
        let Some(mut shape) = self.spec.shape(tensor) else {
            return Err(weights.missing(&tensor.to_string(), &[]));
        };
        let Location { name, rows } = self.locate(tensor);
        let Some((first, total)) = rows else { return weights.view(&name, &shape) };
        let rows = first..first + shape[0];
        shape[0] = total;
        weights.view_rows(&name, &shape, rows)
    }
}

/// Reads a `config.json` and returns its `model_type` and network; a missing file is reported with `hint`.
pub(crate) fn read(config: &Path, hint: &str) -> Result<(&'static str, Network), ImportError> {
    let config = ConfigFile::read(config, hint)?;
    let model_type = config.model_type()?;
    let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) else {
        let supported = FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
        let (path, model_type) = (config.path().to_owned(), model_type.to_owned());
        return Err(ImportError::UnsupportedFamily { path, model_type, supported });
    };
    Ok((family.model_type, (family.read)(&config)?))
}

/// Returns the classification head of the network in `config`, a `config.json`.
pub(crate) fn classifier(config: &Path) -> Result<HeadPlan, ImportError> {
    let graph = "; a cross-encoder of another one needs an ONNX graph";
    read_head(config, CLASSIFIERS, ("a cross-encoder", graph))
}

/// Returns the head of the masked language model in `config`, a `config.json`.
pub(crate) fn masked_lm_head(config: &Path) -> Result<HeadPlan, ImportError> {
    read_head(config, MASKED_LM_HEADS, ("a sparse encoder (SPLADE)", ""))
}

/// Reads the head of a `kind` of model. `remedy` is the end of the error for a family without this head.
fn read_head(
    config: &Path,
    heads: &[(&str, ReadHead)],
    (kind, remedy): (&str, &str),
) -> Result<HeadPlan, ImportError> {
    let config = ConfigFile::read(config, "it describes the network")?;
    let model_type = config.model_type()?;
    match heads.iter().find(|(family, _)| *family == model_type) {
        Some((_, read)) => read(&config),
        None => {
            let families = heads.iter().map(|(family, _)| *family).collect::<Vec<_>>().join(", ");
            let found = format!("{kind} of model_type `{model_type}` from its weights");
            let expected = format!("the families {families}{remedy}");
            Err(ImportError::unsupported_setting(config.path(), found, expected))
        }
    }
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

/// Returns the way in which a family numbers positions; `None` if the padding id that it counts from is missing or not
/// a token id.
pub(crate) fn position_ids(model_type: &str, padding: Option<i64>) -> Option<PositionIds> {
    if !AFTER_PADDING.contains(&model_type) {
        return Some(PositionIds::FromZero);
    }
    padding.and_then(|padding| u32::try_from(padding).ok()).map(PositionIds::AfterPadding)
}

/// Returns an error for a size with which the model cannot be computed.
pub(crate) fn check_size(config: &Path, name: &str, size: usize) -> Result<(), ImportError> {
    if (1..=MAX_SIZE).contains(&size) {
        return Ok(());
    }
    Err(ImportError::unsupported_setting(config, format!("{name} = {size}"), format!("1 to {MAX_SIZE}")))
}

/// Returns the norm of a tensor, if it is the weight or bias of one.
fn norm_of(tensor: TensorId) -> Option<NormId> {
    match tensor {
        TensorId::Scale(norm) | TensorId::Shift(norm) => Some(norm),
        _ => None,
    }
}
