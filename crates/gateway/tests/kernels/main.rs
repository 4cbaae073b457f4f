//! Every backend from the model's folder to its vectors: tiny models of every family against the vectors of
//! sentence-transformers.
#![allow(clippy::unwrap_used)]

/// Defines one test for each native fp32 backend of this architecture, ignored if this CPU lacks the instruction set.
macro_rules! native_tests {
    ($($(#[doc = $doc:literal])* #[test] fn $name:ident($backend:ident: Backend) $body:block)+) => {$(
        $(#[doc = $doc])*
        fn $name($backend: Backend) $body

        mod $name {
            native_tests! { @each $name }
        }
    )+};
    (@each $name:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[test]
        #[cfg_attr(not(cpu_has = "avx2"), ignore = "this CPU has no AVX2")]
        fn avx2() {
            super::$name(gateway::Backend::Native(bert_cpu::Isa::Avx2));
        }

        #[cfg(target_arch = "x86_64")]
        #[test]
        #[cfg_attr(not(cpu_has = "avx512"), ignore = "this CPU has no AVX-512")]
        fn avx512() {
            super::$name(gateway::Backend::Native(bert_cpu::Isa::Avx512));
        }

        #[cfg(target_arch = "aarch64")]
        #[test]
        #[cfg_attr(not(cpu_has = "neon"), ignore = "this CPU has no NEON")]
        fn neon() {
            super::$name(gateway::Backend::Native(bert_cpu::Isa::Neon));
        }
    };
}

/// Defines the tests of `native_tests`, and one for ONNX Runtime.
macro_rules! backend_tests {
    ($($(#[doc = $doc:literal])* #[test] fn $name:ident($backend:ident: Backend) $body:block)+) => {$(
        $(#[doc = $doc])*
        fn $name($backend: Backend) $body

        mod $name {
            native_tests! { @each $name }

            #[test]
            fn onnxruntime() {
                super::$name(gateway::Backend::OnnxRuntime);
            }
        }
    )+};
}

mod proof;
mod rerank;
mod unusable;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use bert_cpu::Isa;
use gateway::{
    Backend, LoadError, Registry, SelectionReason,
    config::{Bytes, Config, DynamicQuantization, MaxIsa, ModelConfig, PrecisionSetting},
    load,
    metrics::Metrics,
};
use inference::{EmbedError, Embeddings, Input, Job, Prompt, Tokenizer, TruncationPolicy};
use model_import::ModelFolder;
use serde::Deserialize;
use testkit::model::{copy_folder, copy_tiny};

/// Token ids and vectors of a model, computed by sentence-transformers.
#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    token_ids: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
    /// Prompts by name.
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    /// Among others, `vectors_NAME` and `token_counts_NAME` of the texts with a prompt.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// Text of a prompt, or `None` for no prompt, with token counts and vectors of all texts.
type ReferenceCase<'r> = (Option<&'r str>, Vec<u32>, Vec<Vec<f32>>);

impl Reference {
    fn of(folder: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap()
    }

    /// Returns the prompts of the vectors, `None` for no prompt, each with token counts and vectors.
    fn cases(&self) -> Vec<ReferenceCase<'_>> {
        let tokens = |suffix: &str| -> Vec<u32> {
            serde_json::from_value(self.rest[&format!("token_counts_{suffix}")].clone()).unwrap()
        };
        let vectors = |suffix: &str| -> Vec<Vec<f32>> {
            serde_json::from_value(self.rest[&format!("vectors_{suffix}")].clone()).unwrap()
        };
        // With a default prompt, the plain `vectors` are those with that prompt.
        let without = match self.rest.contains_key("vectors_without_prompt") {
            true => (None, tokens("without_prompt"), vectors("without_prompt")),
            false => {
                (None, self.token_ids.iter().map(|ids| ids.len() as u32).collect(), self.vectors.clone())
            }
        };
        let has_vectors = |name: &str| self.rest.contains_key(&format!("vectors_{name}"));
        let with = self.prompts.iter().filter(|(name, text)| !text.is_empty() && has_vectors(name));
        let with = with.map(|(name, text)| (Some(text.as_str()), tokens(name), vectors(name)));
        std::iter::once(without).chain(with).collect()
    }
}

/// Copies a tiny model, because loading can write next to the weights.
fn tiny(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_tiny(name, copy.path()).unwrap();
    copy
}

fn config(folder: &Path, isa: MaxIsa) -> Config {
    let model = ModelConfig { isa, ..ModelConfig::builtin("tiny".to_owned(), folder.to_owned(), 2) };
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/onnxruntime/libonnxruntime.so");
    Config {
        models: vec![model],
        aliases: BTreeMap::new(),
        default_model: "tiny".to_owned(),
        onnxruntime_path: library.exists().then_some(library),
        ..Config::builtin(2)
    }
}

/// Settings that select `backend`.
fn config_for(folder: &Path, backend: Backend) -> Config {
    config(folder, backend.isa().map_or(MaxIsa::None, MaxIsa::At))
}

fn served(config: &Config) -> Result<Registry, LoadError> {
    load(config, &Metrics::new(["tiny"]), &AtomicBool::new(false))
}

fn embed(registry: &Registry, texts: &[impl AsRef<str>]) -> Result<Embeddings, EmbedError> {
    embed_with_prompt(registry, texts, None)
}

fn embed_with_prompt(
    registry: &Registry,
    texts: &[impl AsRef<str>],
    prompt: Option<Prompt>,
) -> Result<Embeddings, EmbedError> {
    let job = Job {
        inputs: texts.iter().map(|text| Input::Text(text.as_ref().to_owned())).collect(),
        prompt,
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + Duration::from_secs(300),
        max_tokens: usize::MAX,
        caller: None,
    };
    registry.find("tiny").unwrap().loaded().unwrap().engine.submit(job).unwrap().wait()
}

/// Error of a failed load, with all its sources.
fn load_error(config: &Config) -> String {
    let error = served(config).err().unwrap();
    let mut error: &dyn std::error::Error = &error;
    let mut message = error.to_string();
    while let Some(source) = error.source() {
        error = source;
        message += &format!(": {error}");
    }
    message
}

/// Largest absolute difference between the values of two lists of vectors.
fn max_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

const MODELS: [&str; 24] = [
    "albert-mean",
    "bert-cls",
    "bert-instructor-mean",
    "bert-mean",
    "bert-modules",
    "bert-prompts-mean",
    "camembert-mean",
    "distilbert-cls",
    "distilbert-dense",
    "electra-mean",
    "gemma3-mean",
    "gte-cls",
    "gte-new-cls",
    "modernbert-long",
    "modernbert-mean",
    "mpnet-mean",
    "nomic-mean",
    "nomic-mean-hub",
    "qwen3-last",
    "qwen3-prompts-last",
    "roberta-mean",
    "t5-encoder-mean",
    "xlm-roberta-bin",
    "xlm-roberta-mean",
];

/// Models with each kind of tokenizer.
const TOKENIZERS: [&str; 3] = ["bert-mean", "roberta-mean", "xlm-roberta-mean"];

/// Largest difference of a value from its reference. The tanh approximation of GELU instead of the exact function moves
/// a value by 4e-5.
const MAX_DIFFERENCE: f32 = 1e-5;

backend_tests! {
    #[test]
    fn tiny_models_give_the_reference_vectors_and_token_counts(backend: Backend) {
        for name in MODELS {
            let folder = tiny(name);
            let reference = Reference::of(folder.path());
            assert!(reference.texts.iter().any(|text| text.trim() != text), "{name}: no text with white space");
            let model = ModelFolder::open(folder.path()).unwrap();
            let tokenizer = Tokenizer::load(model.tokenizer()).unwrap();
            let registry = served(&config_for(folder.path(), backend)).unwrap();
            assert_eq!(registry.find("tiny").unwrap().loaded().unwrap().selection.backend, backend, "{name}");
            for (prompt, tokens, vectors) in reference.cases() {
                let include_prompt = model.head().include_prompt;
                let prompt = prompt.map(|text| Prompt::new(text, &tokenizer, include_prompt).unwrap());
                let together = embed_with_prompt(&registry, &reference.texts, prompt.clone()).unwrap();
                assert_eq!(together.tokens, tokens, "{name}");
                // Some vectors are not normalized, so their values reach 3.
                let difference = max_difference(&together.vectors, &vectors.concat());
                assert!(difference < MAX_DIFFERENCE, "{name}: off by {difference}");
                // A new server, so that its cache is empty.
                let registry = served(&config_for(folder.path(), backend)).unwrap();
                for ((text, expected), tokens) in reference.texts.iter().zip(&vectors).zip(&tokens) {
                    let alone = embed_with_prompt(&registry, &[text], prompt.clone()).unwrap();
                    assert_eq!(alone.tokens, [*tokens], "{name}: {text:?}");
                    let difference = max_difference(&alone.vectors, expected);
                    assert!(difference < MAX_DIFFERENCE, "{name}: {text:?} is off by {difference}");
                }
            }
        }
    }

    /// As in sentence-transformers before release 5.4.
    #[test]
    fn strip_whitespace_gives_the_vector_of_the_trimmed_text(backend: Backend) {
        for name in TOKENIZERS {
            let folder = tiny(name);
            let mut config = config_for(folder.path(), backend);
            let keeping = served(&config).unwrap();
            config.models[0].strip_whitespace = true;
            let stripping = served(&config).unwrap();
            let texts = ["  text\n", "\u{1c}UPPER lower\u{3000}", " \t "];
            let trimmed = texts.map(|text| text.trim_matches(|c: char| c.is_whitespace() || c == '\u{1c}'));
            let (found, expected) = (embed(&stripping, &texts).unwrap(), embed(&keeping, &trimmed).unwrap());
            assert_eq!(found.tokens, expected.tokens, "{name}");
            let difference = max_difference(&found.vectors, &expected.vectors);
            assert!(difference < 1e-6, "{name}: off by {difference}");
            let kept = embed(&keeping, &texts).unwrap();
            let depends_on_whitespace = name.contains("roberta");
            let differs = max_difference(&kept.vectors, &expected.vectors) > 0.01;
            assert_eq!(differs, depends_on_whitespace, "{name}");
        }
    }
}

native_tests! {
    #[test]
    fn native_kernels_need_neither_graph_nor_onnx_runtime(backend: Backend) {
        let folder = tiny("bert-mean");
        let config = Config { onnxruntime_path: None, ..config_for(folder.path(), backend) };
        let registry = served(&config).unwrap();
        let has_fast_bf16 = Isa::AmxBf16.is_available() || bert_cpu::is_bf16_faster();
        let is_fastest = !has_fast_bf16 && backend.isa() == Isa::best(bert_cpu::Precision::Fp32, None);
        let reason = if is_fastest { SelectionReason::Best } else { SelectionReason::Capped };
        assert_eq!(registry.find("tiny").unwrap().loaded().unwrap().selection.reason, reason);
        assert!(!folder.path().join("embedgate.onnx").exists());
    }
}

/// Folder of the tiny BERT with its graph from ONNX Runtime's `quantize_dynamic`, and settings that select this graph.
fn dynamically_quantized() -> (tempfile::TempDir, Config) {
    let folder = tiny("bert-mean");
    let graphs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-import/tests/graphs");
    copy_folder(&graphs, &folder.path().join("onnx")).unwrap();
    let mut config = config(folder.path(), MaxIsa::Best);
    config.models[0].onnx_file = Some("onnx/bert-mean_dynamic.onnx".into());
    (folder, config)
}

#[test]
fn a_dynamically_quantized_graph_gives_an_input_the_same_vector_in_every_batch() {
    let (folder, mut config) = dynamically_quantized();
    let texts = Reference::of(folder.path()).texts;
    let bits = |vectors: Vec<f32>| vectors.into_iter().map(f32::to_bits).collect::<Vec<_>>();

    // Without the cache: each text alone, then all in one request.
    config.cache.memory = Bytes(0);
    let registry = served(&config).unwrap();
    let alone: Vec<u32> = texts
        .iter()
        .flat_map(|text| bits(embed(&registry, std::slice::from_ref(text)).unwrap().vectors))
        .collect();
    assert!(bits(embed(&registry, &texts).unwrap().vectors) == alone, "one request");
    // Then in concurrent requests.
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (registry, texts) = (&registry, &texts);
                scope.spawn(move || {
                    let mut texts = texts.clone();
                    texts.rotate_left(client);
                    embed(registry, &texts).unwrap().vectors
                })
            })
            .collect();
        for (client, vectors) in clients.into_iter().enumerate() {
            let mut expected = alone.clone();
            expected.rotate_left(client * alone.len() / texts.len());
            assert!(bits(vectors.join().unwrap()) == expected, "concurrent requests");
        }
    });

    let model = registry.find("tiny").unwrap().loaded().unwrap();
    assert!(model.per_text);
    assert_eq!(model.selection.reason, SelectionReason::OnnxFile);
    let line = model.describe();
    let expected = "cpu int8 onnxruntime (`onnx_file` names a graph) · one text at a time";
    assert!(line.contains(expected), "{line}");
}

