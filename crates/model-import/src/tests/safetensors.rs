//! Tests of reading weights: types, prefixes, shards, and invalid files.

use std::collections::HashMap;

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::{Dtype, serialize, tensor::TensorView};

use super::fixture::{Folder, assert_contains, message};
use crate::{
    ImportError,
    weights::{WEIGHTS, Weights},
};

const INDEX: &str = "model.safetensors.index.json";

const VALUES: [f32; 6] = [0.0, 1.0, -2.5, 0.125, 1024.0, -0.75];

/// A file of one tensor `name`, `[2, 3]`, holding [`VALUES`].
fn file(name: &str, dtype: Dtype) -> Vec<u8> {
    let bytes: Vec<u8> = match dtype {
        Dtype::F32 => VALUES.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F16 => VALUES.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => VALUES.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        Dtype::I64 | Dtype::F64 => [0; 48].to_vec(),
        other => unreachable!("{other:?}"),
    };
    let view = TensorView::new(dtype, vec![2, 3], &bytes).unwrap();
    serialize([(name, view)], None).unwrap()
}

fn open(folder: &Folder) -> Result<Weights, ImportError> {
    Weights::open(folder.path(), &["bert.", "model."])
}

/// A file with an arbitrary header before `data`.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn every_float_type_becomes_f32() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let folder = Folder::empty();
        folder.write(WEIGHTS, file("a", dtype));
        assert_eq!(open(&folder).unwrap().tensor("a", &[2, 3]).unwrap(), VALUES, "{dtype:?}");
    }
}

#[test]
fn tensors_are_found_with_any_prefix_and_under_old_norm_names() {
    for (stored, asked) in [
        ("a.weight", "a.weight"),
        ("bert.a.weight", "a.weight"),
        ("model.a.weight", "a.weight"),
        ("bert.x.LayerNorm.gamma", "x.LayerNorm.weight"),
        ("x.LayerNorm.beta", "x.LayerNorm.bias"),
    ] {
        let folder = Folder::empty();
        folder.write(WEIGHTS, file(stored, Dtype::F32));
        assert_eq!(open(&folder).unwrap().tensor(asked, &[2, 3]).unwrap(), VALUES, "{stored}");
    }
}

#[test]
fn shards_are_combined_and_a_missing_one_is_named() {
    let folder = Folder::empty();
    folder.write("first.safetensors", file("a", Dtype::F32));
    folder.write("second.safetensors", file("b", Dtype::F16));
    folder.write(INDEX, r#"{"weight_map": {"a": "first.safetensors", "b": "second.safetensors"}}"#);
    let weights = open(&folder).unwrap();
    assert_eq!(weights.tensor("a", &[2, 3]).unwrap(), VALUES);
    assert_eq!(weights.tensor("b", &[2, 3]).unwrap(), VALUES);

    folder.remove("second.safetensors");
    assert_contains(&message(&open(&folder).err().unwrap()), &["second.safetensors", "is missing"]);
    folder.write(INDEX, r#"{"weight_map": {"a": "../first.safetensors"}}"#);
    assert_contains(
        &message(&open(&folder).err().unwrap()),
        &[INDEX, "../first.safetensors", "inside the model folder"],
    );
}

#[test]
fn an_unsharded_file_is_preferred_to_shards() {
    let folder = Folder::empty();
    folder.write("old.safetensors", file("a", Dtype::F32));
    folder.write(INDEX, r#"{"weight_map": {"a": "old.safetensors"}}"#);
    folder.write(WEIGHTS, file("b", Dtype::F32));
    let weights = open(&folder).unwrap();
    assert_eq!(weights.tensor("b", &[2, 3]).unwrap(), VALUES);
    assert_contains(&message(&weights.tensor("a", &[2, 3]).unwrap_err()), &[WEIGHTS, "no tensor `a`"]);
}

#[test]
fn tensor_errors_name_tensor_shape_and_type() {
    let folder = Folder::empty();
    folder.write(WEIGHTS, file("bert.a", Dtype::F32));
    let weights = open(&folder).unwrap();
    assert_contains(&message(&weights.tensor("b", &[4]).unwrap_err()), &[WEIGHTS, "no tensor `b`", "[4]"]);
    assert_contains(
        &message(&weights.tensor("a", &[3, 2]).unwrap_err()),
        &[WEIGHTS, "`bert.a`", "[2, 3]", "[3, 2]"],
    );
    for (dtype, name) in [(Dtype::I64, "I64"), (Dtype::F64, "F64")] {
        folder.write(WEIGHTS, file("a", dtype));
        let error = open(&folder).unwrap().tensor("a", &[2, 3]).unwrap_err();
        assert_contains(&message(&error), &[WEIGHTS, &format!("`a` is {name}"), "F32, F16 or BF16"]);
    }
}

#[test]
fn invalid_safetensors_files_are_errors() {
    let whole = file("a", Dtype::F32);
    let tensor = |offsets: &str| {
        raw(&format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#), &[0; 8])
    };
    let cases: HashMap<&str, Vec<u8>> = HashMap::from([
        ("empty", vec![]),
        ("length cut", whole[..5].to_vec()),
        ("header cut", whole[..20].to_vec()),
        ("data cut", whole[..whole.len() - 1].to_vec()),
        ("bytes left over", [&whole[..], &[0]].concat()),
        ("absurd length", [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat()),
        ("length beyond the file", [&(1u64 << 20).to_le_bytes()[..], &whole[8..]].concat()),
        ("not JSON", raw("not json", &[])),
        ("not UTF-8", [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()),
        ("offsets beyond the file", tensor("[0,800]")),
        ("offsets backwards", tensor("[8,0]")),
        ("a hole", tensor("[4,8]")),
        (
            "shape overflow",
            raw(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,9],"data_offsets":[0,8]}}"#, &[0; 8]),
        ),
    ]);
    for (case, bytes) in cases {
        let folder = Folder::empty();
        folder.write(WEIGHTS, bytes);
        let error = open(&folder).err().unwrap_or_else(|| panic!("{case}: accepted"));
        assert!(matches!(error, ImportError::Safetensors { .. }), "{case}: {error:?}");
        assert_contains(&message(&error), &[WEIGHTS, "not a complete safetensors file: "]);
    }
}

proptest! {
    /// Reading a file of random bytes returns values or an error.
    #[test]
    fn random_bytes_do_not_panic_the_reader(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let folder = Folder::empty();
        folder.write(WEIGHTS, noise);
        if let Ok(weights) = open(&folder) {
            let _ = weights.tensor("a", &[2, 3]);
        }
    }

    #[test]
    fn mutated_files_do_not_panic_the_reader(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = file("a", Dtype::F32);
        for (index, value) in edits {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = Folder::empty();
        folder.write(WEIGHTS, bytes);
        if let Ok(weights) = open(&folder)
            && let Ok(values) = weights.tensor("a", &[2, 3])
        {
            prop_assert_eq!(values.len(), 6);
        }
    }
}
