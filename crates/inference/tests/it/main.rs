//! The inference crate from outside: the engine on a fake encoder, the tokenizer against the released library, and
//! the ONNX encoder on real graphs.
#![allow(clippy::unwrap_used)]

mod admission;
mod deduplication;
mod engine;
mod generated_texts;
mod harness;
mod model;
mod onnx;
mod positions;
mod prompt;
mod remote_cache;
mod scheduling;
mod tokenizer;

use std::path::PathBuf;

/// A tiny model in the tests of `model-import`.
fn tiny_model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../model-import/tests/tiny-models").join(name)
}
