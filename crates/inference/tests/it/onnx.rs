//! The ONNX encoder on the real library and real graphs: needs what `cargo xtask setup` puts in place.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use inference::{
    Activation, Dense, Embeddings, Engine, EngineConfig, Head, Input, Job, OnnxConfig, OnnxInput, OnnxOutput,
    OnnxRuntime, Overlong, Pooling, Provider, StartError, onnx_encoders,
};
use model_import::{DenseActivation, GraphInput, ModelFolder, OutputKind, PoolingMode};
use serde::Deserialize;

/// What sentence-transformers computed for a model.
#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
}

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The default model's folder.
pub(crate) fn real_model() -> PathBuf {
    let folder = workspace().join("models/all-MiniLM-L6-v2");
    assert!(
        folder.join("model.safetensors").exists(),
        "run `cargo xtask setup` first: no weights in {folder:?}"
    );
    folder
}

fn runtime() -> &'static OnnxRuntime {
    static RUNTIME: OnceLock<OnnxRuntime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let name = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
        let library = workspace().join(".runtime/onnxruntime").join(name);
        assert!(library.exists(), "run `cargo xtask setup` first: no {library:?}");
        OnnxRuntime::load(&library).unwrap()
    })
}

/// A copy of a model folder, so that tests that import do not meet in one folder.
struct Model {
    _root: tempfile::TempDir,
    folder: ModelFolder,
}

impl Model {
    fn copy(from: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        copy_folder(from, root.path());
        Self { folder: ModelFolder::open(root.path()).unwrap(), _root: root }
    }

    fn engine(&self, batch_tokens: usize, threads: usize) -> Engine {
        let folder = &self.folder;
        let config = EngineConfig {
            name: folder.family().to_owned(),
            tokenizer: folder.tokenizer().to_owned(),
            window: folder.window(),
            dimensions: folder.dimensions(),
            normalize: folder.normalize(),
            workers: 1,
            tokenizer_threads: 1,
            batch_tokens,
            batch_inputs: 64,
            queue_tokens: 1 << 20,
            cache: None,
        };
        let encoders = onnx_encoders(runtime(), self.onnx(threads, Provider::Cpu));
        Engine::start(config, &encoders, Arc::new(())).unwrap()
    }

