//! The properties of a model, from the files of its folder: everything that decides a vector is read, and nothing is
//! guessed.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use encoder_spec::{DenseActivation, HeadSpec, MAX_SIZE, PositionIds, Task};
use serde::Deserialize;

use crate::{
    DownloadSource, ImportError, ModelManifest,
    cross_encoder::{self, ClassifierConfig, LIBRARY_CONFIG},
    family::{self, Network},
    file::{self, MAX_TOKENIZER_BYTES},
    json, onnx_file,
    pipeline::{MODULES, Pipeline},
    weights::Weights,
    wordpiece::{SAVE_AGAIN, VOCABULARY, WordPiece},
};

/// The file names under which sentence-transformers looks for the transformer's settings.
const SENTENCE_CONFIGS: &[&str] = &[
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// A tokenizer's limit from which on it has none. transformers writes 1e30.
const NO_LIMIT: usize = 1_000_000_000_000;

/// A folder whose configuration has been read and found complete. Its weights have not been read yet.
#[derive(Debug)]
pub struct ModelFolder {
    root: PathBuf,
    manifest: Option<ModelManifest>,
    model_type: String,
    pub(crate) source: ModelSource,
    tokenizer: PathBuf,
    max_input_tokens: usize,
    hidden: usize,
    dimensions: usize,
    vocab_size: Option<usize>,
    pipeline: Pipeline,
    score_activation: DenseActivation,
    has_token_types: bool,
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
    /// Every file that decides a vector, weights included.
    pub(crate) files: Vec<PathBuf>,
}

/// The source of the transformer.
#[derive(Debug)]
pub(crate) enum ModelSource {
    /// Weights of a known network.
    Weights { folder: PathBuf, network: Box<Network> },
    /// A graph that came with the folder.
    Onnx(ReadyMadeGraph),
}

/// A graph that came with the folder.
#[derive(Debug)]
pub(crate) struct ReadyMadeGraph {
    pub(crate) path: PathBuf,
    /// The way in which the family counts positions, for a graph that has them as an input; `None` if `config.json`
    /// does not say.
    pub(crate) positions: Option<PositionIds>,
}

/// The sizes of the network that the rest of the folder must match.
struct Sizes {
    hidden: usize,
    limits: TokenLimits,
    /// Rows of the token embedding table, if known.
    vocab_size: Option<usize>,
}

/// Limits of a text's length by the network, in tokens.
#[derive(Default)]
struct TokenLimits {
    /// Maximum number of tokens that have a position, if limited and known.
    computable: Option<usize>,
    /// Maximum length that the model was made for. Only a stated length may be longer.
    configured: Option<usize>,
    /// Length if neither the folder nor the tokenizer states one.
    default: Option<usize>,
}

impl TokenLimits {
    fn of(network: &Network) -> Self {
        let (configured, default) = (network.max_tokens, network.default_max_tokens);
        Self { computable: network.spec.max_tokens(), configured, default }
    }
}

/// `sentence_bert_config.json`.
#[derive(Deserialize, Default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
    transformer_task: Option<String>,
    /// The computation for each kind of input. Only texts matter here.
    modality_config: Option<serde_json::Value>,
    module_output_name: Option<String>,
}

impl SentenceConfig {
    /// Checks that the output of the transformer is the one that the task needs, which old releases do not state.
    fn check(&self, path: &Path, task: Task) -> Result<(), ImportError> {
        let [transformer_task, output, module_output] = match task {
            Task::Embed => ["feature-extraction", "last_hidden_state", "token_embeddings"],
            Task::Rerank => ["sequence-classification", "logits", "scores"],
            Task::EmbedSparse => ["fill-mask", "logits", "token_embeddings"],
        };
        let of_texts = |key| self.modality_config.as_ref()?.pointer(key)?.as_str();
        for (key, found, expected) in [
            ("transformer_task", self.transformer_task.as_deref(), transformer_task),
            ("modality_config.text.method", of_texts("/text/method"), "forward"),
            ("modality_config.text.method_output_name", of_texts("/text/method_output_name"), output),
            ("module_output_name", self.module_output_name.as_deref(), module_output),
        ] {
            if let Some(found) = found.filter(|&found| found != expected) {
                return Err(ImportError::unsupported_setting(
                    path,
                    format!("{key} `{found}`"),
                    format!("`{expected}`"),
                ));
            }
        }
        Ok(())
    }
}

