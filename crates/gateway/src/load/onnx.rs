//! Graph of a model folder for ONNX Runtime: written if it is missing or stale, and described for the encoders.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use encoder_spec::PositionIds;
use inference::{OnnxConfig, OnnxInput, OnnxOutput, OnnxRuntime, onnx_encoders};
use model_import::{Graph, GraphInput, ImportError, ImportProgress, ImportStage, ModelFolder, OutputKind};

use super::{Encoders, ModelLoadError};
use crate::{
    config::{DynamicQuantization, ModelConfig},
    metrics::Metrics,
};

/// ONNX Runtime, loaded when a first model needs it.
pub(crate) struct Runtime {
    library: Option<PathBuf>,
    metrics: Option<Metrics>,
    loaded: OnceLock<OnnxRuntime>,
}

impl Runtime {
    /// Creates a handle for the runtime in `library`, whose version is reported to `metrics`.
    pub(crate) fn new(library: Option<&Path>, metrics: Option<&Metrics>) -> Self {
        Self { library: library.map(Path::to_owned), metrics: metrics.cloned(), loaded: OnceLock::new() }
    }

    fn get(&self) -> Result<&OnnxRuntime, ModelLoadError> {
        if let Some(runtime) = self.loaded.get() {
            return Ok(runtime);
        }
        let library = self.library.as_deref().ok_or(ModelLoadError::NoRuntime)?;
        let runtime = OnnxRuntime::load(library).map_err(ModelLoadError::Runtime)?;
        if let Some(metrics) = &self.metrics {
            metrics.runtime_loaded(runtime.version());
        }
        tracing::debug!(version = runtime.version(), library = %library.display(), "ONNX Runtime loaded");
        Ok(self.loaded.get_or_init(|| runtime))
    }

    /// Version of the runtime, if it is loaded.
    pub(crate) fn version(&self) -> Option<&str> {
        self.loaded.get().map(OnnxRuntime::version)
    }
}

/// Builds encoders that run the folder's graph.
pub(super) fn encoders(
    model: &ModelConfig,
    folder: &ModelFolder,
    runtime: &Runtime,
    batch_tokens: usize,
) -> Result<Encoders, ModelLoadError> {
    let runtime = runtime.get()?;
    let graph = import(model, folder)?;
    let per_text = !graph.dynamic_quantization.is_empty();
    if per_text && model.dynamic_quantization == DynamicQuantization::Reject {
        let operators = graph.dynamic_quantization.join(", ");
        return Err(ModelLoadError::DynamicQuantization { graph: graph.path, operators });
    }
    let output_kind = match graph.output.kind {
        OutputKind::TokenEmbeddings => OnnxOutput::TokenEmbeddings(folder.head().clone()),
        OutputKind::SentenceEmbedding => OnnxOutput::SentenceEmbedding,
    };
    let config = OnnxConfig {
        graph: graph.path,
        inputs: graph.inputs.into_iter().map(input).collect(),
        output: graph.output.name,
        output_kind,
        provider: model.provider,
        intra_threads: model.threads,
        max_input_tokens: folder.max_input_tokens(),
        dimensions: folder.dimensions(),
        per_text,
    };
    let (factory, precision, workers) =
        (onnx_encoders(runtime, config), graph.precision, model.onnx_sessions);
    Ok(Encoders { factory, precision, workers, batch_tokens, per_text })
}

/// Returns the folder's graph, written first if it is missing or stale.
fn import(model: &ModelConfig, folder: &ModelFolder) -> Result<Graph, ModelLoadError> {
    let mut writing = false;
    let mut progress = |progress: ImportProgress| {
        if progress.stage == ImportStage::Writing && !writing {
            writing = true;
            tracing::info!(model = model.id, folder = %model.path.display(), "writing the ONNX graph of the model");
        }
    };
    model_import::import(folder, &mut progress).map_err(|source| match source {
        ImportError::Write { .. } => {
            ModelLoadError::Import { path: model.path.clone(), source: Box::new(source) }
        }
        source => ModelLoadError::Graph(source),
    })
}

fn input(input: GraphInput) -> OnnxInput {
    match input {
        GraphInput::InputIds => OnnxInput::InputIds,
        GraphInput::AttentionMask => OnnxInput::AttentionMask,
        GraphInput::TokenTypeIds => OnnxInput::TokenTypeIds,
        GraphInput::PositionIds(PositionIds::FromZero) => OnnxInput::PositionIds { after_padding: None },
        GraphInput::PositionIds(PositionIds::AfterPadding(padding)) => {
            OnnxInput::PositionIds { after_padding: Some(padding) }
        }
    }
}
