//! Model folders and engines on ONNX Runtime, for the tests that load it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use encoder_spec::{PositionIds, Task};
use inference::{
    Embeddings, Engine, EngineConfig, Input, Job, OnnxConfig, OnnxInput, OnnxOutput, OnnxRuntime, Prompt,
    Provider, Tokenizer, TruncationPolicy, onnx_encoders,
};
use model_import::{GraphInput, ModelFolder, OutputKind};
use serde::Deserialize;

/// Texts and the vectors that sentence-transformers computed for them.
#[derive(Deserialize)]
pub(crate) struct Reference {
    pub(crate) texts: Vec<String>,
    token_ids: Vec<Vec<u32>>,
    pub(crate) vectors: Vec<Vec<f32>>,
    /// Prompts by name.
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    /// Among others, `vectors_NAME` and `token_counts_NAME` of the texts with a prompt.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// Text of a prompt, or `None` for no prompt, with token counts and vectors of all texts.
type ReferenceCase = (Option<String>, Vec<u32>, Vec<Vec<f32>>);

impl Reference {
    pub(crate) fn of(folder: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap()
    }

    /// Returns the prompts of the vectors, `None` for no prompt, each with token counts and vectors.
    fn cases(&self) -> Vec<ReferenceCase> {
        let get = |name: &str| self.rest.get(name).cloned().map(serde_json::from_value);
        let vectors = |suffix: &str| get(&format!("vectors_{suffix}")).map(Result::unwrap);
        let tokens = |suffix: &str| -> Vec<u32> {
            serde_json::from_value(self.rest[&format!("token_counts_{suffix}")].clone()).unwrap()
        };
        // With a default prompt, the plain `vectors` are those with that prompt.
        let without = match vectors("without_prompt") {
            Some(vectors) => (None, tokens("without_prompt"), vectors),
            None => (None, self.token_ids.iter().map(|ids| ids.len() as u32).collect(), self.vectors.clone()),
        };
        let has_vectors = |name: &str| self.rest.contains_key(&format!("vectors_{name}"));
        let with = self.prompts.iter().filter(|(name, text)| !text.is_empty() && has_vectors(name));
        let with = with.map(|(name, text)| (Some(text.clone()), tokens(name), vectors(name).unwrap()));
        std::iter::once(without).chain(with).collect()
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

    pub(crate) fn tokenizer(&self) -> Tokenizer {
        Tokenizer::load(self.folder.tokenizer()).unwrap()
    }

    /// An engine with one worker.
    pub(crate) fn engine(&self, runtime: &OnnxRuntime, onnx: OnnxConfig, max_batch_tokens: usize) -> Engine {
        let folder = &self.folder;
        let config = EngineConfig {
            name: folder.family().to_owned(),
            tokenizer: self.tokenizer(),
            max_input_tokens: folder.max_input_tokens(),
            dimensions: folder.dimensions(),
            normalize: folder.normalize(),
            workers: 1,
            tokenizer_threads: 1,
            max_batch_tokens,
            max_batch_inputs: 64,
            task: Task::Embed,
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
            GraphInput::PositionIds(PositionIds::FromZero) => OnnxInput::PositionIds { after_padding: None },
            GraphInput::PositionIds(PositionIds::AfterPadding(padding)) => {
                OnnxInput::PositionIds { after_padding: Some(*padding) }
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
    embed_with_prompt(engine, texts, None)
}

fn embed_with_prompt(engine: &Engine, texts: &[&str], prompt: Option<Prompt>) -> Embeddings {
    let job = Job {
        inputs: texts.iter().map(|&text| Input::Text(text.to_owned())).collect(),
        prompt,
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

/// Largest difference of a value from its reference, on vectors of length 1. The tanh approximation of GELU instead of
/// the exact function moves a value by 4e-5.
const MAX_DIFFERENCE: f64 = 1e-5;

/// Runs the tiny models of all families on `provider`, each text alone and in a batch of all, and compares direction
/// and length of the vectors with sentence-transformers, since some models do not normalize.
pub(crate) fn tiny_models_give_the_reference_vectors(runtime: &OnnxRuntime, provider: Provider) {
    let tests = workspace().join("crates/model-import/tests/tiny-models");
    let mut failures = vec![];
    for entry in std::fs::read_dir(&tests).unwrap() {
        let source = entry.unwrap().path();
        let name = source.file_name().unwrap().to_string_lossy().into_owned();
        // These have no dense vectors. The gateway's tests run them on every backend.
        if ["ce-", "colbert-", "splade-"].iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        let reference = Reference::of(&source);
        let model = Model::copy(&source);
        let engine = model.engine(runtime, model.onnx(2, provider), 256);
        let mut worst = 0f64;
        for (prompt, tokens, vectors) in reference.cases() {
            let prompt = prompt.map(|text| {
                Prompt::new(&text, &model.tokenizer(), model.folder.head().include_prompt).unwrap()
            });
            let texts: Vec<&str> = reference.texts.iter().map(String::as_str).collect();
            let together = embed_with_prompt(&engine, &texts, prompt.clone());
            assert_eq!(together.tokens, tokens, "{name}");
            let rows = together.vectors.chunks_exact(together.dimensions);
            for ((row, expected), text) in rows.zip(&vectors).zip(&texts) {
                let alone = embed_with_prompt(&engine, &[text], prompt.clone()).vectors;
                worst =
                    [row, &alone].map(|found| difference(found, expected)).into_iter().fold(worst, f64::max);
            }
        }
        if worst > MAX_DIFFERENCE {
            failures.push(format!("{name} by {worst:.1e}"));
        }
    }
    assert!(failures.is_empty(), "differ from the reference: {}", failures.join(", "));
}

/// Largest difference of the values of two vectors after scaling both to length 1, or else the relative difference of
/// their lengths, if it is larger.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let length = |vector: &[f32]| vector.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let (found_length, expected_length) = (length(found), length(expected));
    let values = found.iter().zip(expected);
    let largest = values
        .map(|(&a, &b)| (f64::from(a) / found_length - f64::from(b) / expected_length).abs())
        .fold(0.0, f64::max);
    // NaN must not pass.
    let lengths = (found_length / expected_length - 1.0).abs();
    if largest.is_finite() && lengths.is_finite() { largest.max(lengths) } else { f64::INFINITY }
}