/// `config_sentence_transformers.json`.
#[derive(Deserialize)]
struct LibraryConfig {
    default_prompt_name: Option<String>,
    prompts: Option<BTreeMap<String, Option<String>>>,
}

/// `tokenizer_config.json`. A missing limit is written as 1e30.
#[derive(Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

/// The parts of `tokenizer.json` that matter here.
#[derive(Deserialize)]
struct TokenizerFile {
    normalizer: Option<Normalizer>,
    #[serde(rename = "model")]
    _model: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
struct Normalizer {
    r#type: String,
    #[serde(default)]
    lowercase: bool,
    #[serde(default)]
    normalizers: Vec<Normalizer>,
}

impl Normalizer {
    fn lowercases(&self) -> bool {
        self.lowercase || self.r#type == "Lowercase" || self.normalizers.iter().any(Self::lowercases)
    }
}

/// The parts of `config.json` that are needed for an architecture without exporter.
#[derive(Deserialize)]
struct AnyConfig {
    model_type: String,
    hidden_size: Option<usize>,
    dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    pad_token_id: Option<i64>,
}

impl ModelFolder {
    /// Reads a folder in sentence-transformers' layout, or a plain transformers folder whose `model.toml` states
    /// `pooling`, `normalize` and `max_input_tokens`.
    ///
    /// # Errors
    /// Any [`ImportError`], except those about single tensors and about writing: those come from [`crate::import`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self, ImportError> {
        Self::open_with_graph(root, None)
    }

