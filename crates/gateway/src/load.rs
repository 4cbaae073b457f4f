//! From settings to running engines: what happens between start and ready.
//!
//! For each model: open its folder, import its graph where that is missing or stale, start the engine (which
//! warms it up), and have it reproduce its card's golden vectors on the very provider that will serve. What
//! cannot be served is an error here, before the first request.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, UNIX_EPOCH},
};

use inference::{
    Activation, Dense, Engine, EngineConfig, GoldenError, GoldenText, Head, Observer, OnnxConfig, OnnxInput,
    OnnxOutput, OnnxRuntime, Pooling, StartError, onnx_encoders,
};
use model_import::{
    Card, DenseActivation, DenseLayer, Graph, GraphInput, ImportError, ModelFolder, OutputKind, PoolingMode,
    Precision, Progress, Stage,
};
use thiserror::Error;

use crate::{
    config::{Config, ModelConfig},
    metrics::Metrics,
    registry::{Registry, Served, UnknownModel},
};

/// Least cosine between a card's golden vector and the one that this machine computes. In fp32 rounding alone
/// stays far above; half precisions come close to theirs; a wrong pooling, tokenizer or provider does not.
pub(crate) fn golden_cosine(precision: Precision) -> f64 {
    if precision == Precision::Fp32 { 0.999_99 } else { 0.9999 }
}

