//! The modules after the transformer, as `modules.json` lists them: pooling, dense layers and norms; or the task of a
//! model whose head lies next to its network.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use encoder_spec::{DenseActivation, DenseLayer, HeadLayerNorm, HeadModule, HeadSpec, PoolingMode, Task};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    ImportError,
    cross_encoder::ClassifierConfig,
    family::{self, Network, check_size},
    head::HeadPlan,
    json,
    manifest::ModelManifest,
    weights::Weights,
};

/// The list of a folder's modules.
pub(crate) const MODULES: &str = "modules.json";

/// The keys and names of the pooling modes. Old releases wrote one flag per mode, and concatenated in this order.
const POOLINGS: [(&str, &str, PoolingMode); 6] = [
    ("pooling_mode_cls_token", "cls", PoolingMode::Cls),
    ("pooling_mode_max_tokens", "max", PoolingMode::Max),
    ("pooling_mode_mean_tokens", "mean", PoolingMode::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", "weightedmean", PoolingMode::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", PoolingMode::LastToken),
];

/// The head of a model, and the folder of its transformer.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// The folder with `config.json` and the weights.
    pub(crate) transformer: PathBuf,
    pub(crate) task: Task,
    /// The modules after the transformer. A head whose tensors lie next to the network's is added when these are read.
    pub(crate) head: HeadSpec,
    /// Width of a token's embedding, if a file states it.
    pub(crate) hidden: Option<usize>,
    /// The last module normalizes.
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
    #[serde(default = "yes")]
    include_prompt: bool,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Modes {
    One(String),
    Several(Vec<String>),
}

/// `2_Dense/config.json`. The defaults are those of sentence-transformers.
#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default = "tanh")]
    activation_function: String,
    #[serde(default)]
    use_residual: bool,
    #[serde(flatten)]
    endpoints: ModuleEndpoints,
}

fn yes() -> bool {
    true
}

fn tanh() -> String {
    "torch.nn.modules.activation.Tanh".to_owned()
}

/// `2_LayerNorm/config.json`.
#[derive(Deserialize)]
struct LayerNormConfig {
    dimension: usize,
}

/// `1_SpladePooling/config.json`.
#[derive(Deserialize)]
struct SpladePoolingConfig {
    #[serde(default = "max")]
    pooling_strategy: String,
    #[serde(default = "relu")]
    activation_function: String,
}

fn max() -> String {
    "max".to_owned()
}

