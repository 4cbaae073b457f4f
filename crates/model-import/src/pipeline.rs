//! The modules after the transformer: pooling, dense layers and normalization, as `modules.json` lists them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    ImportError, family::check_size, json, manifest::ModelManifest, pooling::PoolingMode, weights::Weights,
};

/// The activation of a [`DenseLayer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseActivation {
    /// None.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
}

/// A layer after pooling: `activation(weight · x + bias)`.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseLayer {
    /// Length of the input.
    pub inputs: usize,
    /// Length of the output.
    pub outputs: usize,
    /// The weight, row-major, `[outputs, inputs]`.
    pub weight: Vec<f32>,
    /// The bias, `[outputs]`, if the layer has one.
    pub bias: Option<Vec<f32>>,
    /// The activation.
    pub activation: DenseActivation,
}

/// The head of a model, and the folder of its transformer.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// The folder with `config.json` and the weights.
    pub(crate) transformer: PathBuf,
    pub(crate) pooling: PoolingMode,
    /// Width of the pooled vector, if a file states it.
    pub(crate) hidden: Option<usize>,
    pub(crate) dense: Vec<DenseLayer>,
    pub(crate) normalize: bool,
    /// The files that were read.
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    r#type: String,
}

/// `1_Pooling/config.json`.
#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(alias = "word_embedding_dimension")]
    embedding_dimension: usize,
    /// The name of a mode, or several. Old releases wrote one flag per mode instead.
    pooling_mode: Option<Modes>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Modes {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    bias: bool,
    activation_function: String,
    #[serde(default)]
    use_residual: bool,
    #[serde(flatten)]
    endpoints: ModuleEndpoints,
}

/// The names of a module's input and output. Old releases supported only one vector per text and state neither.
#[derive(Deserialize)]
struct ModuleEndpoints {
    module_input_name: Option<String>,
    module_output_name: Option<String>,
}

impl ModuleEndpoints {
    fn check(&self, path: &Path) -> Result<(), ImportError> {
        const VECTOR: &str = "sentence_embedding";
        let names = [&self.module_input_name, &self.module_output_name];
        match names.into_iter().flatten().find(|name| *name != VECTOR) {
            Some(name) => Err(ImportError::unsupported_setting(
                path,
                format!("a module that reads or writes `{name}`"),
                format!("`{VECTOR}`, the text's vector"),
            )),
            None => Ok(()),
        }
    }
}

impl Pipeline {
    /// Reads `modules.json` and the files that it names. Without `modules.json`, the manifest must state its content.
    pub(crate) fn read(root: &Path, manifest: Option<&ModelManifest>) -> Result<Self, ImportError> {
        let list = root.join("modules.json");
        if let Some(modules) = json::read_optional::<Vec<Module>>(&list)? {
            return Self::from_modules(root, &list, &modules);
        }
        let Some((pooling, normalize)) =
            manifest.and_then(|manifest| Some((manifest.pooling?, manifest.normalize?)))
        else {
            return Err(ImportError::Missing {
                path: list,
                hint: "it lists how token embeddings become a vector; a folder without it needs a `model.toml` that \
                       states `pooling` and `normalize`"
                    .to_owned(),
            });
        };
        let (transformer, files) = (root.to_owned(), vec![]);
        Ok(Self { transformer, pooling, hidden: None, dense: vec![], normalize, files })
    }

