//! From settings to running engines: what happens between start and ready.
//!
//! For each model: open its folder, choose what computes it (`choice`: our own kernels or ONNX Runtime), start the
//! engine (which warms it up), and have it reproduce its card's golden vectors on the very arithmetic that will
//! serve. What cannot be served is an error here, before the first request.

mod choice;
mod kernels;
mod missing;
mod onnx;

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
    Activation, CacheConfig, Dense, EncoderFactory, Engine, EngineConfig, GoldenError, GoldenText, Head,
    Observer, Pooling, RemoteCache, StartError, Tokenizer, TokenizerOptions, native_encoders,
};
use model_import::{
    Card, DenseActivation, DenseLayer, Golden, ImportError, ModelFolder, PoolingMode, Precision,
};
use thiserror::Error;

pub use self::choice::{Choice, Kernels, Why};
use self::choice::{Question, choose};
pub(crate) use self::{
    choice::Choices,
    onnx::{PER_TEXT, Runtime},
};
use crate::{
    config::{Config, ModelConfig, Surroundings},
    metrics::Metrics,
    redis_tier::RedisTier,
    registry::{Registry, Served, UnknownModel},
};

/// Tokens of one batch in ONNX Runtime, unless the settings say otherwise.
const GRAPH_BATCH: usize = 1024;
/// As much for our own kernels: whole sequences that go through all layers on one core. A block is what a newcomer
/// waits for, and a lone text's latency the measure for that: in fp32 larger blocks gain a few hundredths of
/// throughput (`EMBEDGATE_MAX_BATCH_TOKENS=256 embedgate model bench`) and cost their time in latency; in bf16 a block
/// must be larger to be worth the weights that it reads.
fn own_batch(precision: bert_cpu::Precision) -> usize {
    match precision {
        bert_cpu::Precision::Fp32 => 48,
        bert_cpu::Precision::Bf16 => 256,
    }
}

/// Least cosine between a card's golden vector and the one that this machine computes. In fp32 rounding alone
/// stays far above; half precisions come close to theirs; a wrong pooling, tokenizer or provider does not.
pub(crate) fn golden_cosine(precision: Precision) -> f64 {
    if precision == Precision::Fp32 { 0.999_99 } else { 0.9999 }
}

/// A model could not be put into service.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The cache's second tier cannot be set up.
    #[error("the cache's second tier cannot be set up: {0}")]
    Tier(String),
    /// A model cannot be served.
    #[error("cannot serve the model `{id}` from {}", path.display())]
    Model {
        /// Its id.
        id: String,
        /// Its folder.
        path: PathBuf,
        /// Why.
        #[source]
        fault: Box<ModelFault>,
    },
    /// An alias stands for a model that is not served.
    #[error(transparent)]
    Alias(#[from] UnknownModel),
    /// The server was told to stop while it was loading.
    #[error("stopped while loading")]
    Cancelled,
}

/// What keeps one model from being served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelFault {
    /// No ONNX Runtime library was named or found, and the model needs one.
    #[error(
        "no shared library of ONNX Runtime was found in ../lib or next to the program: name one with \
         `--onnxruntime-path` or in ORT_DYLIB_PATH"
    )]
    NoRuntime,
    /// ONNX Runtime does not load.
    #[error(transparent)]
    Runtime(StartError),
    /// Our own kernels cannot be set up.
    #[error("its weights cannot be prepared for embedgate's own kernels")]
    Kernels(#[source] Box<bert_cpu::ModelError>),
    /// There is no folder.
    #[error("{advice} (`--model`, EMBEDGATE_MODELS or the settings file name a model's folder)")]
    NoFolder {
        /// Says what is there instead, or how to get a folder.
        advice: String,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(ImportError),
    /// Its graph cannot be used.
    #[error(transparent)]
    Graph(ImportError),
    /// The graph makes a text's vector depend on its batch, and the settings refuse such graphs.
    #[error(
        "its graph {} quantises activations with one scale for a whole batch ({operators}), which makes a text's vector \
         depend on the texts computed with it, and `dynamic_quantization` is \"reject\": set \"per-text\" to run it one \
         text at a time, or name another graph in `onnx_file`",
        graph.display()
    )]
    DynamicQuantization {
        /// The ONNX file.
        graph: PathBuf,
        /// The operators that do it.
        operators: String,
    },
    /// The graph is missing or stale and cannot be written.
    #[error(
        "its graph cannot be prepared; where the folder is read-only, run `embedgate model import {}` on a \
         machine where it can be written",
        path.display()
    )]
    Import {
        /// The folder.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<ImportError>,
    },
    /// A setting contradicts the folder.
    #[error("its settings cannot be met: {0}")]
    Settings(String),
    /// There are no kernels of our own for the network, although they were chosen.
    #[error("there are no kernels for its network on {0}")]
    Unknown(Isa),
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The engine starts, but cannot embed a text.
    #[error("it cannot embed a short text: weights or configuration are not those of a working model")]
    Probe(#[source] Box<GoldenError>),
    /// The engine does not reproduce the card's vectors.
    #[error("the golden check of its card failed; look closer with `embedgate model verify {}`", path.display())]
    Golden {
        /// The folder.
        path: PathBuf,
        /// Which vector, and by how much.
        #[source]
        source: Box<GoldenError>,
    },
}

