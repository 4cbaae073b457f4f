//! Model folders and engines on ONNX Runtime, for the tests that load it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use inference::{
    Embeddings, Engine, EngineConfig, Input, Job, OnnxConfig, OnnxInput, OnnxOutput, OnnxRuntime, Provider,
    Tokenizer, TruncationPolicy, onnx_encoders,
};
use model_import::{GraphInput, ModelFolder, OutputKind, Positions};
use serde::Deserialize;

/// Texts and the vectors that sentence-transformers computed for them.
#[derive(Deserialize)]
pub(crate) struct Reference {
    pub(crate) texts: Vec<String>,
    pub(crate) vectors: Vec<Vec<f32>>,
    /// The vectors with the prompt `query`, if the model has one.
    #[serde(default)]
    pub(crate) vectors_query: Vec<Vec<f32>>,
}

impl Reference {
    pub(crate) fn of(folder: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap()
    }
}

/// Maximum time for the texts of one job.
const EMBED_TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A copy of a model folder, so that tests which import it do not write into one folder.
pub(crate) struct Model {
    _root: tempfile::TempDir,
    pub(crate) folder: ModelFolder,
}

impl Model {
    pub(crate) fn copy(from: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        copy_folder(from, root.path());
        Self::at(root)
    }

    pub(crate) fn at(root: tempfile::TempDir) -> Self {
        Self { folder: ModelFolder::open(root.path()).unwrap(), _root: root }
    }

    /// An engine with one worker.
    pub(crate) fn engine(&self, runtime: &OnnxRuntime, onnx: OnnxConfig, max_batch_tokens: usize) -> Engine {
        let folder = &self.folder;
        let config = EngineConfig {
            name: folder.family().to_owned(),
            tokenizer: Tokenizer::load(folder.tokenizer()).unwrap(),
            max_input_tokens: folder.max_input_tokens(),
            dimensions: folder.dimensions(),
            normalize: folder.normalize(),
            workers: 1,
            tokenizer_threads: 1,
            max_batch_tokens,
            max_batch_inputs: 64,
            max_queue_tokens: 1 << 20,
            cache: None,
        };
        let encoders = onnx_encoders(runtime, onnx);
        Engine::start(config, &encoders, Arc::new(())).unwrap()
    }

    pub(crate) fn onnx(&self, intra_threads: usize, provider: Provider) -> OnnxConfig {
        let folder = &self.folder;
        let graph = model_import::import(folder, &mut |_| {}).unwrap();
        let input = |input: &GraphInput| match input {
            GraphInput::InputIds => OnnxInput::InputIds,
            GraphInput::AttentionMask => OnnxInput::AttentionMask,
            GraphInput::TokenTypeIds => OnnxInput::TokenTypeIds,
            GraphInput::PositionIds(Positions::FromZero) => OnnxInput::PositionIds { after_padding: None },
            GraphInput::PositionIds(Positions::AfterPadding(padding)) => {
                OnnxInput::PositionIds { after_padding: Some(u32::try_from(*padding).unwrap()) }
            }
        };
        OnnxConfig {
            graph: graph.path,
            inputs: graph.inputs.iter().map(input).collect(),
            output: graph.output.name,
            output_kind: match graph.output.kind {
                OutputKind::TokenEmbeddings => OnnxOutput::TokenEmbeddings(folder.head().clone()),
                OutputKind::SentenceEmbedding => OnnxOutput::SentenceEmbedding,
            },
            provider,
            intra_threads,
            max_input_tokens: folder.max_input_tokens(),
            dimensions: folder.dimensions(),
            per_text: !graph.dynamic_quantization.is_empty(),
        }
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if !entry.file_name().to_string_lossy().starts_with("embedgate.") {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) fn embed(engine: &Engine, texts: &[&str]) -> Embeddings {
    let job = Job {
        inputs: texts.iter().map(|&text| Input::Text(text.to_owned())).collect(),
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + EMBED_TIMEOUT,
        max_tokens: usize::MAX,
        caller: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let ticket = engine.submit(job).unwrap();
    let result = runtime.block_on(async { tokio::time::timeout(EMBED_TIMEOUT, ticket).await });
    result.expect("the job has no result").unwrap()
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f32], context: &str) {
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert_eq!(found.len(), expected.len(), "{context}");
    assert!(cosine(found, expected) > 0.999_999 && largest < 2e-5, "{context}: differs by {largest}");
}

/// Runs the tiny models of all families on `provider`, and compares direction and length of the vectors with
/// sentence-transformers, since some models do not normalize.
pub(crate) fn tiny_models_give_the_reference_vectors(runtime: &OnnxRuntime, provider: Provider) {
    let tests = workspace().join("crates/model-import/tests/tiny-models");
    let mut models = 0;
    for entry in std::fs::read_dir(&tests).unwrap() {
        let source = entry.unwrap().path();
        if !source.join("config.json").exists() {
            continue; // The folder has only a tokenizer.
        }
        let name = source.file_name().unwrap().to_string_lossy().into_owned();
        let reference = Reference::of(&source);
        let model = Model::copy(&source);
        let engine = model.engine(runtime, model.onnx(2, provider), 256);
        let texts: Vec<&str> = reference.texts.iter().map(String::as_str).collect();
        let found = embed(&engine, &texts);
        let rows = found.vectors.chunks_exact(found.dimensions);
        for ((row, expected), text) in rows.zip(&reference.vectors).zip(&texts) {
            assert_close(row, expected, &format!("{name}: {text:?}"));
        }
        models += 1;
    }
    assert!(models >= 2, "found {models} tiny models");
}