    fn from_modules(root: &Path, list: &Path, modules: &[Module]) -> Result<Self, ImportError> {
        let mut files = vec![list.to_owned()];
        let mut transformer = None;
        let mut pooling = None;
        let mut dense: Vec<DenseLayer> = vec![];
        let mut normalize = false;
        for (position, module) in modules.iter().enumerate() {
            // A trailing slash would give one file two names.
            let folder = match module.path.trim_end_matches('/') {
                "" => root.to_owned(),
                path => json::resolve_within(root, path, list)?,
            };
            // Releases differ in the module path of a class, not in its name.
            let class = module
                .r#type
                .strip_prefix("sentence_transformers.")
                .and_then(|class| class.rsplit('.').next());
            match class {
                Some("Transformer") if position == 0 => transformer = Some(folder),
                Some("Pooling") if position == 1 && transformer.is_some() => {
                    let config = folder.join("config.json");
                    pooling = Some(read_pooling(&config)?);
                    files.push(config);
                }
                Some("Dense") if pooling.is_some() && !normalize => {
                    let config = folder.join("config.json");
                    dense.push(read_dense(&folder, &config)?);
                    files.push(config);
                    files.extend(Weights::files(&folder)?);
                }
                Some("Normalize") if pooling.is_some() && !normalize => {
                    let config = folder.join("config.json");
                    if let Some(endpoints) = json::read_optional::<ModuleEndpoints>(&config)? {
                        endpoints.check(&config)?;
                        files.push(config);
                    }
                    normalize = true;
                }
                _ => {
                    let (path, module) = (list.to_owned(), module.r#type.clone());
                    return Err(ImportError::UnsupportedModule { path, position, module });
                }
            }
        }
        let (Some(transformer), Some((pooling, hidden))) = (transformer, pooling) else {
            let (path, module) = (list.to_owned(), "missing".to_owned());
            return Err(ImportError::UnsupportedModule { path, position: modules.len(), module });
        };
        let mut width = hidden;
        for (index, layer) in dense.iter().enumerate() {
            if layer.inputs != width {
                return Err(ImportError::unsupported_setting(
                    list,
                    format!("a chain whose Dense {index} takes {} values", layer.inputs),
                    format!("the module before it yields {width}"),
                ));
            }
            width = layer.outputs;
        }
        Ok(Self { transformer, pooling, hidden: Some(hidden), dense, normalize, files })
    }
}

/// Reads the pooling mode that is on, and the width of the pooled vector.
fn read_pooling(path: &Path) -> Result<(PoolingMode, usize), ImportError> {
    let config: PoolingConfig = json::read(path, "it states the pooling mode")?;
    let on: Vec<&str> = match &config.pooling_mode {
        Some(Modes::One(mode)) => vec![mode],
        Some(Modes::Several(modes)) => modes.iter().map(String::as_str).collect(),
        None => {
            let flags = config
                .rest
                .iter()
                .filter(|(key, value)| key.starts_with("pooling_mode") && value.as_bool() != Some(false));
            flags.map(|(key, _)| key.as_str()).collect()
        }
    };
    let mode = match on[..] {
        ["mean" | "pooling_mode_mean_tokens"] => PoolingMode::Mean,
        ["cls" | "pooling_mode_cls_token"] => PoolingMode::Cls,
        ["max" | "pooling_mode_max_tokens"] => PoolingMode::Max,
        ["lasttoken" | "pooling_mode_lasttoken"] => PoolingMode::LastToken,
        ["mean_sqrt_len_tokens" | "pooling_mode_mean_sqrt_len_tokens"] => PoolingMode::MeanSqrtLen,
        ["weightedmean" | "pooling_mode_weightedmean_tokens"] => PoolingMode::WeightedMean,
        _ => {
            let found = if on.is_empty() { "none".to_owned() } else { on.join(", ") };
            return Err(ImportError::UnsupportedPooling { path: path.to_owned(), found });
        }
    };
    Ok((mode, config.embedding_dimension))
}

fn read_dense(folder: &Path, path: &Path) -> Result<DenseLayer, ImportError> {
    let config: DenseConfig = json::read(path, "it describes the dense layer")?;
    config.endpoints.check(path)?;
    if config.use_residual {
        let expected = "a dense layer whose input is not added to its output";
        return Err(ImportError::unsupported_setting(path, "use_residual = true", expected));
    }
    let activation = match config.activation_function.as_str() {
        "torch.nn.modules.activation.Tanh" => DenseActivation::Tanh,
        "torch.nn.modules.linear.Identity" => DenseActivation::Identity,
        other => {
            return Err(ImportError::unsupported_setting(
                path,
                format!("the activation `{other}`"),
                "torch.nn.modules.activation.Tanh or torch.nn.modules.linear.Identity",
            ));
        }
    };
    let (inputs, outputs) = (config.in_features, config.out_features);
    check_size(path, "in_features", inputs)?;
    check_size(path, "out_features", outputs)?;
    let weights = Weights::open(folder, &[])?;
    let weight = weights.tensor("linear.weight", &[outputs, inputs])?;
    let bias = if config.bias { Some(weights.tensor("linear.bias", &[outputs])?) } else { None };
    Ok(DenseLayer { inputs, outputs, weight, bias, activation })
}