/// Where vectors are kept: nowhere by default.
#[derive(Clone, Default)]
pub(crate) struct Cache {
    /// Memory for each model, in bytes.
    memory: usize,
    /// A second tier, for all models.
    tier: Option<Arc<dyn RemoteCache>>,
}

impl Cache {
    /// For a model whose vectors depend on nothing but its ids and what `fingerprint` names.
    fn of_model(&self, fingerprint: String) -> Option<CacheConfig> {
        let Self { memory, tier } = self.clone();
        (memory > 0 || tier.is_some()).then_some(CacheConfig { bytes: memory, fingerprint, remote: tier })
    }
}

/// What all models have in common.
pub(crate) struct Common<'a> {
    pub(crate) runtime: Runtime<'a>,
    pub(crate) cache: Cache,
}

/// Puts every configured model into service. Blocks while files are read and engines warm up.
///
/// # Errors
/// The first model that cannot be served; [`LoadError::Cancelled`] when `cancelled` was set meanwhile.
pub fn load(config: &Config, metrics: &Metrics, cancelled: &AtomicBool) -> Result<Registry, LoadError> {
    let tier = RedisTier::new(&config.cache, metrics.tier()).map_err(LoadError::Tier)?;
    let tier = tier.map(|tier| Arc::new(tier) as Arc<dyn RemoteCache>);
    let common = Common {
        runtime: Runtime::new(config.onnxruntime_path.as_deref(), Some(metrics)),
        cache: Cache { memory: config.cache.memory.0, tier },
    };
    let mut models = Vec::with_capacity(config.models.len());
    for model in &config.models {
        if cancelled.load(Ordering::Acquire) {
            return Err(LoadError::Cancelled);
        }
        models.push(serve(model, &common, metrics).map_err(|fault| LoadError::Model {
            id: model.id.clone(),
            path: model.path.clone(),
            fault: Box::new(fault),
        })?);
    }
    Ok(Registry::from_parts(models, &config.aliases)?)
}

/// Opens, starts and checks one model.
fn serve(model: &ModelConfig, common: &Common<'_>, metrics: &Metrics) -> Result<Served, ModelFault> {
    let started = Instant::now();
    if !model.path.is_dir() {
        return Err(ModelFault::NoFolder { advice: no_folder(&model.path) });
    }
    let folder = ModelFolder::open_with_graph(&model.path, model.onnx_file.as_deref());
    let folder = folder.map_err(ModelFault::Folder)?;
    let attempt = |choice: Choice| {
        let served = start(model, &folder, choice, common, Arc::new(metrics.model(Some(&model.id))))?;
        served.engine.probe().map_err(|source| ModelFault::Probe(Box::new(source)))?;
        let checked = folder.card().map_or(Ok(()), |card| check_golden(&served, card));
        let missed = |source| ModelFault::Golden { path: model.path.clone(), source: Box::new(source) };
        checked.map(|()| served).map_err(missed)
    };
    let Choices { first, otherwise } = choices(model, &folder)?;
    let mut served = match (attempt(first), otherwise) {
        (Err(ModelFault::Golden { source, .. }), Some(otherwise)) => {
            let (model, kernels) = (&model.id, first.kernels.to_string());
            tracing::warn!(model, kernels, error = %source, "the golden vectors are missed: with other kernels");
            attempt(otherwise)?
        }
        (attempted, _) => attempted?,
    };
    served.load_time = started.elapsed();
    Ok(served)
}

/// Advice about `path`, which is not a folder.
pub(crate) fn no_folder(path: &Path) -> String {
    match Surroundings::of_this_process() {
        Ok(surroundings) => missing::advice(path, &surroundings),
        Err(error) => format!("this process has no working directory: {error}"),
    }
}

