//! Loading of models: from the settings to running engines.
//!
//! For each model: open its folder, describe it ([`description`]), select its backend ([`candidates`]), start the
//! engine, which warms it up, prove that a precision below fp32 is accurate enough ([`proof`]), and check that the
//! backend that will serve requests reproduces the golden vectors of the manifest. A model that cannot be served is an
//! error before the first request. A model on demand is only described at startup, and loaded later by the same code.

mod builtin_texts;
mod calibration;
mod candidates;
mod checks;
mod description;
mod found;
mod missing;
mod native;
mod onnx;
mod proof;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Instant, UNIX_EPOCH},
};

use bert_cpu::Isa;
use inference::{
    CacheConfig, EncoderFactory, Engine, EngineConfig, GoldenError, GoldenText, Observer, RemoteCache,
    StartError, Tokenizer, TokenizerOptions, native_encoders,
};
use model_hub::HubError;
use model_import::{AccuracyMeasure, Golden, ImportError, ModelFolder, ModelManifest, Precision, Task};
use thiserror::Error;

use self::{
    candidates::{BackendPlan, BackendQuery, Candidate, accepts_int8, accuracy_bound, select},
    checks::{check_settings, default_prompt},
    description::{check_memory_budget, describe},
    found::{FoundModel, OpenFolder},
};
pub(crate) use self::{checks::max_input_tokens, onnx::Runtime, proof::Prover};
use crate::{
    backend::{AccuracyProof, Backend, Selection, SelectionReason},
    config::{Bytes, Config, LoadTime, ModelConfig, PrecisionSetting, ProcessEnv},
    hub::HubModelError,
    metrics::Metrics,
    prompts::Prompts,
    redis_cache::RedisCache,
    registry::{AliasError, LoadedModel, ModelSlot, Registry},
};

/// Default of `max_batch_tokens` for ONNX Runtime.
const ONNX_BATCH_TOKENS: usize = 1024;

/// Minimum cosine between a golden vector of the manifest and the computed one. Rounding alone stays above it; a wrong
/// pooling, tokenizer or provider does not.
pub(crate) fn min_golden_cosine(config: &ModelConfig, model: &LoadedModel) -> f64 {
    let by_proof = match model.selection.backend {
        Backend::Native(_) => accuracy_bound(config, AccuracyMeasure::Cosine, model.precision),
        Backend::OnnxRuntime => None,
    };
    let by_precision = if model.precision == Precision::Fp32 { 0.999_99 } else { 0.9999 };
    by_proof.map_or(by_precision, |min_cosine| min_cosine.min(by_precision))
}

/// A failure to load the configured models.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The remote cache cannot be set up.
    #[error("cannot set up the remote cache: {0}")]
    RemoteCache(String),
    /// A model cannot be served.
    #[error("cannot serve the model `{id}` from {}", path.display())]
    Model {
        /// Its id.
        id: String,
        /// Its folder.
        path: PathBuf,
        /// The cause.
        #[source]
        error: Box<ModelLoadError>,
    },
    /// An alias cannot be served.
    #[error(transparent)]
    Alias(#[from] AliasError),
    /// A model does not fit into the memory budget, even after every model that may be unloaded was.
    #[error(
        "the model `{id}` does not fit into `loading.memory_budget`: it needs about {needed}, and {free} of {budget} \
         are left by the models with `load = \"startup\"`; raise the budget, or set `load = \"on-demand\"` for more \
         models"
    )]
    Memory {
        /// Id of the model.
        id: String,
        /// Its estimated memory.
        needed: Bytes,
        /// Memory that the models loaded at startup leave.
        free: Bytes,
        /// The budget.
        budget: Bytes,
    },
    /// The server was told to stop while it was loading.
    #[error("stopped while loading")]
    Cancelled,
}