    /// Reads a folder as [`open`](Self::open) does, but with the ONNX graph at the path `onnx_file`, relative to the
    /// folder, instead of weights or other graphs.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and if there is no such file or the path leaves the folder.
    pub fn open_with_graph(root: impl AsRef<Path>, onnx_file: Option<&Path>) -> Result<Self, ImportError> {
        let root = root.as_ref();
        if !root.is_dir() {
            let hint = "expected a model folder".to_owned();
            return Err(ImportError::Missing { path: root.to_owned(), hint });
        }
        let manifest_path = root.join(ModelManifest::FILE);
        let manifest = if manifest_path.exists() { Some(ModelManifest::load(&manifest_path)?) } else { None };
        let mut pipeline = Pipeline::read(root, manifest.as_ref())?;
        let folder = &pipeline.transformer.clone();
        let config = folder.join("config.json");
        let mut files = pipeline.files.clone();
        files.push(config.clone());

        let known = family::read(&config, &manifest_hint(manifest.as_ref()));
        // Weights come first if both are possible: the exported graph is laid out for speed.
        let has_weights = Weights::exist(folder);
        // A cross-encoder's graph contains its head.
        let is_reranker = pipeline.task == Task::Rerank;
        let head = if is_reranker { pipeline.head_plan(&config).map(drop) } else { Ok(()) };
        let ready_made = onnx_file::find(root, onnx_file)?
            .filter(|_| onnx_file.is_some() || known.is_err() || head.is_err() || !has_weights);
        if ready_made.is_none()
            && let Some(reason) = needs_graph(&known, has_weights).or_else(|| needs_graph(&head, has_weights))
            && let Some(graphs) = onnx_file::describe_graphs(root)
        {
            return Err(ImportError::ChooseGraph { root: root.to_owned(), reason, graphs });
        }
        let (model_type, source, sizes) = match (ready_made, known) {
            (
                Some(graph),
                known @ (Ok(_) | Err(ImportError::UnsupportedFamily { .. } | ImportError::Setting { .. })),
            ) => {
                let any: AnyConfig = json::read(&config, "")?;
                let Some(hidden) = pipeline.hidden.or(any.hidden_size).or(any.dim) else {
                    return Err(ImportError::unsupported_setting(
                        &config,
                        "no `hidden_size`",
                        "the width of a token's embedding",
                    ));
                };
                family::check_size(&config, "hidden_size", hidden)?;
                let summary = onnx_file::summarize(&graph)?;
                files.extend(summary.files);
                let counting = family::position_ids(&any.model_type, any.pad_token_id);
                let unused = match counting {
                    Some(PositionIds::AfterPadding(padding)) => padding as usize + 1,
                    Some(PositionIds::FromZero) | None => 0,
                };
                // The position tables of some families have rows that no position uses.
                let limits = match known {
                    Ok((_, network)) => TokenLimits::of(&network),
                    Err(_) => {
                        let positions = any.max_position_embeddings.map(|rows| rows.saturating_sub(unused));
                        TokenLimits { computable: positions, ..TokenLimits::default() }
                    }
                };
                let ready_made = ReadyMadeGraph { path: graph, positions: counting };
                let vocab_size = summary.vocab_size.or(any.vocab_size);
                (any.model_type, ModelSource::Onnx(ready_made), Sizes { hidden, limits, vocab_size })
            }
            (_, Err(error)) => return Err(error),
            (None, Ok((model_type, network))) => {
                let (hidden, vocab_size) = (network.spec.hidden, Some(network.spec.vocabulary));
                let sizes = Sizes { hidden, limits: TokenLimits::of(&network), vocab_size };
                files.extend(Weights::files(folder)?);
                let source = ModelSource::Weights { folder: folder.clone(), network: Box::new(network) };
                (model_type.to_owned(), source, sizes)
            }
        };
        let Sizes { hidden, limits, vocab_size } = sizes;
        if let Some(pooled) = pipeline.hidden.filter(|&pooled| pooled != hidden) {
            let found = format!("an embedding of {hidden} values before a pooling of {pooled}");
            return Err(ImportError::unsupported_setting(&config, found, "equal sizes"));
        }
        let is_graph = match &source {
            ModelSource::Weights { network, .. } => {
                pipeline.read_head(&config, network)?;
                false
            }
            ModelSource::Onnx(_) => true,
        };
        let score_activation = match pipeline.task {
            Task::Rerank => {
                let classifier = ClassifierConfig::read(folder)?;
                classifier.check_labels(folder)?;
                classifier.score_activation(root, folder)?
            }
            Task::EmbedSparse if is_graph => {
                let found = "a sparse encoder (SPLADE) as an ONNX graph";
                return Err(ImportError::unsupported_setting(&config, found, "its weights"));
            }
            Task::Embed | Task::EmbedSparse => DenseActivation::Identity,
        };
        let dimensions = if is_graph && pipeline.task == Task::Rerank {
            // The head is part of the graph, and yields one score.
            1
        } else {
            let dimensions = pipeline.head.dimensions(hidden);
            dimensions.map_err(|source| ImportError::ModuleSizes { path: root.join(MODULES), source })?
        };

        let (tokenizer, tokenizer_json, tokenizer_files) = read_tokenizer(folder, &model_type)?;
        let tokenizer_file: TokenizerFile = serde_json::from_slice(&tokenizer_json)
            .map_err(|source| ImportError::Json { path: tokenizer.clone(), source })?;
        files.extend(tokenizer_files);
        let (prompts, default_prompt) = read_prompts(root)?;
        let (sentence_path, sentence) = read_sentence_config(folder)?;
        sentence.check(&sentence_path, pipeline.task)?;
        if sentence.do_lower_case
            && !tokenizer_file.normalizer.is_some_and(|normalizer| normalizer.lowercases())
        {
            let expected = "only with a tokenizer that lowers the case itself";
            return Err(ImportError::unsupported_setting(&sentence_path, "do_lower_case = true", expected));
        }
        let stated = sentence.max_seq_length.or_else(|| manifest.as_ref()?.max_input_tokens);
        let max_input_tokens = max_input_tokens(folder, &sentence_path, stated, &limits)?;
        files.extend(
            [sentence_path, folder.join("tokenizer_config.json")].into_iter().filter(|path| path.exists()),
        );

        files.sort_unstable();
        files.dedup();
        let root = root.to_owned();
        let this = Self {
            root,
            manifest,
            model_type,
            source,
            tokenizer,
            max_input_tokens,
            hidden,
            dimensions,
            vocab_size,
            has_token_types: pipeline.task == Task::Rerank && cross_encoder::has_token_types(folder)?,
            pipeline,
            score_activation,
            prompts,
            default_prompt,
            files,
        };
        if let Some(manifest) = &this.manifest {
            this.check_manifest(manifest, &manifest_path)?;
        }
        Ok(this)
    }