    fn onnx(&self, intra_threads: usize, provider: Provider) -> OnnxConfig {
        let folder = &self.folder;
        let graph = model_import::import(folder, &mut |_| {}).unwrap();
        let input = |input: &GraphInput| match input {
            GraphInput::InputIds => OnnxInput::InputIds,
            GraphInput::AttentionMask => OnnxInput::AttentionMask,
            GraphInput::TokenTypeIds => OnnxInput::TokenTypeIds,
        };
        let pooling = match folder.pooling() {
            PoolingMode::Mean => Pooling::Mean,
            PoolingMode::Cls => Pooling::Cls,
            PoolingMode::LastToken => Pooling::LastToken,
            other => panic!("no tiny model pools by {other:?}"),
        };
        let dense = folder.dense().iter().map(|layer| {
            let activation = match layer.activation {
                DenseActivation::Identity => Activation::Identity,
                DenseActivation::Tanh => Activation::Tanh,
            };
            Dense::new([layer.outputs, layer.inputs], layer.weight.clone(), layer.bias.clone(), activation)
                .unwrap()
        });
        OnnxConfig {
            graph: graph.path,
            inputs: graph.inputs.iter().map(input).collect(),
            output: graph.output.name,
            output_kind: match graph.output.kind {
                OutputKind::TokenEmbeddings => {
                    OnnxOutput::TokenEmbeddings(Head { pooling, dense: dense.collect() })
                }
                OutputKind::SentenceEmbedding => OnnxOutput::SentenceEmbedding,
            },
            provider,
            intra_threads,
            window: folder.window(),
            dimensions: folder.dimensions(),
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
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

fn embed(engine: &Engine, texts: &[&str]) -> Embeddings {
    let job = Job {
        inputs: texts.iter().map(|&text| Input::Text(text.to_owned())).collect(),
        overlong: Overlong::Truncate,
        deadline: Instant::now() + Duration::from_secs(300),
        max_tokens: usize::MAX,
    };
    engine.submit(job).unwrap().wait().unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], context: &str) {
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert_eq!(found.len(), expected.len(), "{context}");
    assert!(cosine(found, expected) > 0.999_999 && largest < 2e-5, "{context}: {largest} off");
}

/// Tiny models of every family that can be imported, against sentence-transformers: scale included, since
/// some do not normalise.
#[test]
fn tiny_models_give_the_reference_vectors() {
    let tests = crate::tiny_model("");
    let mut models = 0;
    for entry in std::fs::read_dir(&tests).unwrap() {
        let source = entry.unwrap().path();
        if !source.join("config.json").exists() {
            continue; // Only its tokenizer is kept.
        }
        let name = source.file_name().unwrap().to_string_lossy().into_owned();
        let reference = std::fs::read(source.join("reference.json")).unwrap();
        let reference: Reference = serde_json::from_slice(&reference).unwrap();
        let engine = Model::copy(&source).engine(256, 2);
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

/// A folder with a ready-made graph beside its weights' external data, as an exporter leaves it.
#[test]
fn a_ready_made_graph_gives_the_reference_vectors() {
    let source = crate::tiny_model("bert-mean");
    let exported = Model::copy(&source);
    let graph = model_import::import(&exported.folder, &mut |_| {}).unwrap().path;
    let root = tempfile::tempdir().unwrap();
    copy_folder(&source, root.path());
    std::fs::remove_file(root.path().join("model.safetensors")).unwrap();
    std::fs::create_dir(root.path().join("onnx")).unwrap();
    std::fs::copy(&graph, root.path().join("onnx/model.onnx")).unwrap();
    std::fs::copy(graph.with_extension("onnx.data"), root.path().join("onnx/embedgate.onnx.data")).unwrap();

    let model = Model { folder: ModelFolder::open(root.path()).unwrap(), _root: root };
    let reference = std::fs::read(source.join("reference.json")).unwrap();
    let reference: Reference = serde_json::from_slice(&reference).unwrap();
    let texts: Vec<&str> = reference.texts.iter().map(String::as_str).collect();
    let found = embed(&model.engine(256, 1), &texts);
    for ((row, expected), text) in found.vectors.chunks_exact(48).zip(&reference.vectors).zip(&texts) {
        assert_close(row, expected, text);
    }
}

/// A graph that pools by itself: the mean over the rows of a table in which row `i` holds sin(8i) … sin(8i + 7).
#[test]
fn a_graph_that_pools_is_taken_at_its_word() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(root.path().join(name), text).unwrap();
    write("config.json", r#"{"model_type": "table", "hidden_size": 8, "max_position_embeddings": 64}"#);
    write("sentence_bert_config.json", r#"{"max_seq_length": 64, "do_lower_case": false}"#);
    let modules = r#"[{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
    write("modules.json", modules);
    std::fs::create_dir(root.path().join("1_Pooling")).unwrap();
    write("1_Pooling/config.json", r#"{"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true}"#);
    let tokenizer = crate::tiny_model("bert-mean").join("tokenizer.json");
    std::fs::copy(&tokenizer, root.path().join("tokenizer.json")).unwrap();
    std::fs::write(root.path().join("model.onnx"), include_bytes!("pooled.onnx")).unwrap();

    let model = Model { folder: ModelFolder::open(root.path()).unwrap(), _root: root };
    let texts = ["I am so cold", "", "one"];
    let found = embed(&model.engine(256, 1), &texts);
    let tokenizer = inference::Tokenizer::load(&tokenizer).unwrap();
    for (row, text) in found.vectors.chunks_exact(8).zip(texts) {
        let mut ids = Vec::new();
        tokenizer.frame(&tokenizer.encode(text).unwrap(), &mut ids);
        let mean = |column: u32| {
            ids.iter().map(|id| ((id * 8 + column) as f32).sin()).sum::<f32>() / ids.len() as f32
        };
        assert_close(row, &(0..8).map(mean).collect::<Vec<_>>(), text);
    }
}

/// The real model's vectors, alone and in any company, under any batch budget.
#[test]
fn a_vector_does_not_depend_on_its_company() {
    let model = Model::copy(&real_model());
    let long = "the quick brown fox jumps over the lazy dog ".repeat(20);
    let texts = ["hello", "", "naïve café, 東京 🚀", &long, "A man is eating food.", "hello"];
    let alone = model.engine(256, 1);
    let expected: Vec<Vec<f32>> = texts.iter().map(|text| embed(&alone, &[text]).vectors).collect();
    for (batch_tokens, threads) in [(256, 1), (600, 2), (16_384, 2)] {
        let engine = model.engine(batch_tokens, threads);
        let found = embed(&engine, &texts);
        for ((row, expected), text) in found.vectors.chunks_exact(384).zip(&expected).zip(texts) {
            let context = format!("{text:.20?} with a budget of {batch_tokens} tokens on {threads} threads");
            let largest = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // ONNX Runtime's matrix kernels sum in another order for another number of rows.
            assert!(largest < 1e-6, "{context}: {largest} off");
        }
    }
}

#[test]
fn a_missing_library_names_the_remedy() {
    let error = OnnxRuntime::load(Path::new("nowhere/libonnxruntime.so")).unwrap_err();
    assert!(matches!(error, StartError::Library { .. }));
    let message = error.to_string();
    assert!(
        message.contains("nowhere/libonnxruntime.so") && message.contains("cargo xtask setup"),
        "{message}"
    );
}

#[test]
fn a_process_has_one_library() {
    let loaded = runtime();
    assert!(loaded.version().starts_with("1."), "{}", loaded.version());
    assert_eq!(OnnxRuntime::load(loaded.library()).unwrap().library(), loaded.library());
    let other = OnnxRuntime::load(&std::env::current_exe().unwrap()).unwrap_err();
    assert!(matches!(other, StartError::Config(_)), "{other:?}");
}

/// The library of the set-up has no CUDA: asking for it must fail, not fall back.
#[test]
fn an_absent_provider_is_an_error() {
    let model = Model::copy(&crate::tiny_model("bert-mean"));
    let encoders = onnx_encoders(runtime(), model.onnx(1, Provider::Cuda { device: 0 }));
    let error = encoders().err().unwrap();
    assert!(
        matches!(error, StartError::Provider { provider: Provider::Cuda { device: 0 }, .. }),
        "{error:?}"
    );
}

#[test]
fn a_graph_without_the_promised_names_is_refused() {
    let model = Model::copy(&crate::tiny_model("bert-mean"));
    let right = model.onnx(1, Provider::Cpu);
    let start = |config| onnx_encoders(runtime(), config)().err().unwrap().to_string();

    let error = start(OnnxConfig { output: "pooler_output".to_owned(), ..right.clone() });
    assert!(error.contains("no output `pooler_output`; it has: last_hidden_state"), "{error}");
    let inputs = vec![OnnxInput::InputIds, OnnxInput::AttentionMask, OnnxInput::TokenTypeIds];
    let error = start(OnnxConfig { inputs, ..right.clone() });
    assert!(error.contains("no input `token_type_ids`; it has: input_ids, attention_mask"), "{error}");
    let error = start(OnnxConfig { graph: model.folder.tokenizer().to_owned(), ..right });
    assert!(error.contains("cannot open the graph") && error.contains("tokenizer.json"), "{error}");
}