/// A failure to load one model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelLoadError {
    /// No ONNX Runtime library was named or found, and the model needs one.
    #[error(
        "the model needs ONNX Runtime, but no shared library was found in ../lib or next to the program: name one with \
         `--onnxruntime-path` or in ORT_DYLIB_PATH"
    )]
    NoRuntime,
    /// ONNX Runtime does not load.
    #[error(transparent)]
    Runtime(StartError),
    /// The weights cannot be prepared for the native kernels.
    #[error("cannot prepare its weights for the native kernels")]
    NativeWeights(#[source] Box<bert_cpu::ModelError>),
    /// There is no folder.
    #[error("{advice} (`--model`, EMBEDGATE_MODELS or the settings file name a model's folder)")]
    NoFolder {
        /// Path of a similar folder, or how to get one.
        advice: String,
    },
    /// The model cannot be had from a hub.
    #[error(transparent)]
    Hub(#[from] HubModelError),
    /// The cache of the hub lacks files of the model, or holds one that embedgate cannot use.
    #[error(
        "the cache of the model hub has it in {}, but not in a usable form; if files are missing, run `embedgate model \
         pull {repo}`, or start with --pull",
        folder.display()
    )]
    Cached {
        /// Its name.
        repo: String,
        /// Its folder in the cache.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: Box<ImportError>,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(ImportError),
    /// Its graph cannot be used.
    #[error(transparent)]
    Graph(ImportError),
    /// The graph makes the vector of an input depend on its batch, and the settings reject such graphs.
    #[error(
        "its graph {} quantizes activations with one scale for a whole batch ({operators}), which makes the vector of \
         an input depend on the other inputs of its batch, and `dynamic_quantization` is \"reject\": set \"per-text\" \
         to run it one input at a time, or name another graph in `onnx_file`",
        graph.display()
    )]
    DynamicQuantization {
        /// The ONNX file.
        graph: PathBuf,
        /// The operators that quantize.
        operators: String,
    },
    /// The graph is missing or stale and cannot be written.
    #[error(
        "cannot write its graph; if the folder is read-only, run `embedgate model import {}` where it is writable",
        path.display()
    )]
    Import {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<ImportError>,
    },
    /// A setting contradicts the folder.
    #[error("its settings do not match the model: {0}")]
    Settings(String),
    /// There are no native kernels for the network, although they were selected.
    #[error("there are no native kernels for its network on {0}")]
    UnsupportedNetwork(Isa),
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The engine starts, but cannot embed a text.
    #[error("it cannot embed a short text: its weights or its configuration are invalid")]
    Probe(#[source] Box<GoldenError>),
    /// The results of the selected precision deviate too much from those in fp32.
    #[error("its accuracy proof failed: {0}")]
    Accuracy(AccuracyProof),
    /// The results in int8 deviate too much from those in fp32.
    #[error(
        "its accuracy in int8 is too low: {}: set `precision` to \"auto\" or \"fp32\", or {}",
        .0,
        .0.int8_remedy()
    )]
    Int8Accuracy(AccuracyProof),
    /// The texts that calibrate int8 kernels cannot be computed.
    #[error("its activations cannot be measured, as int8 needs it")]
    Calibration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The accuracy of the selected precision cannot be measured.
    #[error("its accuracy proof cannot be computed")]
    Proof(#[source] Box<GoldenError>),
    /// The engine does not reproduce the golden vectors of the manifest.
    #[error("its golden check failed; for details run `embedgate model verify {}`", path.display())]
    Golden {
        /// The folder.
        path: PathBuf,
        /// The vector and its deviation.
        #[source]
        source: Box<GoldenError>,
    },
}

impl ModelLoadError {
    /// Reason to try the next backend; `None` if that would not help.
    pub(crate) fn fallback_reason(&self) -> Option<SelectionReason> {
        match self {
            Self::Accuracy(_) | Self::Proof(_) => Some(SelectionReason::AccuracyFailed),
            Self::Golden { .. } => Some(SelectionReason::GoldenFailed),
            _ => None,
        }
    }
}

/// Creates the cache settings of each model. The default is no cache.
#[derive(Clone, Default)]
pub(crate) struct CacheFactory {
    /// Local memory for each model, in bytes.
    memory: usize,
    /// Remote cache, shared by all models.
    remote: Option<Arc<dyn RemoteCache>>,
}

impl CacheFactory {
    /// Settings for a model whose vectors depend only on its token ids and `fingerprint`.
    fn for_model(&self, fingerprint: String) -> Option<CacheConfig> {
        let Self { memory, remote } = self.clone();
        (memory > 0 || remote.is_some()).then_some(CacheConfig { bytes: memory, fingerprint, remote })
    }
}

/// Resources that all models share.
pub(crate) struct LoadContext {
    pub(crate) runtime: Runtime,
    pub(crate) cache: CacheFactory,
}