    /// Compares a manifest's values with those of the folder's other files.
    fn check_manifest(&self, manifest: &ModelManifest, path: &Path) -> Result<(), ImportError> {
        if self.task() == Task::Rerank && !manifest.golden.is_empty() {
            let reason = "it has golden vectors, but the model reranks pairs of texts".to_owned();
            return Err(ImportError::ManifestMismatch { path: path.to_owned(), reason });
        }
        let text = |value: &dyn fmt::Display| value.to_string();
        for (key, stated, found) in [
            (
                "max_input_tokens",
                manifest.max_input_tokens.map(|max| text(&max)),
                text(&self.max_input_tokens),
            ),
            ("dimensions", manifest.dimensions.map(|size| text(&size)), text(&self.dimensions())),
            ("pooling", manifest.pooling.map(|mode| text(&mode)), self.pooling_names()),
            ("normalize", manifest.normalize.map(|normalize| text(&normalize)), text(&self.normalize())),
        ] {
            if let Some(stated) = stated.filter(|stated| *stated != found) {
                let reason = format!("it states {key} {stated}, the folder's other files state {found}");
                return Err(ImportError::ManifestMismatch { path: path.to_owned(), reason });
            }
        }
        Ok(())
    }

    /// The path of the folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The manifest, if the folder has one.
    pub fn manifest(&self) -> Option<&ModelManifest> {
        self.manifest.as_ref()
    }

    /// The architecture, by transformers' name for it (`model_type`).
    pub fn family(&self) -> &str {
        &self.model_type
    }

    /// The path of `tokenizer.json`, or of the `vocab.txt` that takes its place.
    pub fn tokenizer(&self) -> &Path {
        &self.tokenizer
    }

    /// Reads `tokenizer.json`, or makes its content from `vocab.txt`.
    ///
    /// # Errors
    /// A file that cannot be read, or has changed into one that is not supported.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, ImportError> {
        let folder = self.tokenizer.parent().unwrap_or(&self.root);
        read_tokenizer(folder, &self.model_type).map(|(_, json, _)| json)
    }

    /// Maximum number of tokens of an input, special tokens included.
    pub fn max_input_tokens(&self) -> usize {
        self.max_input_tokens
    }

    /// Width of a token's embedding.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Number of token ids that have an embedding, counted from 0; `None` if neither the configuration nor the graph
    /// states it.
    pub fn vocab_size(&self) -> Option<usize> {
        self.vocab_size
    }

    /// The kind of result that the model computes.
    pub fn task(&self) -> Task {
        self.pipeline.task
    }

    /// Activation that maps the output of a cross-encoder's head to a score.
    pub fn score_activation(&self) -> DenseActivation {
        self.score_activation
    }

    /// Number of segments in the sequences of the model: 2 if it distinguishes the texts of a pair by token types.
    pub fn segments(&self) -> usize {
        let has_segments = match &self.source {
            ModelSource::Weights { network, .. } => {
                network.spec.embeddings.segments.is_some_and(|rows| rows > 1)
            }
            ModelSource::Onnx(_) => true,
        };
        if self.has_token_types && has_segments { 2 } else { 1 }
    }

    /// Length of a vector, after all modules; 1 for the score of a cross-encoder.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The modules after the transformer, except a normalization at the end.
    pub fn head(&self) -> &HeadSpec {
        &self.pipeline.head
    }

    /// Names of the pooling modes, in the order of the concatenation.
    fn pooling_names(&self) -> String {
        let names: Vec<_> = self.head().poolings.iter().map(|mode| mode.name()).collect();
        names.join(", ")
    }

    /// Returns true if vectors are scaled to length 1 at the end.
    pub fn normalize(&self) -> bool {
        self.pipeline.normalize
    }

    /// The prompts of `config_sentence_transformers.json` by name: texts to put before an input. Many models list names
    /// with an empty text.
    pub fn prompts(&self) -> &BTreeMap<String, String> {
        &self.prompts
    }

    /// Name of the prompt that sentence-transformers puts before every text unless it is told otherwise.
    pub fn default_prompt(&self) -> Option<&str> {
        self.default_prompt.as_deref()
    }
}

/// Returns the hint for a folder that holds nothing but a manifest.
fn manifest_hint(manifest: Option<&ModelManifest>) -> String {
    match manifest.and_then(|manifest| Some((manifest, manifest.source.as_ref()?))) {
        Some((_, DownloadSource::Pypi { package, version, .. })) => {
            format!("its manifest names the Python package {package} {version} as the source")
        }
        Some((manifest, DownloadSource::Hub)) => {
            let name = manifest.hub_id.as_ref().unwrap_or(&manifest.id);
            format!("download the files of `{name}` from the Hugging Face hub")
        }
        None => "it describes the architecture".to_owned(),
    }
}

