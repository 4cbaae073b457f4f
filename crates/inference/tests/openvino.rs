//! The ONNX encoder on OpenVINO. A test binary of its own, since a process can load only one ONNX Runtime, and OpenVINO
//! needs another build: `cargo xtask setup --openvino` fetches it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "it/model.rs"]
mod model;

use inference::{OnnxRuntime, Provider};

use crate::model::{Model, embed, tiny_models_give_the_reference_vectors, workspace};

/// The build with OpenVINO; `None` where it has not been fetched.
fn runtime() -> Option<OnnxRuntime> {
    let library = workspace().join(".runtime/openvino/libonnxruntime.so");
    if !library.exists() {
        println!("NOT RUN: no ONNX Runtime with OpenVINO; `cargo xtask setup --openvino` fetches it");
        return None;
    }
    Some(OnnxRuntime::load(&library).unwrap())
}

#[test]
fn tiny_models_on_openvino() {
    let Some(runtime) = runtime() else { return };
    tiny_models_give_the_reference_vectors(&runtime, Provider::OpenVino);
}

/// Whatever shape a batch is padded to, and whatever rows are added, a text's vector is its own.
#[test]
fn a_vector_depends_on_no_padding() {
    let Some(runtime) = runtime() else { return };
    let model = Model::copy(&workspace().join("crates/model-import/tests/tiny-models/bert-mean"));
    let texts: Vec<String> = (0..40).map(|words| "one two three ".repeat(words)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let alone = model.engine(&runtime, model.onnx(1, Provider::Cpu), 1);
    let expected = embed(&alone, &texts);
    for (max_batch_tokens, threads) in [(1, 1), (500, 2), (16_384, 1)] {
        let engine = model.engine(&runtime, model.onnx(threads, Provider::OpenVino), max_batch_tokens);
        let found = embed(&engine, &texts);
        for (number, (a, b)) in found.vectors.iter().zip(&expected.vectors).enumerate() {
            let text = texts[number / found.dimensions];
            assert!(
                (a - b).abs() < 2e-6,
                "{text:.20?}: {a} and {b} with a budget of {max_batch_tokens} tokens"
            );
        }
    }
}