/// Reads the folder of every configured model, and loads those that are to be loaded at startup. Blocks while files are
/// read and engines warm up.
///
/// # Errors
/// The first model that cannot be served; models that do not fit into the memory budget; [`LoadError::Cancelled`] if
/// `cancelled` was set before the last model.
pub fn load(config: &Config, metrics: &Metrics, cancelled: &AtomicBool) -> Result<Registry, LoadError> {
    let remote = RedisCache::new(&config.cache, metrics.remote_cache()).map_err(LoadError::RemoteCache)?;
    let remote = remote.map(|cache| Arc::new(cache) as Arc<dyn RemoteCache>);
    let context = Arc::new(LoadContext {
        runtime: Runtime::new(config.onnxruntime_path.as_deref(), Some(metrics)),
        cache: CacheFactory { memory: config.cache.memory.0, remote },
    });
    let mut opened = Vec::with_capacity(config.models.len());
    for model in &config.models {
        if cancelled.load(Ordering::Acquire) {
            return Err(LoadError::Cancelled);
        }
        let found = FoundModel::find(model, config, cancelled).map_err(failure_of(model))?;
        let folder = found.open().map_err(failure_of(model))?;
        let described = describe(&found.config, &folder.folder, config.cache.memory.0);
        let description = described.map_err(|error| failure_of(model)(found.in_cache(error)))?;
        opened.push((model, folder, found.name(description), found));
    }
    let descriptions = opened.iter().map(|(_, _, description, _)| description);
    check_memory_budget(descriptions, config.loading.memory_budget)?;
    let mut slots = Vec::with_capacity(opened.len());
    for (model, folder, description, found) in opened {
        let loaded = match model.load {
            LoadTime::Startup if cancelled.load(Ordering::Acquire) => return Err(LoadError::Cancelled),
            LoadTime::Startup => Some(found.load(folder, &context, metrics).map_err(failure_of(model))?),
            LoadTime::OnDemand => None,
        };
        let (context, metrics) = (Arc::clone(&context), metrics.clone());
        // The folder is read again, so that a later load uses changed files.
        let loader = move || Ok(found.load(found.open()?, &context, &metrics)?);
        slots.push(ModelSlot::new(description, Box::new(loader), loaded));
    }
    Ok(Registry::new(slots, &config.aliases, &config.loading, metrics)?)
}

fn failure_of(model: &ModelConfig) -> impl Fn(ModelLoadError) -> LoadError {
    |error| match error {
        ModelLoadError::Hub(HubModelError::Hub(HubError::Cancelled)) => LoadError::Cancelled,
        error => LoadError::Model { id: model.id.clone(), path: model.path.clone(), error: Box::new(error) },
    }
}

/// Starts and checks one model.
fn load_model(
    config: &ModelConfig,
    OpenFolder { folder, elapsed }: OpenFolder,
    context: &LoadContext,
    metrics: &Metrics,
) -> Result<LoadedModel, ModelLoadError> {
    let started = Instant::now();
    let fingerprint = fingerprint(&folder)?;
    let mut prover = Prover::new(config, &folder, &fingerprint);
    let mut model = plan_backends(config, &folder)?.try_each(&config.id, |selection| {
        let observer = Arc::new(metrics.model(Some(&config.id)));
        let model = prover.start(selection, context, observer)?;
        model.engine.probe().map_err(|source| ModelLoadError::Probe(Box::new(source)))?;
        let checked = folder.manifest().map_or(Ok(()), |manifest| check_golden(config, &model, manifest));
        let failed = |source| ModelLoadError::Golden { path: config.path.clone(), source: Box::new(source) };
        checked.map(|()| model).map_err(failed)
    })?;
    model.load_time = elapsed + started.elapsed();
    Ok(model)
}

/// Advice for an error: `path` is not a folder.
pub(crate) fn no_folder(path: &Path) -> String {
    match ProcessEnv::of_this_process() {
        Ok(env) => missing::advice(path, &env),
        Err(error) => format!("this process has no working directory: {error}"),
    }
}

/// Selects the backends to try for a model on this machine.
pub(crate) fn plan_backends(
    config: &ModelConfig,
    folder: &ModelFolder,
) -> Result<BackendPlan, ModelLoadError> {
    let query = BackendQuery {
        provider: config.provider,
        precision: config.precision,
        accepts_int8: accepts_int8(config, AccuracyMeasure::of(folder.task())),
        isa: config.isa,
        has_onnx_file: config.onnx_file.is_some(),
        has_native_kernels: native::is_supported(folder)?,
    };
    let is_chosen = config.precision == PrecisionSetting::Bf16;
    let is_supported =
        |isa: Isa| isa.is_available() && (isa != Isa::Avx512Bf16 || is_chosen || bert_cpu::is_bf16_faster());
    select(&query, is_supported).map_err(ModelLoadError::Settings)
}

