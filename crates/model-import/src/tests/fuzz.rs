//! The fuzz target of weights. A file that the safetensors library accepts is read to the same values, if all are
//! finite; any other file is an error.
//!
//! `cargo test` runs it on the corpus and a bounded number of random files. docs/fuzzing.md describes the run with a
//! coverage-guided fuzzer.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::fixture::Folder;
use crate::{
    ImportError,
    weights::{WEIGHTS, Weights},
};

/// A header and a few small tensors.
const MAX_LEN: usize = 2048;

#[test]
fn weights() {
    bolero::check!().with_max_len(MAX_LEN).with_iterations(1000).for_each(check);
}

fn check(file: &[u8]) {
    let folder = Folder::empty();
    folder.write(WEIGHTS, file);
    let opened = Weights::open(folder.path(), &[]);
    let Ok(original) = SafeTensors::deserialize(file) else {
        assert!(opened.is_err(), "not a safetensors file, but accepted");
        return;
    };
    let weights = opened.unwrap_or_else(|error| panic!("a safetensors file, but rejected: {error}"));
    assert_eq!(weights.bytes(), file.len() as u64);
    for (name, view) in original.tensors() {
        // These are found under another name.
        if name.ends_with(".gamma") || name.ends_with(".beta") {
            continue;
        }
        let found = weights.tensor(&name, view.shape());
        match values(&view) {
            Some(expected) if expected.iter().any(|value| !value.is_finite()) => {
                assert!(matches!(found, Err(ImportError::NotFinite { .. })), "{name:?}");
                let viewed = weights.view(&name, view.shape());
                assert!(matches!(viewed, Err(ImportError::NotFinite { .. })), "{name:?}");
            }
            Some(expected) => {
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found.unwrap()), bits(&expected), "{name:?}");
                let viewed = weights.view(&name, view.shape()).unwrap();
                assert_eq!(bits(&viewed), bits(&expected), "{name:?}");
            }
            None => assert!(matches!(found, Err(ImportError::TensorType { .. })), "{name:?}"),
        }
        let other = [view.shape(), &[1]].concat();
        let found = weights.tensor(&name, &other);
        assert!(matches!(found, Err(ImportError::TensorShape { .. })), "{name:?}");
    }
}

/// Returns the values of a tensor in f32, f16 or bf16.
fn values(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let words = || view.data().as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
    match view.dtype() {
        Dtype::F32 => {
            Some(view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
        }
        Dtype::F16 => Some(words().map(|bits| f16::from_bits(bits).to_f32()).collect()),
        Dtype::BF16 => Some(words().map(|bits| bf16::from_bits(bits).to_f32()).collect()),
        _ => None,
    }
}
