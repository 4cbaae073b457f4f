//! The ONNX encoder on ONNX Runtime and real graphs, which `cargo xtask setup` downloads.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use inference::{Engine, OnnxConfig, OnnxInput, OnnxRuntime, Provider, StartError, Tokenizer, onnx_encoders};

use crate::model::{Model, Reference, copy_folder, embed, tiny_models_give_the_reference_vectors, workspace};

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
        let library = std::env::var_os("ORT_DYLIB_PATH")
            .map_or_else(|| workspace().join(".runtime/onnxruntime").join(name), PathBuf::from);
        assert!(library.exists(), "run `cargo xtask setup` first: no {library:?}");
        OnnxRuntime::load(&library).unwrap()
    })
}

fn engine(model: &Model, max_batch_tokens: usize, threads: usize) -> Engine {
    model.engine(runtime(), model.onnx(threads, Provider::Cpu), max_batch_tokens)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], context: &str) {
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert_eq!(found.len(), expected.len(), "{context}");
    assert!(cosine(found, expected) > 0.999_999 && largest < 2e-5, "{context}: differs by {largest}");
}

#[test]
fn tiny_models_give_the_reference_vectors_on_the_cpu_provider() {
    tiny_models_give_the_reference_vectors(runtime(), Provider::Cpu);
}

/// A folder with an exported graph and its external weights, without `model.safetensors`.
#[test]
fn an_exported_graph_gives_the_reference_vectors() {
    let source = crate::tiny_model("bert-mean");
    let exported = Model::copy(&source);
    let graph = model_import::import(&exported.folder, &mut |_| {}).unwrap().path;
    let root = tempfile::tempdir().unwrap();
    copy_folder(&source, root.path());
    std::fs::remove_file(root.path().join("model.safetensors")).unwrap();
    std::fs::create_dir(root.path().join("onnx")).unwrap();
    std::fs::copy(&graph, root.path().join("onnx/model.onnx")).unwrap();
    std::fs::copy(graph.with_extension("onnx.data"), root.path().join("onnx/embedgate.onnx.data")).unwrap();

    let model = Model::at(root);
    let reference = Reference::of(&source);
    let texts: Vec<&str> = reference.texts.iter().map(String::as_str).collect();
    let found = embed(&engine(&model, 256, 1), &texts);
    for ((row, expected), text) in found.vectors.chunks_exact(48).zip(&reference.vectors).zip(&texts) {
        assert_close(row, expected, text);
    }
}

