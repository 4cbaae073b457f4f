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
    Engine, EngineConfig, GoldenError, GoldenText, Head, OnnxConfig, OnnxInput, OnnxOutput, OnnxRuntime,
    Pooling, StartError, onnx_encoders,
};
use model_import::{Card, Graph, GraphInput, ImportError, ModelFolder, OutputKind, PoolingMode};
use thiserror::Error;

use crate::{
    config::{Config, ModelConfig},
    metrics::Metrics,
    registry::{Registry, Served, UnknownModel},
};

/// Least cosine between a card's golden vector and the one that this machine computes. Rounding alone stays
/// above 0.99999 in fp32; a wrong pooling, tokenizer or precision falls far below this.
const GOLDEN_COSINE: f64 = 0.9999;

/// The arithmetic of the graphs that the importer writes.
const PRECISION: &str = "fp32";

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
    /// The model's folder cannot be used.
    #[error("cannot open the model `{id}` in {}", path.display())]
    Folder {
        /// The model.
        id: String,
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ImportError,
    },
    /// The model's graph is missing or stale and cannot be written.
    #[error(
        "cannot prepare the graph of the model `{id}`: if {path} is read-only here, run \
         `embedgate model import {path}` where it can be written",
        path = path.display()
    )]
    Import {
        /// The model.
        id: String,
        /// Its folder.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: ImportError,
    },
    /// A setting contradicts the model's folder.
    #[error("the settings of the model `{id}` do not fit {}: {reason}", path.display())]
    Settings {
        /// The model.
        id: String,
        /// Its folder.
        path: PathBuf,
        /// What contradicts what.
        reason: String,
    },
    /// The engine does not start.
    #[error("cannot start the model `{id}`")]
    Start {
        /// The model.
        id: String,
        /// Why.
        #[source]
        source: StartError,
    },
    /// The engine does not reproduce the card's vectors.
    #[error(
        "the model `{id}` does not give the vectors of its card on this machine, so it is not served; \
         run `embedgate model verify {}`",
        path.display()
    )]
    Golden {
        /// The model.
        id: String,
        /// Its folder.
        path: PathBuf,
        /// Which vector, and by how much.
        #[source]
        source: GoldenError,
    },
    /// An alias stands for a model that is not served.
    #[error(transparent)]
    Alias(#[from] UnknownModel),
    /// The server was told to stop while it was loading.
    #[error("stopped while loading")]
    Cancelled,
}

/// Puts every configured model into service. Blocks while files are read and engines warm up.
///
/// # Errors
/// The first model that cannot be served; [`LoadError::Cancelled`] when `cancelled` was set meanwhile.
pub fn load(config: &Config, metrics: &Metrics, cancelled: &AtomicBool) -> Result<Registry, LoadError> {
    let library = config.onnxruntime.as_deref().ok_or(LoadError::NoRuntime)?;
    let runtime = OnnxRuntime::load(library).map_err(LoadError::Runtime)?;
    tracing::debug!(version = runtime.version(), library = %library.display(), "ONNX Runtime loaded");
    let mut models = Vec::with_capacity(config.models.len());
    for model in &config.models {
        if cancelled.load(Ordering::Acquire) {
            return Err(LoadError::Cancelled);
        }
        models.push(serve(model, &runtime, metrics)?);
    }
    Ok(Registry::from_parts(models, &config.aliases)?)
}

/// Opens, imports, starts and checks one model.
fn serve(model: &ModelConfig, runtime: &OnnxRuntime, metrics: &Metrics) -> Result<Served, LoadError> {
    let started = Instant::now();
    let (id, path) = (model.id.clone(), model.path.clone());
    let folder = ModelFolder::open(&model.path).map_err(|source| LoadError::Folder {
        id: id.clone(),
        path: path.clone(),
        source,
    })?;
    check_settings(model, &folder)?;
    let window = window(model, &folder);
    let graph = import(model, &folder)?;
    let card = card(model)?;
    let engine = EngineConfig {
        name: model.id.clone(),
        tokenizer: folder.tokenizer().to_owned(),
        window,
        dimensions: folder.dimensions(),
        normalize: folder.normalize(),
        workers: model.workers,
        tokenizer_threads: model.threads,
        batch_tokens: model.batch_tokens,
        batch_inputs: model.batch_inputs,
        queue_tokens: model.queue_tokens,
    };
    let encoders = onnx_encoders(runtime, onnx(model, &folder, &graph));
    let engine = Engine::start(engine, &encoders, Arc::new(metrics.model(Some(&model.id))))
        .map_err(|source| LoadError::Start { id: id.clone(), source })?;
    if let Some(card) = &card {
        check_golden(&engine, card, window).map_err(|source| LoadError::Golden {
            id: id.clone(),
            path: path.clone(),
            source,
        })?;
    }
    tracing::debug!(model = id, seconds = started.elapsed().as_secs_f64(), "model loaded");
    Ok(Served {
        id: id.into(),
        hub_id: card.and_then(|card| card.hub_id),
        engine,
        window,
        dimensions: folder.dimensions(),
        matryoshka: model.matryoshka.clone(),
        overlong: model.overlong,
        token_ids: model.token_ids,
        created: modified(&graph.path),
        fingerprint: graph.fingerprint,
        provider: model.provider,
        precision: PRECISION,
    })
}