/// Selects the backend that would serve a model, by its accuracy proof too but not by its golden vectors.
pub(crate) fn select_backend(
    config: &ModelConfig,
    folder: &ModelFolder,
    context: &LoadContext,
) -> Result<Selection, ModelLoadError> {
    let plan = plan_backends(config, folder)?;
    if !plan.needs_proof() {
        return Ok(plan.preferred);
    }
    let fingerprint = fingerprint(folder)?;
    let mut prover = Prover::new(config, folder, &fingerprint);
    plan.try_each(&config.id, |selection| Ok(prover.start(selection, context, Arc::new(()))?.selection))
}

/// The fingerprint of a model's files.
pub(crate) fn fingerprint(folder: &ModelFolder) -> Result<String, ModelLoadError> {
    model_import::fingerprint(folder, &mut |_| {}).map_err(ModelLoadError::Folder)
}

/// Starts the engine of a model with this fingerprint, without checking its vectors.
fn start(
    model: &ModelConfig,
    (folder, fingerprint): (&ModelFolder, &str),
    selection: Selection,
    context: &LoadContext,
    observer: Arc<dyn Observer>,
) -> Result<LoadedModel, ModelLoadError> {
    let started = Instant::now();
    check_settings(model, folder)?;
    // Both take about as long, and neither needs the other.
    let (encoders, tokenizer) = thread::scope(|scope| {
        let tokenizer = scope.spawn(|| tokenizer(model, folder));
        let encoders = encoders(model, folder, selection.backend, &context.runtime);
        (encoders, tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let Encoders { factory, precision, workers, batch_tokens, per_text } = encoders?;
    let cache_fingerprint = cache_fingerprint(fingerprint, model, precision, selection.backend, per_text);
    let max_input_tokens = max_input_tokens(model, folder);
    let tokenizer = tokenizer?;
    let include_prompt = folder.head().include_prompt;
    let prompts = Prompts::new(folder.prompts(), default_prompt(model, folder), include_prompt, &tokenizer)
        .map_err(ModelLoadError::Settings)?;
    let config = EngineConfig {
        name: model.id.clone(),
        task: folder.task(),
        tokenizer,
        max_input_tokens,
        dimensions: folder.dimensions(),
        normalize: folder.normalize(),
        workers,
        tokenizer_threads: model.threads,
        max_batch_tokens: batch_tokens,
        max_batch_inputs: if per_text { 1 } else { model.max_batch_inputs },
        max_queue_tokens: model.max_queue_tokens,
        cache: context.cache.for_model(cache_fingerprint),
    };
    let engine = Engine::start(config, &factory, observer)?;
    Ok(LoadedModel {
        id: model.id.as_str().into(),
        task: folder.task(),
        score_activation: folder.score_activation(),
        engine,
        max_input_tokens,
        dimensions: folder.dimensions(),
        normalized: folder.normalize(),
        prompts,
        matryoshka: model.matryoshka_dimensions.clone(),
        truncation: model.truncation,
        token_ids: model.token_ids,
        created: modified(folder),
        fingerprint: fingerprint.to_owned(),
        provider: model.provider,
        precision,
        per_text,
        selection,
        proofs: Vec::new(),
        load_time: started.elapsed(),
    })
}

/// Names everything that determines a cached vector, except the token ids. Servers that share a cache but differ in any
/// of these must not share vectors.
fn cache_fingerprint(
    files: &str,
    model: &ModelConfig,
    precision: Precision,
    backend: Backend,
    per_text: bool,
) -> String {
    let (provider, precision) = (model.provider, precision.name());
    // A shared cache may hold vectors of an earlier version, which ran such graphs in batches.
    let alone = if per_text { " per text" } else { "" };
    let stripped = if model.strip_whitespace { " of stripped texts" } else { "" };
    format!("{files} on {provider} in {precision} by {backend}{alone}{stripped}")
}

/// The folder's tokenizer, with the options of the settings.
pub(crate) fn tokenizer(model: &ModelConfig, folder: &ModelFolder) -> Result<Tokenizer, ModelLoadError> {
    let options = TokenizerOptions {
        strip_whitespace: model.strip_whitespace,
        embeddings: folder.vocab_size(),
        reads_pairs: folder.task() == Task::Rerank,
        has_token_types: folder.segments() > 1,
    };
    let json = folder.tokenizer_json().map_err(ModelLoadError::Folder)?;
    let tokenizer = Tokenizer::from_json(&json, folder.tokenizer(), options)?;
    if let Some((id, token)) = tokenizer.without_embedding().first_key_value() {
        let (model, tokens) = (&model.id, tokenizer.without_embedding().len());
        tracing::warn!(
            model,
            tokens,
            id,
            token,
            "the tokenizer has added tokens without an embedding, such as this one: inputs with such a token are \
             rejected with 400"
        );
    }
    Ok(tokenizer)
}

/// Encoders of a model, and the sizes to run them with.
pub(crate) struct Encoders {
    pub(crate) factory: EncoderFactory,
    pub(crate) precision: Precision,
    /// Number of encoders that run in parallel.
    pub(crate) workers: usize,
    /// Maximum number of tokens of one batch.
    pub(crate) batch_tokens: usize,
    /// Each input runs alone, since the graph quantizes activations with one scale for a whole batch.
    pub(crate) per_text: bool,
}

/// Builds the encoders of a model for `backend`.
pub(crate) fn encoders(
    model: &ModelConfig,
    folder: &ModelFolder,
    backend: Backend,
    runtime: &Runtime,
) -> Result<Encoders, ModelLoadError> {
    let Backend::Native(isa) = backend else {
        return onnx::encoders(model, folder, runtime, model.max_batch_tokens.unwrap_or(ONNX_BATCH_TOKENS));
    };
    let candidate = Candidate::of(isa).ok_or(ModelLoadError::UnsupportedNetwork(isa))?;
    let workers = model.threads;
    let maxima = match candidate.precision {
        Precision::Int8 => Some(calibration::activation_maxima(model, folder)?),
        _ => None,
    };
    let packed = native::model(folder, isa, workers, maxima.as_ref())?;
    let packed = packed.ok_or(ModelLoadError::UnsupportedNetwork(isa))?;
    Ok(Encoders {
        factory: native_encoders(packed, folder.head().clone(), folder.dimensions(), workers)?,
        precision: candidate.precision,
        workers,
        batch_tokens: model.max_batch_tokens.unwrap_or(candidate.batch_tokens),
        per_text: false,
    })
}

/// Golden texts of the manifest that can be checked: truncation to `max_tokens` would change the vector of a longer
/// one.
fn checkable(manifest: &ModelManifest, max_tokens: usize) -> impl Iterator<Item = &Golden> {
    manifest.golden.iter().filter(move |golden| golden.tokens <= max_tokens)
}

fn check_golden(
    config: &ModelConfig,
    model: &LoadedModel,
    manifest: &ModelManifest,
) -> Result<(), GoldenError> {
    let texts: Vec<_> = checkable(manifest, model.max_input_tokens)
        .map(|golden| GoldenText { text: &golden.text, tokens: golden.tokens, vector: &golden.vector })
        .collect();
    if texts.is_empty() && !manifest.golden.is_empty() {
        tracing::warn!(
            model = %model.id,
            max_input_tokens = model.max_input_tokens,
            "every golden text is longer than max_input_tokens: the vectors are not checked"
        );
    }
    let report = model.engine.check_golden(&texts, min_golden_cosine(config, model))?;
    tracing::debug!(texts = texts.len(), worst_cosine = report.worst_cosine, "golden check passed");
    Ok(())
}

/// Time of the last change of the model's tokenizer, in seconds since 1970; 0 if the file system does not record it.
fn modified(folder: &ModelFolder) -> u32 {
    let time = folder.tokenizer().metadata().and_then(|metadata| metadata.modified()).ok();
    let age = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    age.and_then(|age| u32::try_from(age.as_secs()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_read_texts_differently_share_no_cached_vector() {
        let keeping = ModelConfig::builtin("a".to_owned(), PathBuf::new(), 1);
        let stripping = ModelConfig { strip_whitespace: true, ..keeping.clone() };
        let of = |model| cache_fingerprint("files", model, Precision::Fp32, Backend::OnnxRuntime, false);
        assert_eq!(of(&keeping), "files on cpu in fp32 by onnxruntime", "as earlier releases have it");
        assert_ne!(of(&stripping), of(&keeping));
    }

    #[test]
    fn golden_texts_longer_than_the_input_limit_are_not_checked() {
        let text = |tokens| serde_json::json!({"text": "a", "tokens": tokens, "prefix": [1.0]});
        let manifest = serde_json::json!({"id": "a", "golden": [text(16), text(17)]});
        let manifest: ModelManifest = serde_json::from_value(manifest).unwrap();
        assert_eq!([15, 16, 17].map(|max_tokens| checkable(&manifest, max_tokens).count()), [0, 1, 2]);
    }
}