/// A model of 8 dimensions with the tiny BERT's tokenizer, the network `graph` and mean pooling.
fn table_model(model_type: &str, graph: &[u8]) -> Model {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(root.path().join(name), text).unwrap();
    let config = r#""hidden_size": 8, "max_position_embeddings": 80, "pad_token_id": 1"#;
    write("config.json", &format!(r#"{{"model_type": "{model_type}", {config}}}"#));
    write("sentence_bert_config.json", r#"{"max_seq_length": 64, "do_lower_case": false}"#);
    let modules = r#"[{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
    write("modules.json", modules);
    std::fs::create_dir(root.path().join("1_Pooling")).unwrap();
    write("1_Pooling/config.json", r#"{"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true}"#);
    let tokenizer = crate::tiny_model("bert-mean").join("tokenizer.json");
    std::fs::copy(tokenizer, root.path().join("tokenizer.json")).unwrap();
    std::fs::write(root.path().join("model.onnx"), graph).unwrap();
    Model::at(root)
}

/// Ids of a text by the tiny BERT's tokenizer, special tokens included.
fn ids_of(text: &str) -> Vec<u32> {
    let tokenizer = Tokenizer::load(&crate::tiny_model("bert-mean").join("tokenizer.json")).unwrap();
    let mut ids = Vec::new();
    tokenizer.add_special_tokens(&tokenizer.encode(text).unwrap(), &mut ids);
    ids
}

fn graph(name: &str) -> Vec<u8> {
    std::fs::read(workspace().join("crates/model-import/tests/graphs").join(name)).unwrap()
}

/// Graphs that sum sin(0.37 id + j) and cos(0.11 position + j) for each token, one with int32 inputs and a float16
/// output, one with int64 inputs and a bfloat16 output. Positions start at 0, or after the padding id.
#[test]
fn graphs_with_position_ids_int32_inputs_and_half_precision_outputs_run() {
    let texts = ["I am so cold", "東京", "one", "the quick brown fox jumps over the lazy dog"];
    for (name, epsilon) in [("positions_int32_fp16.onnx", 2e-3), ("positions_int64_bf16.onnx", 1.5e-2)] {
        for (model_type, padding) in [("table", None), ("camembert", Some(1))] {
            let model = table_model(model_type, &graph(name));
            let found = embed(&engine(&model, 256, 1), &texts);
            for (row, text) in found.vectors.chunks_exact(8).zip(texts) {
                let ids = ids_of(text);
                for (column, found) in row.iter().enumerate() {
                    let (mut sum, mut next) = (0.0, padding.map_or(0, |padding| padding + 1));
                    for &id in &ids {
                        let position = if Some(id) == padding { id } else { next };
                        next += u32::from(Some(id) != padding);
                        let column = column as f32;
                        sum += (0.37 * id as f32 + column).sin() + (0.11 * position as f32 + column).cos();
                    }
                    let expected = sum / ids.len() as f32;
                    let context = format!("{name} {model_type} {text:?} column {column}");
                    assert!((found - expected).abs() < epsilon, "{context}: {found}, not {expected}");
                }
            }
        }
    }
}

/// Dynamic quantization has one scale for a whole batch, so such a graph must run each text in a batch of its own.
#[test]
fn a_dynamically_quantized_graph_is_run_one_text_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    copy_folder(&crate::tiny_model("bert-mean"), root.path());
    std::fs::remove_file(root.path().join("model.safetensors")).unwrap();
    std::fs::write(root.path().join("model.onnx"), graph("bert-mean_dynamic.onnx")).unwrap();
    let model = Model::at(root);
    let texts = ["I am so cold", "one two three", "the quick brown fox", "A man is eating food."];
    let bits = |onnx: &OnnxConfig| -> [Vec<u32>; 2] {
        let engine = model.engine(runtime(), onnx.clone(), 256);
        let alone = texts.iter().flat_map(|text| embed(&engine, &[text]).vectors).map(f32::to_bits);
        let alone = alone.collect();
        [alone, embed(&engine, &texts).vectors.into_iter().map(f32::to_bits).collect()]
    };

    let onnx = model.onnx(1, Provider::Cpu);
    assert!(onnx.per_text);
    let [alone, together] = bits(&onnx);
    assert!(alone == together, "a text's vector depends on its batch");
    // The same graph in batches. If these were equal, too, the test could not fail.
    let [batched_alone, batched] = bits(&OnnxConfig { per_text: false, ..onnx });
    assert!(batched_alone == alone);
    assert!(batched != alone, "the graph's vectors do not depend on their batch");

    let reference = Reference::of(&crate::tiny_model("bert-mean"));
    let texts: Vec<&str> = reference.texts.iter().map(String::as_str).collect();
    let found = embed(&engine(&model, 256, 1), &texts);
    for (row, expected) in found.vectors.chunks_exact(48).zip(&reference.vectors) {
        let cosine = cosine(row, expected);
        assert!(cosine > 0.99, "{cosine}");
    }
}

/// A graph with pooling: the mean over the rows of a table in which row `i` holds sin(8i) … sin(8i + 7).
#[test]
fn the_output_of_a_graph_with_pooling_is_not_pooled_again() {
    let model = table_model("table", include_bytes!("pooled.onnx"));
    let texts = ["I am so cold", "", "one"];
    let found = embed(&engine(&model, 256, 1), &texts);
    for (row, text) in found.vectors.chunks_exact(8).zip(texts) {
        let ids = ids_of(text);
        let mean = |column: u32| {
            ids.iter().map(|id| ((id * 8 + column) as f32).sin()).sum::<f32>() / ids.len() as f32
        };
        assert_close(row, &(0..8).map(mean).collect::<Vec<_>>(), text);
    }
}

/// The real model, with several batch budgets and numbers of threads.
#[test]
fn a_vector_does_not_depend_on_its_batch() {
    let model = Model::copy(&real_model());
    let long = "the quick brown fox jumps over the lazy dog ".repeat(20);
    let texts = ["hello", "", "naïve café, 東京 🚀", &long, "A man is eating food.", "hello"];
    let alone = engine(&model, 256, 1);
    let expected: Vec<Vec<f32>> = texts.iter().map(|text| embed(&alone, &[text]).vectors).collect();
    for (max_batch_tokens, threads) in [(256, 1), (600, 2), (16_384, 2)] {
        let engine = engine(&model, max_batch_tokens, threads);
        let found = embed(&engine, &texts);
        for ((row, expected), text) in found.vectors.chunks_exact(384).zip(&expected).zip(texts) {
            let context =
                format!("{text:.20?} with a budget of {max_batch_tokens} tokens on {threads} threads");
            let largest = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The order in which ONNX Runtime's GEMM kernels sum depends on the number of rows.
            assert!(largest < 1e-6, "{context}: differs by {largest}");
        }
    }
}

#[test]
fn the_error_about_a_missing_library_names_the_remedy() {
    let error = OnnxRuntime::load(Path::new("nowhere/libonnxruntime.so")).unwrap_err();
    assert!(matches!(error, StartError::Library { .. }));
    let message = error.to_string();
    assert!(message.contains("nowhere/libonnxruntime.so") && message.contains("ORT_DYLIB_PATH"), "{message}");
}

#[test]
fn a_process_can_load_one_library() {
    let loaded = runtime();
    assert!(loaded.version().starts_with("1."), "{}", loaded.version());
    assert_eq!(OnnxRuntime::load(loaded.library()).unwrap().library(), loaded.library());
    let other = OnnxRuntime::load(&std::env::current_exe().unwrap()).unwrap_err();
    assert!(matches!(other, StartError::Config(_)), "{other:?}");
}

/// The library that `cargo xtask setup` downloads has neither CUDA nor OpenVINO. Selecting one must fail, not fall
/// back.
#[test]
fn an_absent_provider_is_an_error() {
    let model = Model::copy(&crate::tiny_model("bert-mean"));
    for absent in [Provider::Cuda { device: 0 }, Provider::OpenVino] {
        let error = onnx_encoders(runtime(), model.onnx(1, absent))().err().unwrap();
        assert!(matches!(error, StartError::Provider { provider, .. } if provider == absent), "{error:?}");
        let message = error.to_string();
        assert!(message.starts_with(&format!("execution provider `{absent}` is not available")), "{message}");
        assert!(message.contains("set provider = \"cpu\""), "{message}");
    }
}

#[test]
fn a_graph_without_the_expected_names_is_rejected() {
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