/// A model could not be put into service.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No ONNX Runtime library was named or found.
    #[error(
        "ONNX Runtime's library is not there: run `cargo xtask setup`, or name the library in ORT_DYLIB_PATH"
    )]
    NoRuntime,
    /// ONNX Runtime does not load.
    #[error(transparent)]
    Runtime(StartError),
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
    /// The folder cannot be used.
    #[error("its folder cannot be used")]
    Folder(#[source] ImportError),
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
    #[error("its settings do not fit its folder: {0}")]
    Settings(String),
    /// The engine does not start.
    #[error("its engine cannot start")]
    Start(#[from] StartError),
    /// The engine does not reproduce the card's vectors.
    #[error("it does not give the vectors of its card; look closer with `embedgate model verify {}`", path.display())]
    Golden {
        /// The folder.
        path: PathBuf,
        /// Which vector, and by how much.
        #[source]
        source: Box<GoldenError>,
    },
}

/// Puts every configured model into service. Blocks while files are read and engines warm up.
///
/// # Errors
/// The first model that cannot be served; [`LoadError::Cancelled`] when `cancelled` was set meanwhile.
pub fn load(config: &Config, metrics: &Metrics, cancelled: &AtomicBool) -> Result<Registry, LoadError> {
    let library = config.onnxruntime.as_deref().ok_or(LoadError::NoRuntime)?;
    let runtime = OnnxRuntime::load(library).map_err(LoadError::Runtime)?;
    metrics.runtime_loaded(runtime.version());
    tracing::debug!(version = runtime.version(), library = %library.display(), "ONNX Runtime loaded");
    let mut models = Vec::with_capacity(config.models.len());
    for model in &config.models {
        if cancelled.load(Ordering::Acquire) {
            return Err(LoadError::Cancelled);
        }
        models.push(serve(model, &runtime, metrics).map_err(|fault| LoadError::Model {
            id: model.id.clone(),
            path: model.path.clone(),
            fault: Box::new(fault),
        })?);
    }
    Ok(Registry::from_parts(models, &config.aliases)?)
}

/// Opens, starts and checks one model.
fn serve(model: &ModelConfig, runtime: &OnnxRuntime, metrics: &Metrics) -> Result<Served, ModelFault> {
    let started = Instant::now();
    let folder = ModelFolder::open(&model.path).map_err(ModelFault::Folder)?;
    let mut served = start(model, &folder, runtime, Arc::new(metrics.model(Some(&model.id))))?;
    if let Some(card) = folder.card() {
        check_golden(&served, card)
            .map_err(|source| ModelFault::Golden { path: model.path.clone(), source: Box::new(source) })?;
    }
    served.load_time = started.elapsed();
    Ok(served)
}

/// Imports a model where that is due and starts its engine, without looking at its vectors.
pub(crate) fn start(
    model: &ModelConfig,
    folder: &ModelFolder,
    runtime: &OnnxRuntime,
    observer: Arc<dyn Observer>,
) -> Result<Served, ModelFault> {
    let started = Instant::now();
    check_settings(model, folder)?;
    let graph = import(model, folder)?;
    let config = EngineConfig {
        name: model.id.clone(),
        tokenizer: folder.tokenizer().to_owned(),
        window: window(model, folder),
        dimensions: folder.dimensions(),
        normalize: folder.normalize(),
        workers: model.workers,
        tokenizer_threads: model.threads,
        batch_tokens: model.batch_tokens,
        batch_inputs: model.batch_inputs,
        queue_tokens: model.queue_tokens,
    };
    let encoders = onnx_encoders(runtime, onnx(model, folder, &graph)?);
    let engine = Engine::start(config, &encoders, observer)?;
    Ok(Served {
        id: model.id.as_str().into(),
        hub_id: folder.card().and_then(|card| card.hub_id.clone()),
        engine,
        window: window(model, folder),
        dimensions: folder.dimensions(),
        matryoshka: model.matryoshka.clone(),
        overlong: model.overlong,
        token_ids: model.token_ids,
        created: modified(&graph.path),
        fingerprint: graph.fingerprint,
        provider: model.provider,
        precision: graph.precision,
        load_time: started.elapsed(),
    })
}

/// The window to serve with: the folder's, or a smaller one that the settings ask for.
fn window(model: &ModelConfig, folder: &ModelFolder) -> usize {
    model.window.unwrap_or_else(|| folder.window())
}

/// Proves that the settings can work with what the folder turned out to hold.
fn check_settings(model: &ModelConfig, folder: &ModelFolder) -> Result<(), ModelFault> {
    let (window, largest, dimensions) = (window(model, folder), folder.window(), folder.dimensions());
    let too_long = model.matryoshka.iter().find(|&&size| size > dimensions);
    let reason = if window > largest {
        format!("window = {window}, but the model reads at most {largest} tokens")
    } else if let Some(size) = too_long {
        format!("matryoshka holds {size}, but its vectors have {dimensions} values")
    } else {
        return Ok(());
    };
    Err(ModelFault::Settings(reason))
}

/// The folder's graph, written first where it is missing or stale.
fn import(model: &ModelConfig, folder: &ModelFolder) -> Result<Graph, ModelFault> {
    let mut writing = false;
    let mut progress = |progress: Progress| {
        if progress.stage == Stage::Writing && !writing {
            writing = true;
            tracing::info!(model = model.id, folder = %model.path.display(), "writing the model's graph");
        }
    };
    model_import::import(folder, &mut progress)
        .map_err(|source| ModelFault::Import { path: model.path.clone(), source: Box::new(source) })
}

fn check_golden(served: &Served, card: &Card) -> Result<(), GoldenError> {
    // A text that the card's window holds and a smaller one cuts has another vector by right.
    let golden = card.golden.iter().filter(|golden| golden.tokens <= served.window);
    let texts: Vec<_> = golden
        .map(|golden| GoldenText { text: &golden.text, tokens: golden.tokens, vector: &golden.vector })
        .collect();
    let report = served.engine.check_golden(&texts, golden_cosine(served.precision))?;
    tracing::debug!(texts = texts.len(), worst_cosine = report.worst_cosine, "golden vectors reproduced");
    Ok(())
}

fn onnx(model: &ModelConfig, folder: &ModelFolder, graph: &Graph) -> Result<OnnxConfig, StartError> {
    let output_kind = match graph.output.kind {
        OutputKind::TokenEmbeddings => OnnxOutput::TokenEmbeddings(Head {
            pooling: pooling(folder.pooling()),
            dense: folder.dense().iter().map(dense).collect::<Result<_, _>>()?,
        }),
        OutputKind::SentenceEmbedding => OnnxOutput::SentenceEmbedding,
    };
    Ok(OnnxConfig {
        graph: graph.path.clone(),
        inputs: graph.inputs.iter().copied().map(input).collect(),
        output: graph.output.name.clone(),
        output_kind,
        provider: model.provider,
        intra_threads: model.threads,
        dimensions: folder.dimensions(),
    })
}

fn input(input: GraphInput) -> OnnxInput {
    match input {
        GraphInput::InputIds => OnnxInput::InputIds,
        GraphInput::AttentionMask => OnnxInput::AttentionMask,
        GraphInput::TokenTypeIds => OnnxInput::TokenTypeIds,
    }
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

/// When `file` was last written, in seconds since 1970; 0 where the file system does not say.
fn modified(file: &Path) -> u32 {
    let time = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let age = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    age.and_then(|age| u32::try_from(age.as_secs()).ok()).unwrap_or(0)
}
