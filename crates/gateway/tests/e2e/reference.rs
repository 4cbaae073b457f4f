//! The reference: 24 texts with the vectors and token counts of sentence-transformers in float32.

use std::{fs, path::Path, sync::LazyLock};

use bert_cpu::{Isa, Precision};
use serde_json::Value;

/// The model's folder, from the root of the checkout.
pub(crate) const FOLDER: &str = "models/all-MiniLM-L6-v2";

/// One text of the reference.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    pub(crate) text: String,
    /// Special tokens included, at most 256.
    pub(crate) tokens: u64,
    pub(crate) vector: Vec<f64>,
}

/// All of them; the empty text is among them.
pub(crate) static EXAMPLES: LazyLock<Vec<Example>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/all-MiniLM-L6-v2.reference.json");
    let data: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let list = |key: &str| data[key].as_array().unwrap().clone();
    let examples: Vec<_> = list("texts")
        .iter()
        .zip(list("token_counts"))
        .zip(list("vectors"))
        .map(|((text, tokens), vector)| Example {
            text: text.as_str().unwrap().to_owned(),
            tokens: tokens.as_u64().unwrap(),
            vector: vector.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect(),
        })
        .collect();
    assert_eq!(examples.len(), 24);
    examples
});

/// Examples that may be in a list, where OpenAI rejects the empty text.
pub(crate) fn listable() -> Vec<&'static Example> {
    EXAMPLES.iter().filter(|example| !example.text.is_empty()).collect()
}

pub(crate) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Minimum cosine to the reference in fp32.
pub(crate) const FP32: f64 = 0.99999;

/// Minimum cosine to the reference with default settings: those of bf16 if the CPU has native bf16 kernels.
pub(crate) fn served() -> f64 {
    if Isa::best(Precision::Bf16, None).is_some() { 0.9999 } else { FP32 }
}

/// Checks that `vector` has length 1 and is the example's in the default precision.
#[track_caller]
pub(crate) fn assert_same(vector: &[f64], example: &Example) {
    assert_near(vector, example, served());
}

/// Checks that `vector` has length 1 and at least this cosine to the example's.
#[track_caller]
pub(crate) fn assert_near(vector: &[f64], example: &Example, least: f64) {
    let text = &example.text;
    let norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!((norm - 1.0).abs() < 1e-5, "the vector of {text:?} has length {norm}");
    let cosine = cosine(vector, &example.vector);
    assert!(cosine >= least, "the vector of {text:?} has cosine {cosine} to the reference");
}
