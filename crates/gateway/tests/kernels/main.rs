//! Every way to compute a model that this machine has, from the model's folder to its vectors: the tiny models of
//! four families, against what sentence-transformers computed for them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod unusable;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use bert_cpu::Isa;
use gateway::{
    Kernels, LoadError, Registry, Why,
    config::{Bytes, Config, DynamicQuantization, IsaCap, ModelConfig, PrecisionWish},
    load,
    metrics::Metrics,
};
use inference::{EmbedError, Embeddings, Input, Job, TruncationPolicy};
use serde::Deserialize;

/// Token ids and vectors that sentence-transformers computed for a model.
#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    token_ids: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

impl Reference {
    fn of(folder: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap()
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A copy of a tiny model, in a folder of its own: loading may write next to the weights.
fn tiny(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&workspace().join("crates/model-import/tests/tiny-models").join(name), copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn config(folder: &Path, isa: IsaCap) -> Config {
    let model = ModelConfig { isa, ..ModelConfig::builtin("tiny".to_owned(), folder.to_owned(), 2) };
    let library = workspace().join(".runtime/onnxruntime/libonnxruntime.so");
    Config {
        models: vec![model],
        aliases: BTreeMap::new(),
        default_model: "tiny".to_owned(),
        onnxruntime_path: library.exists().then_some(library),
        ..Config::builtin(2)
    }
}

fn served(config: &Config) -> Result<Registry, LoadError> {
    load(config, &Metrics::new(["tiny"]), &AtomicBool::new(false))
}

fn embed(registry: &Registry, texts: &[impl AsRef<str>]) -> Result<Embeddings, EmbedError> {
    let job = Job {
        inputs: texts.iter().map(|text| Input::Text(text.as_ref().to_owned())).collect(),
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + Duration::from_secs(300),
        max_tokens: usize::MAX,
        caller: None,
    };
    registry.find("tiny").unwrap().engine.submit(job).unwrap().wait()
}

/// The error of a start that was refused, with all its sources.
fn refused(config: &Config) -> String {
    let error = served(config).err().unwrap();
    let mut error: &dyn std::error::Error = &error;
    let mut message = error.to_string();
    while let Some(source) = error.source() {
        error = source;
        message += &format!(": {error}");
    }
    message
}

/// The largest difference between two runs of vectors.
fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

/// Every cap under which this machine computes differently, and the kernels to expect.
fn ways() -> Vec<(IsaCap, Kernels)> {
    let own = Isa::ALL.into_iter().filter(|isa| {
        let present = isa.is_available() && isa.precision() == bert_cpu::Precision::Fp32;
        if !present {
            println!("NOT RUN IN PART: {isa} is not here, or has tests of its own");
        }
        present
    });
    own.map(|isa| (IsaCap::At(isa), Kernels::Own(isa)))
        .chain([(IsaCap::None, Kernels::OnnxRuntime)])
        .collect()
}

const MODELS: [&str; 6] =
    ["bert-cls", "bert-mean", "distilbert-cls", "distilbert-dense", "roberta-mean", "xlm-roberta-mean"];

#[test]
fn tiny_models_give_the_reference_vectors_and_token_counts_with_all_kernels() {
    for name in MODELS {
        let folder = tiny(name);
        let reference = Reference::of(folder.path());
        assert!(reference.texts.iter().any(|text| text.trim() != text), "{name}: no text with white space");
        let tokens: Vec<u32> = reference.token_ids.iter().map(|ids| ids.len() as u32).collect();
        for (cap, kernels) in ways() {
            let registry = served(&config(folder.path(), cap)).unwrap();
            assert_eq!(registry.find("tiny").unwrap().choice.kernels, kernels, "{name}");
            let together = embed(&registry, &reference.texts).unwrap();
            assert_eq!(together.tokens, tokens, "{name} with {kernels}");
            // Some are not normalised, so their values reach 3.
            let worst_together = worst(&together.vectors, &reference.vectors.concat());
            assert!(worst_together < 6e-6, "{name} with {kernels}: off by {worst_together}");
            // A server of its own, so that no cache answers.
            let registry = served(&config(folder.path(), cap)).unwrap();
            for ((text, expected), tokens) in reference.texts.iter().zip(&reference.vectors).zip(&tokens) {
                let alone = embed(&registry, &[text]).unwrap();
                assert_eq!(alone.tokens, [*tokens], "{name} with {kernels}: {text:?}");
                let worst = worst(&alone.vectors, expected);
                assert!(worst < 6e-6, "{name} with {kernels}: {text:?} is off by {worst}");
            }
        }
    }
}

/// As sentence-transformers did before release 5.4.
#[test]
fn strip_whitespace_gives_the_vector_of_the_trimmed_text() {
    for name in MODELS {
        let folder = tiny(name);
        for (cap, kernels) in ways() {
            let mut config = config(folder.path(), cap);
            let keeping = served(&config).unwrap();
            config.models[0].strip_whitespace = true;
            let stripping = served(&config).unwrap();
            let texts = ["  text\n", "\u{1c}UPPER lower\u{3000}", " \t "];
            let trimmed = texts.map(|text| text.trim_matches(|c: char| c.is_whitespace() || c == '\u{1c}'));
            let (found, expected) = (embed(&stripping, &texts).unwrap(), embed(&keeping, &trimmed).unwrap());
            assert_eq!(found.tokens, expected.tokens, "{name} with {kernels}");
            let off = worst(&found.vectors, &expected.vectors);
            assert!(off < 1e-6, "{name} with {kernels}: off by {off}");
            let kept = embed(&keeping, &texts).unwrap();
            let keeps = ["roberta-mean", "xlm-roberta-mean"].contains(&name);
            assert_eq!(worst(&kept.vectors, &expected.vectors) > 0.01, keeps, "{name} with {kernels}");
        }
    }
}

#[test]
fn our_own_kernels_need_neither_graph_nor_library() {
    let folder = tiny("bert-mean");
    let Some((cap, _)) = ways().into_iter().find(|(cap, _)| *cap != IsaCap::None) else {
        return println!("NOT RUN: no kernels of our own for this processor");
    };
    let config = Config { onnxruntime_path: None, ..config(folder.path(), cap) };
    let registry = served(&config).unwrap();
    let best = Isa::best(bert_cpu::Precision::Fp32, None).map(IsaCap::At);
    let uncapped = best == Some(cap) && Isa::best(bert_cpu::Precision::Bf16, None).is_none();
    let why = if uncapped { Why::NoBf16 } else { Why::Capped };
    assert_eq!(registry.find("tiny").unwrap().choice.why, why);
    assert!(!folder.path().join("embedgate.onnx").exists());
}

/// The tiny BERT with the output of ONNX Runtime's `quantize_dynamic` for it, and the settings that choose this graph.
fn dynamically_quantised() -> (tempfile::TempDir, Config) {
    let folder = tiny("bert-mean");
    copy_folder(&workspace().join("crates/model-import/tests/graphs"), &folder.path().join("onnx"));
    let mut config = config(folder.path(), IsaCap::Best);
    config.models[0].onnx_file = Some("onnx/bert-mean_dynamic.onnx".into());
    (folder, config)
}

#[test]
fn a_dynamically_quantised_graph_gives_a_text_one_vector_in_any_company() {
    let (folder, mut config) = dynamically_quantised();
    let reference = std::fs::read(folder.path().join("reference.json")).unwrap();
    let texts = serde_json::from_slice::<Reference>(&reference).unwrap().texts;
    let bits = |vectors: Vec<f32>| vectors.into_iter().map(f32::to_bits).collect::<Vec<_>>();

    // Without the cache: each text is computed alone, then all in one request.
    config.cache.memory = Bytes(0);
    let registry = served(&config).unwrap();
    let alone: Vec<u32> = texts
        .iter()
        .flat_map(|text| bits(embed(&registry, std::slice::from_ref(text)).unwrap().vectors))
        .collect();
    assert!(bits(embed(&registry, &texts).unwrap().vectors) == alone, "one request");
    // Then together with the texts of other clients, which send at the same time.
    std::thread::scope(|scope| {
        let strangers: Vec<_> = (0..4)
            .map(|stranger| {
                let (registry, texts) = (&registry, &texts);
                scope.spawn(move || {
                    let mut texts = texts.clone();
                    texts.rotate_left(stranger);
                    embed(registry, &texts).unwrap().vectors
                })
            })
            .collect();
        for (stranger, vectors) in strangers.into_iter().enumerate() {
            let mut expected = alone.clone();
            expected.rotate_left(stranger * alone.len() / texts.len());
            assert!(bits(vectors.join().unwrap()) == expected, "requests at the same time");
        }
    });

    let model = registry.find("tiny").unwrap();
    assert!(model.per_text);
    assert_eq!(model.choice.why, Why::OnnxFile);
    let line = model.describe();
    let said = "cpu int8 onnxruntime (onnx_file names the graph) · one text at a time";
    assert!(line.contains(said), "{line}");
}

#[test]
fn a_dynamically_quantised_graph_is_refused_where_the_settings_say_so() {
    let (_folder, mut config) = dynamically_quantised();
    config.models[0].dynamic_quantization = DynamicQuantization::Reject;
    let message = refused(&config);
    for part in
        ["bert-mean_dynamic.onnx", "DynamicQuantizeLinear, MatMulInteger", "\"per-text\"", "`onnx_file`"]
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    // Other graphs are not.
    config.models[0].onnx_file = None;
    config.models[0].isa = IsaCap::None;
    let registry = served(&config).unwrap();
    assert!(!registry.find("tiny").unwrap().per_text);
}

#[test]
fn a_graph_that_cannot_be_used_is_described_in_words() {
    let (folder, mut config) = dynamically_quantised();
    config.models[0].onnx_file = Some("onnx/positions_int32_fp16.onnx".into());
    let unfit = refused(&config);
    let said = "its output `last_hidden_state` is float16 [batch, sequence, 8]";
    assert!(unfit.contains(said) && !unfit.contains("model import") && !unfit.contains("Some("), "{unfit}");

    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    config.models[0].onnx_file = None;
    let undecided = refused(&config);
    let said =
        "`onnx/bert-mean_dynamic.onnx`, `onnx/positions_int32_fp16.onnx`, `onnx/positions_int64_bf16.onnx`";
    assert!(undecided.contains(said) && undecided.contains("`onnx_file`"), "{undecided}");
}

#[test]
fn what_cannot_be_had_is_an_error_that_says_what_to_do() {
    let folder = tiny("bert-mean");
    let without = Config { onnxruntime_path: None, ..config(folder.path(), IsaCap::None) };
    let remedies = ["--onnxruntime-path", "ORT_DYLIB_PATH"];
    assert!(remedies.iter().all(|remedy| refused(&without).contains(remedy)), "{}", refused(&without));
    let mut bf16 = config(folder.path(), IsaCap::None);
    bf16.models[0].precision = PrecisionWish::Bf16;
    assert!(refused(&bf16).contains("precision = \"bf16\" cannot be had"), "{}", refused(&bf16));
}