#[test]
fn a_dynamically_quantized_graph_is_rejected_if_the_settings_say_so() {
    let (_folder, mut config) = dynamically_quantized();
    config.models[0].dynamic_quantization = DynamicQuantization::Reject;
    let message = load_error(&config);
    for part in
        ["bert-mean_dynamic.onnx", "DynamicQuantizeLinear, MatMulInteger", "\"per-text\"", "`onnx_file`"]
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    // Other graphs are accepted.
    config.models[0].onnx_file = None;
    config.models[0].isa = MaxIsa::None;
    let registry = served(&config).unwrap();
    assert!(!registry.find("tiny").unwrap().loaded().unwrap().per_text);
}

#[test]
fn an_unusable_graph_is_described_in_the_error() {
    let (folder, mut config) = dynamically_quantized();
    config.models[0].onnx_file = Some("onnx/positions_int32_fp16.onnx".into());
    let unfit = load_error(&config);
    let expected = "its output `last_hidden_state` is float16 [batch, sequence, 8]";
    assert!(
        unfit.contains(expected) && !unfit.contains("model import") && !unfit.contains("Some("),
        "{unfit}"
    );

    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    config.models[0].onnx_file = None;
    let undecided = load_error(&config);
    let expected =
        "`onnx/bert-mean_dynamic.onnx`, `onnx/ce-bert_logits.onnx`, `onnx/positions_int32_fp16.onnx`";
    assert!(undecided.contains(expected) && undecided.contains("`onnx_file`"), "{undecided}");
}

#[test]
fn an_unavailable_backend_is_an_error_with_its_remedy() {
    let folder = tiny("bert-mean");
    let without = Config { onnxruntime_path: None, ..config(folder.path(), MaxIsa::None) };
    let remedies = ["--onnxruntime-path", "ORT_DYLIB_PATH"];
    assert!(remedies.iter().all(|remedy| load_error(&without).contains(remedy)), "{}", load_error(&without));
    let mut bf16 = config(folder.path(), MaxIsa::None);
    bf16.models[0].precision = PrecisionSetting::Bf16;
    assert!(load_error(&bf16).contains("precision = \"bf16\" is unavailable"), "{}", load_error(&bf16));
}