fn relu() -> String {
    "relu".to_owned()
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
        let list = root.join(MODULES);
        if let Some(modules) = json::read_optional::<Vec<Module>>(&list)? {
            return Self::from_modules(root, &list, &modules);
        }
        let transformer = root.to_owned();
        let Some((pooling, normalize)) =
            manifest.and_then(|manifest| Some((manifest.pooling?, manifest.normalize?)))
        else {
            let config = ClassifierConfig::read(root)?;
            if config.is_late_interaction() {
                return Err(ImportError::LateInteraction { path: root.join("config.json") });
            }
            if config.is_classifier() {
                return Ok(Self::cross_encoder(transformer, vec![]));
            }
            return Err(ImportError::Missing {
                path: list,
                hint: "it lists how token embeddings become a vector; a folder without it needs a `model.toml` that \
                       states `pooling` and `normalize`"
                    .to_owned(),
            });
        };
        let (task, head, files) = (Task::Embed, pooling.into(), vec![]);
        Ok(Self { transformer, task, head, hidden: None, normalize, files })
    }

    /// A cross-encoder, whose head lies next to its network.
    fn cross_encoder(transformer: PathBuf, files: Vec<PathBuf>) -> Self {
        let head = HeadSpec { poolings: vec![], ..HeadSpec::from(PoolingMode::Cls) };
        Self { transformer, task: Task::Rerank, head, hidden: None, normalize: false, files }
    }

    fn from_modules(root: &Path, list: &Path, modules: &[Module]) -> Result<Self, ImportError> {
        let mut files = vec![list.to_owned()];
        let mut transformer = None;
        let is_late = |module: &Module| {
            let class = &module.r#type;
            class.starts_with("pylate.") || class.contains(".multi_vector")
        };
        if modules.iter().any(is_late) {
            return Err(ImportError::LateInteraction { path: list.to_owned() });
        }
        let mut pooling: Option<(HeadSpec, usize)> = None;
        for (position, module) in modules.iter().enumerate() {
            // A trailing slash would give one file two names.
            let folder = match module.path.trim_end_matches('/') {
                "" => root.to_owned(),
                path => json::resolve_within(root, path, list)?,
            };
            let config = folder.join("config.json");
            // Releases differ in the module path of a class, not in its name.
            let class = module
                .r#type
                .strip_prefix("sentence_transformers.")
                .and_then(|class| class.rsplit('.').next());
            match (class, &mut pooling) {
                (Some("Transformer" | "MLMTransformer"), None) if position == 0 => transformer = Some(folder),
                (Some("SpladePooling"), None) if position == 1 && modules.len() == 2 => {
                    files.push(config.clone());
                    let (task, head) = (Task::EmbedSparse, read_splade_pooling(&config)?);
                    let Some(transformer) = transformer else { break };
                    return Ok(Self { transformer, task, head, hidden: None, normalize: false, files });
                }
                (Some("Pooling"), None) if position == 1 => {
                    pooling = Some(read_pooling(&config)?);
                    files.push(config);
                }
                (Some("Dense"), Some((head, _))) => {
                    head.modules.push(HeadModule::Dense(read_dense(&folder, &config)?));
                    files.push(config);
                    files.extend(Weights::files(&folder)?);
                }
                (Some("LayerNorm"), Some((head, _))) => {
                    head.modules.push(HeadModule::LayerNorm(read_layer_norm(&folder, &config)?));
                    files.push(config);
                    files.extend(Weights::files(&folder)?);
                }
                (Some("Normalize"), Some((head, _))) => {
                    // Old releases write no file.
                    if let Some(endpoints) = json::read_optional::<ModuleEndpoints>(&config)? {
                        endpoints.check(&config)?;
                        files.push(config);
                    }
                    head.modules.push(HeadModule::Normalize);
                }
                _ => {
                    let (path, module) = (list.to_owned(), module.r#type.clone());
                    return Err(ImportError::UnsupportedModule { path, position, module });
                }
            }
        }
        if let (Some(folder), [_]) = (&transformer, modules)
            && ClassifierConfig::read(folder)?.is_classifier()
        {
            return Ok(Self::cross_encoder(folder.clone(), files));
        }
        let (Some(transformer), Some((mut head, hidden))) = (transformer, pooling) else {
            let (path, module) = (list.to_owned(), "missing".to_owned());
            return Err(ImportError::UnsupportedModule { path, position: modules.len(), module });
        };
        let mut normalize = false;
        while let Some(HeadModule::Normalize) = head.modules.last() {
            head.modules.pop();
            normalize = true;
        }
        Ok(Self { transformer, task: Task::Embed, head, hidden: Some(hidden), normalize, files })
    }
}

impl Pipeline {
    /// Reads the layout of the head whose tensors lie next to those of the network in `config`, if the task has such a
    /// head.
    pub(crate) fn head_plan(&self, config: &Path) -> Result<Option<HeadPlan>, ImportError> {
        match self.task {
            Task::Embed => Ok(None),
            Task::Rerank => family::classifier(config).map(Some),
            Task::EmbedSparse => family::masked_lm_head(config).map(Some),
        }
    }

    /// Adds the head whose tensors lie next to those of `network`, described by `config`, if the task has such a head.
    pub(crate) fn read_head(&mut self, config: &Path, network: &Network) -> Result<(), ImportError> {
        let Some(plan) = self.head_plan(config)? else { return Ok(()) };
        let weights = Weights::open(&self.transformer, network.prefixes)?;
        let HeadSpec { token_modules, poolings, mut modules, .. } =
            plan.read(&weights, network.spec.hidden)?;
        modules.append(&mut self.head.modules);
        self.head = HeadSpec { token_modules, poolings, modules, ..self.head.clone() };
        Ok(())
    }
}