/// Returns the reason why only a ready-made graph can compute the model; `None` if the weights can.
fn needs_graph<A>(known: &Result<A, ImportError>, has_weights: bool) -> Option<String> {
    match known {
        Ok(_) if has_weights => None,
        Ok(_) => Some("it holds no weights (`model.safetensors`)".to_owned()),
        Err(ImportError::UnsupportedFamily { model_type, .. }) => {
            Some(format!("there is no exporter for its model_type `{model_type}`"))
        }
        Err(error @ ImportError::Setting { .. }) => Some(error.to_string()),
        Err(_) => None,
    }
}

/// Returns the path of the tokenizer, the content of its `tokenizer.json`, and the files that it was made from.
fn read_tokenizer(folder: &Path, model_type: &str) -> Result<(PathBuf, Vec<u8>, Vec<PathBuf>), ImportError> {
    let path = folder.join("tokenizer.json");
    let vocabulary = folder.join(VOCABULARY);
    if !path.exists() && vocabulary.exists() {
        let WordPiece { json, files } = WordPiece::read(folder, model_type)?;
        return Ok((vocabulary, json, files));
    }
    let hint = format!(
        "the fast tokenizer's file, which embedgate makes only from a BERT `{VOCABULARY}`; {SAVE_AGAIN}"
    );
    let json = file::read(&path, &hint, MAX_TOKENIZER_BYTES)?;
    Ok((path.clone(), json, vec![path]))
}

/// Reads the first of [`SENTENCE_CONFIGS`] that exists; without any, returns the usual name and an empty configuration.
fn read_sentence_config(folder: &Path) -> Result<(PathBuf, SentenceConfig), ImportError> {
    for name in SENTENCE_CONFIGS {
        let path = folder.join(name);
        if let Some(config) = json::read_optional(&path)? {
            return Ok((path, config));
        }
    }
    Ok((folder.join(SENTENCE_CONFIGS[0]), SentenceConfig::default()))
}

/// Reads the prompts by name, and the name of the default one.
fn read_prompts(root: &Path) -> Result<(BTreeMap<String, String>, Option<String>), ImportError> {
    let path = root.join(LIBRARY_CONFIG);
    let Some(config) = json::read_optional::<LibraryConfig>(&path)? else {
        return Ok((BTreeMap::new(), None));
    };
    let prompts = config.prompts.unwrap_or_default().into_iter();
    let prompts: BTreeMap<_, _> = prompts.map(|(name, text)| (name, text.unwrap_or_default())).collect();
    if let Some(name) = config.default_prompt_name.as_ref().filter(|name| !prompts.contains_key(*name)) {
        let found = format!("default_prompt_name `{name}`, which `prompts` does not hold");
        return Err(ImportError::unsupported_setting(&path, found, "one of its names, or null"));
    }
    Ok((prompts, config.default_prompt_name))
}

/// Determines the maximum number of input tokens as sentence-transformers does: the stated value, else the smaller of
/// the tokenizer's limit and the configuration's. More tokens than there are positions cannot be computed.
fn max_input_tokens(
    folder: &Path,
    sentence_path: &Path,
    stated: Option<usize>,
    limits: &TokenLimits,
) -> Result<usize, ImportError> {
    let mut max = match stated {
        Some(stated) => stated,
        None => {
            let tokenizer = json::read_optional::<TokenizerConfig>(&folder.join("tokenizer_config.json"))?;
            let length = tokenizer.and_then(|config| config.model_max_length);
            // Saturates: an absent limit is written as 1e30.
            let length = length.filter(|length| *length >= 1.0).map(|length| length as usize);
            let length = match length {
                None | Some(NO_LIMIT..) => limits.default.or(length),
                Some(length) => Some(length),
            };
            let configured = limits.configured.or(limits.computable).unwrap_or(usize::MAX);
            let max = length.map(|length| length.min(configured)).filter(|max| *max < NO_LIMIT);
            max.ok_or_else(|| ImportError::Missing {
                path: sentence_path.to_owned(),
                hint: "it states the maximum input length as `max_seq_length`; a folder without it needs a \
                       `model.toml` that states `max_input_tokens`"
                    .to_owned(),
            })?
        }
    };
    max = max.min(limits.computable.unwrap_or(usize::MAX));
    if !(1..=MAX_SIZE).contains(&max) {
        let expected = format!("a `max_seq_length` from 1 to {MAX_SIZE}");
        let found = format!("a maximum of {max} tokens");
        return Err(ImportError::unsupported_setting(sentence_path, found, expected));
    }
    Ok(max)
}