/// The window to serve with: the folder's, or a smaller one that the settings ask for.
fn window(model: &ModelConfig, folder: &ModelFolder) -> usize {
    model.window.unwrap_or_else(|| folder.window())
}

/// Proves that the settings can work with what the folder turned out to hold.
fn check_settings(model: &ModelConfig, folder: &ModelFolder) -> Result<(), LoadError> {
    let (window, largest, dimensions) = (window(model, folder), folder.window(), folder.dimensions());
    let too_long = model.matryoshka.iter().find(|&&size| size > dimensions);
    let reason = if window > largest {
        format!("window = {window}, but the model reads at most {largest} tokens")
    } else if model.batch_tokens < window {
        format!("batch_tokens = {}, but one text may have {window} tokens", model.batch_tokens)
    } else if let Some(size) = too_long {
        format!("matryoshka holds {size}, but its vectors have {dimensions} values")
    } else {
        return Ok(());
    };
    Err(LoadError::Settings { id: model.id.clone(), path: model.path.clone(), reason })
}

/// The folder's graph, written first where it is missing or stale.
fn import(model: &ModelConfig, folder: &ModelFolder) -> Result<Graph, LoadError> {
    let mut announced = false;
    let mut progress = |_| {
        if !announced {
            tracing::info!(model = model.id, folder = %model.path.display(), "importing the model");
            announced = true;
        }
    };
    model_import::import(folder, &mut progress).map_err(|source| LoadError::Import {
        id: model.id.clone(),
        path: model.path.clone(),
        source,
    })
}

/// The folder's card, where it has one.
fn card(model: &ModelConfig) -> Result<Option<Card>, LoadError> {
    let file = model.path.join("model.toml");
    if !file.exists() {
        return Ok(None);
    }
    let folder = |source| LoadError::Folder { id: model.id.clone(), path: model.path.clone(), source };
    Card::load(&file).map(Some).map_err(folder)
}

fn check_golden(engine: &Engine, card: &Card, window: usize) -> Result<(), GoldenError> {
    // A text that the card's window holds and a smaller one cuts has another vector by right.
    let golden = card.golden.iter().filter(|golden| golden.tokens <= window);
    let texts: Vec<_> = golden
        .map(|golden| GoldenText { text: &golden.text, tokens: golden.tokens, vector: &golden.vector })
        .collect();
    let report = engine.check_golden(&texts, GOLDEN_COSINE)?;
    tracing::debug!(texts = texts.len(), worst_cosine = report.worst_cosine, "golden vectors reproduced");
    Ok(())
}

fn onnx(model: &ModelConfig, folder: &ModelFolder, graph: &Graph) -> OnnxConfig {
    let input = |input: &GraphInput| match input {
        GraphInput::InputIds => OnnxInput::InputIds,
        GraphInput::AttentionMask => OnnxInput::AttentionMask,
        GraphInput::TokenTypeIds => OnnxInput::TokenTypeIds,
    };
    let pooling = match folder.pooling() {
        PoolingMode::Mean => Pooling::Mean,
        PoolingMode::Cls => Pooling::Cls,
        PoolingMode::Max => Pooling::Max,
        PoolingMode::LastToken => Pooling::LastToken,
        PoolingMode::MeanSqrtLen => Pooling::MeanSqrtLen,
        PoolingMode::WeightedMean => Pooling::WeightedMean,
    };
    OnnxConfig {
        graph: graph.path.clone(),
        inputs: graph.inputs.iter().map(input).collect(),
        output: graph.output.name.clone(),
        output_kind: match graph.output.kind {
            OutputKind::TokenEmbeddings => OnnxOutput::TokenEmbeddings,
            OutputKind::SentenceEmbedding => OnnxOutput::SentenceEmbedding,
        },
        provider: model.provider,
        intra_threads: model.threads,
        head: Head { pooling, dense: Vec::new() },
        dimensions: folder.dimensions(),
    }
}

/// When `file` was last written, in seconds since 1970; 0 where the file system does not say.
fn modified(file: &Path) -> u32 {
    let time = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let age = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    age.and_then(|age| u32::try_from(age.as_secs()).ok()).unwrap_or(0)
}