/// Reads the pooling modes, and the width of a token's embedding.
fn read_pooling(path: &Path) -> Result<(HeadSpec, usize), ImportError> {
    let config: PoolingConfig = json::read(path, "it states the pooling mode")?;
    check_size(path, "embedding_dimension", config.embedding_dimension)?;
    let unsupported = |found: &str| ImportError::UnsupportedPooling {
        path: path.to_owned(),
        found: found.to_owned(),
        supported: POOLINGS.map(|(_, name, _)| format!("`{name}`")).join(", "),
    };
    let by_name = |name: &String| {
        let known = POOLINGS.iter().find(|(_, known, _)| known == name);
        known.map(|&(.., mode)| mode).ok_or_else(|| unsupported(name))
    };
    let poolings = match &config.pooling_mode {
        Some(Modes::One(name)) => vec![by_name(name)?],
        Some(Modes::Several(names)) if names.is_empty() => return Err(unsupported("an empty list")),
        Some(Modes::Several(names)) => names.iter().map(by_name).collect::<Result<_, _>>()?,
        None => {
            let is_known = |key: &str| POOLINGS.iter().any(|(flag, ..)| *flag == key);
            let unknown = config.rest.iter().find(|(key, value)| {
                key.starts_with("pooling_mode")
                    && **value != Value::Bool(false)
                    && !(is_known(key) && value.is_boolean())
            });
            if let Some((key, value)) = unknown {
                return Err(unsupported(&format!("{key} = {value}")));
            }
            let on = POOLINGS.iter().filter(|(flag, ..)| config.rest.get(*flag) == Some(&Value::Bool(true)));
            let on: Vec<PoolingMode> = on.map(|&(.., mode)| mode).collect();
            // sentence-transformers' default.
            if on.is_empty() { vec![PoolingMode::Mean] } else { on }
        }
    };
    let head =
        HeadSpec { poolings, include_prompt: config.include_prompt, ..HeadSpec::from(PoolingMode::Mean) };
    Ok((head, config.embedding_dimension))
}

/// Reads the pooling of SPLADE. The layers before it lie next to the network.
fn read_splade_pooling(path: &Path) -> Result<HeadSpec, ImportError> {
    let config: SpladePoolingConfig = json::read(path, "it states the pooling of a sparse encoder")?;
    let unsupported = |key: &str, found: &str, expected: &str| {
        Err(ImportError::unsupported_setting(path, format!("{key} `{found}`"), expected))
    };
    if config.pooling_strategy != "max" {
        return unsupported("pooling_strategy", &config.pooling_strategy, "only `max`");
    }
    // Both activations grow with the logit, so they are applied once, to the maximum.
    let activations = match config.activation_function.as_str() {
        "relu" => 1,
        "log1p_relu" => 2,
        other => return unsupported("activation_function", other, "`relu` or `log1p_relu`"),
    };
    let modules = vec![HeadModule::Log1pRelu; activations];
    Ok(HeadSpec { modules, ..HeadSpec::from(PoolingMode::Max) })
}

fn read_dense(folder: &Path, path: &Path) -> Result<DenseLayer, ImportError> {
    let config: DenseConfig = json::read(path, "it describes the dense layer")?;
    config.endpoints.check(path)?;
    if config.use_residual {
        let expected = "a dense layer whose input is not added to its output";
        return Err(ImportError::unsupported_setting(path, "use_residual = true", expected));
    }
    let name = &config.activation_function;
    let activation = DenseActivation::from_torch(name).ok_or_else(|| {
        let names: Vec<_> = DenseActivation::NAMES.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of PyTorch's modules {}", names.join(", "));
        ImportError::unsupported_setting(path, format!("activation_function `{name}`"), expected)
    })?;
    let (inputs, outputs) = (config.in_features, config.out_features);
    check_size(path, "in_features", inputs)?;
    check_size(path, "out_features", outputs)?;
    let weights = Weights::open(folder, &[])?;
    let weight = weights.tensor("linear.weight", &[outputs, inputs])?;
    let bias = if config.bias { Some(weights.tensor("linear.bias", &[outputs])?) } else { None };
    Ok(DenseLayer { inputs, outputs, weight, bias, activation })
}

fn read_layer_norm(folder: &Path, path: &Path) -> Result<HeadLayerNorm, ImportError> {
    let LayerNormConfig { dimension } = json::read(path, "it states the size of the layer norm")?;
    check_size(path, "dimension", dimension)?;
    let weights = Weights::open(folder, &[])?;
    let weight = weights.tensor("norm.weight", &[dimension])?;
    let bias = weights.tensor("norm.bias", &[dimension])?;
    Ok(HeadLayerNorm { weight, bias, epsilon: HeadLayerNorm::DEFAULT_EPSILON })
}
