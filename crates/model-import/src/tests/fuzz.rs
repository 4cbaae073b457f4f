//! The fuzz targets of weights. A file that the safetensors library accepts is read to the same values, if all are
//! finite; any other file is an error. The tensors that a pickle describes lie in their storages, and are found again
//! in a pickle that `torch.save` would write for them.
//!
//! `cargo test` runs them on the corpora and a bounded number of random files. docs/fuzzing.md describes the run with a
//! coverage-guided fuzzer.

use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{
    fixture::Folder,
    torch_save::{Tensor, file, state_dict},
};
use crate::{
    ImportError,
    float_type::FloatType,
    pytorch_bin,
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

#[test]
fn pickle() {
    bolero::check!().with_max_len(MAX_LEN).with_iterations(1000).for_each(check_pickle);
}

fn check_pickle(pickle: &[u8]) {
    const STORAGE: &[u8] = &[0; 64];
    let path = Path::new("pytorch_model.bin");
    let bytes = file(pickle, &[("0", STORAGE), ("1", STORAGE)]);
    let Ok(found) = pytorch_bin::read(path, &bytes) else { return };
    // Position of each storage in the file.
    let starts = ["model/data/0", "model/data/1"].map(|name| {
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&bytes)).unwrap();
        zip.by_name_raw(name.as_bytes()).unwrap().data_start().unwrap() as usize
    });
    let usable = || found.iter().filter_map(|tensor| Some((tensor, tensor.float_type.clone().ok()?)));
    let shapes: Vec<Vec<i64>> =
        usable().map(|(tensor, _)| tensor.shape.iter().map(|&size| size as i64).collect()).collect();
    let described: Vec<Tensor<'_>> = usable()
        .zip(&shapes)
        .map(|((tensor, float_type), shape)| {
            let (class, size) = match float_type {
                FloatType::F16 => ("HalfStorage", 2),
                FloatType::Bf16 => ("BFloat16Storage", 2),
                FloatType::F32 => ("FloatStorage", 4),
                FloatType::F64 => unreachable!("not a type of weights"),
            };
            let range = &tensor.bytes;
            assert_eq!(range.len(), tensor.shape.iter().product::<usize>() * size, "{tensor:?}");
            let lies_in = |&start: &usize| start <= range.start && range.end <= start + STORAGE.len();
            let storage = starts.iter().position(lies_in).unwrap_or_else(|| panic!("outside: {tensor:?}"));
            let offset = (range.start - starts[storage]) / size;
            Tensor {
                elements: (STORAGE.len() / size) as i64,
                offset: offset as i64,
                ..Tensor::new(&tensor.name, class, ["0", "1"][storage], shape)
            }
        })
        .collect();
    // The new pickle may have another length, which moves the storages.
    let again = file(&state_dict(&described), &[("0", STORAGE), ("1", STORAGE)]);
    let again = pytorch_bin::read(path, &again).unwrap();
    assert_eq!(again.len(), described.len());
    for ((tensor, _), same) in usable().zip(&again) {
        assert_eq!((&tensor.name, &tensor.shape), (&same.name, &same.shape));
        assert_eq!((&tensor.float_type, tensor.bytes.len()), (&same.float_type, same.bytes.len()));
    }
}