/// The ways to compute a model on this machine.
pub(crate) fn choices(model: &ModelConfig, folder: &ModelFolder) -> Result<Choices, ModelFault> {
    let question = Question {
        provider: model.provider,
        precision: model.precision,
        isa: model.isa,
        onnx_file: model.onnx_file.is_some(),
        known: kernels::knows(folder)?,
        golden: folder.card().is_some_and(|card| golden(card, window(model, folder)).next().is_some()),
    };
    choose(question, Isa::best).map_err(ModelFault::Settings)
}

/// Starts a model's engine, without looking at its vectors.
pub(crate) fn start(
    model: &ModelConfig,
    folder: &ModelFolder,
    choice: Choice,
    common: &Common<'_>,
    observer: Arc<dyn Observer>,
) -> Result<Served, ModelFault> {
    let started = Instant::now();
    check_settings(model, folder)?;
    let fingerprint = model_import::identify(folder, &mut |_| {}).map_err(ModelFault::Folder)?;
    // Both take about as long, and neither needs the other.
    let (encoders, tokenizer) = thread::scope(|scope| {
        let tokenizer = scope.spawn(|| tokenizer(model, folder));
        let encoders = encoders(model, folder, choice.kernels, &common.runtime);
        (encoders, tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let Encoders { factory, precision, workers, batch_tokens, per_text } = encoders?;
    let computed = cache_fingerprint(&fingerprint, model, precision, choice.kernels, per_text);
    let config = EngineConfig {
        name: model.id.clone(),
        tokenizer: tokenizer?,
        max_input_tokens: window(model, folder),
        dimensions: folder.dimensions(),
        normalize: folder.normalize(),
        workers,
        tokenizer_threads: model.threads,
        max_batch_tokens: batch_tokens,
        max_batch_inputs: if per_text { 1 } else { model.max_batch_inputs },
        max_queue_tokens: model.max_queue_tokens,
        cache: common.cache.of_model(computed),
    };
    let engine = Engine::start(config, &factory, observer)?;
    Ok(Served {
        id: model.id.as_str().into(),
        hub_id: folder.card().and_then(|card| card.hub_id.clone()),
        engine,
        window: window(model, folder),
        dimensions: folder.dimensions(),
        normalized: folder.normalize(),
        prompts: folder.prompts().clone(),
        matryoshka: model.matryoshka_dimensions.clone(),
        overlong: model.truncation,
        token_ids: model.token_ids,
        created: modified(folder),
        fingerprint,
        provider: model.provider,
        precision,
        per_text,
        choice,
        load_time: started.elapsed(),
    })
}

/// Names everything that determines a cached vector, except the token ids. Servers that share a cache but differ in any
/// of it must not share vectors.
fn cache_fingerprint(
    files: &str,
    model: &ModelConfig,
    precision: Precision,
    kernels: Kernels,
    per_text: bool,
) -> String {
    let (provider, precision) = (model.provider, precision.name());
    // A shared cache may hold vectors of an earlier version, which ran such graphs in batches.
    let alone = if per_text { " per text" } else { "" };
    let stripped = if model.strip_whitespace { " of stripped texts" } else { "" };
    format!("{files} on {provider} in {precision} by {kernels}{alone}{stripped}")
}

/// The folder's tokenizer, with the options of the settings.
pub(crate) fn tokenizer(model: &ModelConfig, folder: &ModelFolder) -> Result<Tokenizer, StartError> {
    let options =
        TokenizerOptions { strip_whitespace: model.strip_whitespace, embeddings: folder.embeddings() };
    let tokenizer = Tokenizer::load_with(folder.tokenizer(), options)?;
    if let Some((id, token)) = tokenizer.without_embedding().first_key_value() {
        let (model, tokens) = (&model.id, tokenizer.without_embedding().len());
        tracing::warn!(
            model,
            tokens,
            id,
            token,
            "the tokenizer has added tokens for which the model has no embedding, such as this one: texts that hold one \
             are refused with 400"
        );
    }
    Ok(tokenizer)
}

/// What computes a model's vectors, and how it is to be driven.
pub(crate) struct Encoders {
    pub(crate) factory: EncoderFactory,
    pub(crate) precision: Precision,
    /// Encoders at work at the same time.
    pub(crate) workers: usize,
    /// Tokens of one batch.
    pub(crate) batch_tokens: usize,
    /// Each text is run alone: the graph quantises activations with one scale for a whole batch.
    pub(crate) per_text: bool,
}

pub(crate) fn encoders(
    model: &ModelConfig,
    folder: &ModelFolder,
    kernels: Kernels,
    runtime: &Runtime<'_>,
) -> Result<Encoders, ModelFault> {
    let batch_tokens = |suitable| model.max_batch_tokens.unwrap_or(suitable);
    let Kernels::Own(isa) = kernels else {
        return onnx::encoders(model, folder, runtime, batch_tokens(GRAPH_BATCH));
    };
    let (workers, batch_tokens) = (model.threads, batch_tokens(own_batch(isa.precision())));
    let packed = kernels::model(folder, isa, workers)?.ok_or(ModelFault::Unknown(isa))?;
    let factory = native_encoders(packed, head(folder)?, folder.dimensions(), workers)?;
    let precision = match isa.precision() {
        bert_cpu::Precision::Fp32 => Precision::Fp32,
        bert_cpu::Precision::Bf16 => Precision::Bf16,
    };
    Ok(Encoders { factory, precision, workers, batch_tokens, per_text: false })
}

/// The window to serve with: the folder's, or a smaller one that the settings ask for.
pub(crate) fn window(model: &ModelConfig, folder: &ModelFolder) -> usize {
    model.max_input_tokens.unwrap_or_else(|| folder.window())
}

/// Proves that the settings can work with what the folder turned out to hold.
fn check_settings(model: &ModelConfig, folder: &ModelFolder) -> Result<(), ModelFault> {
    let (window, largest, dimensions) = (window(model, folder), folder.window(), folder.dimensions());
    let too_long = model.matryoshka_dimensions.iter().find(|&&size| size > dimensions);
    let reason = if window > largest {
        format!("max_input_tokens = {window}, but the model reads at most {largest} tokens")
    } else if let Some(size) = too_long {
        format!("matryoshka_dimensions holds {size}, but its vectors have {dimensions} values")
    } else {
        return Ok(());
    };
    Err(ModelFault::Settings(reason))
}

/// The texts of a card that can be checked: one that the card's window holds and a smaller one cuts has another vector
/// by right.
fn golden(card: &Card, window: usize) -> impl Iterator<Item = &Golden> {
    card.golden.iter().filter(move |golden| golden.tokens <= window)
}

fn check_golden(served: &Served, card: &Card) -> Result<(), GoldenError> {
    let texts: Vec<_> = golden(card, served.window)
        .map(|golden| GoldenText { text: &golden.text, tokens: golden.tokens, vector: &golden.vector })
        .collect();
    if texts.is_empty() && !card.golden.is_empty() {
        tracing::warn!(
            model = %served.id,
            window = served.window,
            "no golden text of the card fits the window: its vectors are not checked"
        );
    }
    let report = served.engine.check_golden(&texts, golden_cosine(served.precision))?;
    tracing::debug!(texts = texts.len(), worst_cosine = report.worst_cosine, "golden vectors reproduced");
    Ok(())
}

/// What turns token states into a vector.
fn head(folder: &ModelFolder) -> Result<Head, StartError> {
    Ok(Head {
        pooling: pooling(folder.pooling()),
        dense: folder.dense().iter().map(dense).collect::<Result<_, _>>()?,
    })
}

fn pooling(mode: PoolingMode) -> Pooling {
    match mode {
        PoolingMode::Mean => Pooling::Mean,
        PoolingMode::Cls => Pooling::Cls,
        PoolingMode::Max => Pooling::Max,
        PoolingMode::LastToken => Pooling::LastToken,
        PoolingMode::MeanSqrtLen => Pooling::MeanSqrtLen,
        PoolingMode::WeightedMean => Pooling::WeightedMean,
    }
}

fn dense(layer: &DenseLayer) -> Result<Dense, StartError> {
    let activation = match layer.activation {
        DenseActivation::Identity => Activation::Identity,
        DenseActivation::Tanh => Activation::Tanh,
    };
    Dense::new([layer.outputs, layer.inputs], layer.weight.clone(), layer.bias.clone(), activation)
}

/// When the model's tokenizer was last written, in seconds since 1970; 0 where the file system does not say.
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
        let of = |model| cache_fingerprint("files", model, Precision::Fp32, Kernels::OnnxRuntime, false);
        assert_eq!(of(&keeping), "files on cpu in fp32 by onnxruntime", "as earlier releases have it");
        assert_ne!(of(&stripping), of(&keeping));
    }

    #[test]
    fn only_texts_that_the_window_holds_prove_anything() {
        let text = |tokens| serde_json::json!({"text": "a", "tokens": tokens, "prefix": [1.0]});
        let card = serde_json::json!({"id": "a", "golden": [text(16), text(17)]});
        let card: Card = serde_json::from_value(card).unwrap();
        assert_eq!([15, 16, 17].map(|window| golden(&card, window).count()), [0, 1, 2]);
    }
}
