//! The inference crate from outside: the engine on a fake encoder, the tokenizer against the released
//! library, and the ONNX encoder on real graphs.
#![allow(clippy::unwrap_used)]

mod admission;
mod engine;
mod model;
mod onnx;
mod reuse;
mod rig;
mod texts;
mod tier;
mod tokenizer;
mod turns;

use std::path::PathBuf;

/// A tiny model that belongs to the tests of `model-import`.
fn tiny_model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../model-import/tests/tiny-models").join(name)
}
