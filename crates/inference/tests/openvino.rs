//! The ONNX encoder on OpenVINO. A test binary of its own, since a process can load only one ONNX Runtime, and
//! OpenVINO needs another build: `cargo xtask setup --openvino` downloads it. Without it both tests are reported as
//! ignored, which libtest cannot decide at run time, so libtest-mimic runs them.
#![allow(clippy::unwrap_used)]

#[path = "it/model.rs"]
mod model;

use inference::{OnnxRuntime, Provider};
use libtest_mimic::{Arguments, Completion, Trial};

use crate::model::{Model, embed, tiny_models_give_the_reference_vectors, workspace};

fn main() {
    let tests = vec![
        trial("tiny_models_give_the_reference_vectors", |runtime| {
            tiny_models_give_the_reference_vectors(runtime, Provider::OpenVino);
        }),
        trial("a_vector_does_not_depend_on_padding", a_vector_does_not_depend_on_padding),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

/// A test that is ignored if the build with OpenVINO has not been downloaded.
fn trial(name: &str, test: fn(&OnnxRuntime)) -> Trial {
    Trial::ignorable_test(name, move || {
        let library = workspace().join(".runtime/openvino/libonnxruntime.so");
        if !library.exists() {
            return Ok(Completion::ignored_with(
                "no ONNX Runtime with OpenVINO; `cargo xtask setup --openvino` downloads it",
            ));
        }
        test(&OnnxRuntime::load(&library).unwrap());
        Ok(Completion::Completed)
    })
}

/// For any padding to a shape bucket, a text's vector is the one that the CPU provider computes for it alone.
fn a_vector_does_not_depend_on_padding(runtime: &OnnxRuntime) {
    let model = Model::copy(&workspace().join("crates/model-import/tests/tiny-models/bert-mean"));
    let texts: Vec<String> = (0..40).map(|words| "one two three ".repeat(words)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let alone = model.engine(runtime, model.onnx(1, Provider::Cpu), 1);
    let expected = embed(&alone, &texts);
    for (max_batch_tokens, threads) in [(1, 1), (500, 2), (16_384, 1)] {
        let engine = model.engine(runtime, model.onnx(threads, Provider::OpenVino), max_batch_tokens);
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
