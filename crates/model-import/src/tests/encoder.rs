//! Tests of the encoder's tensors, and of the fingerprint of a folder without a graph.

use encoder_spec::{LinearId, Part, TensorId};

use super::fixture::{FAMILIES, Folder};
use crate::{AccuracyMeasure, AccuracyRecord, fingerprint};

#[test]
fn every_tensor_of_every_family_is_found() {
    for name in FAMILIES {
        let folder = Folder::tiny(name);
        let weights = folder.open().unwrap().encoder().unwrap().unwrap();
        let spec = weights.spec().clone();
        for tensor in spec.tensors() {
            let found = weights.read(tensor).unwrap_or_else(|error| panic!("{name}: {tensor}: {error}"));
            assert_eq!(
                found.len(),
                spec.shape(tensor).unwrap().iter().product::<usize>(),
                "{name}: {tensor}"
            );
        }
        let beyond = TensorId::Linear(spec.layers.len(), LinearId::Up, Part::Weight);
        assert!(weights.read(beyond).is_err(), "{name}: a layer too many");
        let embeddings = weights.into_token_embeddings().unwrap();
        let [mut first, mut last] = [vec![0.0; spec.embeddings.width], vec![0.0; spec.embeddings.width]];
        embeddings.read_row(0, &mut first);
        embeddings.read_row(spec.vocabulary as u32 - 1, &mut last);
        assert_ne!(first, last, "{name}");
    }
}

/// A weight that packs several matrices is cut where the kernels expect it.
#[test]
fn packed_weights_are_cut_by_rows() {
    let folder = Folder::tiny("modernbert-mean");
    let stored = crate::weights::Weights::open(folder.path(), &[]).unwrap();
    let qkv = stored.tensor("layers.1.attn.Wqkv.weight", &[144, 48]).unwrap();
    let halves = stored.tensor("layers.1.mlp.Wi.weight", &[128, 48]).unwrap();
    let weights = folder.open().unwrap().encoder().unwrap().unwrap();
    for (linear, expected) in [
        (LinearId::Query, &qkv[..48 * 48]),
        (LinearId::Key, &qkv[48 * 48..96 * 48]),
        (LinearId::Value, &qkv[96 * 48..]),
        (LinearId::Gate, &halves[..64 * 48]),
        (LinearId::Up, &halves[64 * 48..]),
    ] {
        let found = weights.read(TensorId::Linear(1, linear, Part::Weight)).unwrap();
        assert!(*found == *expected, "{linear:?}");
    }
}

#[test]
fn read_row_returns_the_row_of_the_token_id() {
    let folder = Folder::tiny("bert-mean");
    let weights = crate::weights::Weights::open(folder.path(), &[]).unwrap();
    let table = weights.tensor("embeddings.word_embeddings.weight", &[600, 48]).unwrap();
    let embeddings = folder.open().unwrap().encoder().unwrap().unwrap().into_token_embeddings().unwrap();
    for id in [0, 17, 599] {
        let mut row = [0.0; 48];
        embeddings.read_row(id, &mut row);
        assert_eq!(row, table[id as usize * 48..][..48]);
    }
}

#[test]
fn the_fingerprint_equals_that_of_the_graph_and_is_cached() {
    let folder = Folder::tiny("bert-mean");
    let mut read = 0;
    let mut count = |folder: &Folder| {
        read = 0;
        let fingerprint = fingerprint(&folder.open().unwrap(), &mut |_| read += 1).unwrap();
        (fingerprint, read > 0)
    };
    let (fingerprint, computed) = count(&folder);
    assert!(computed);
    assert_eq!(count(&folder), (fingerprint.clone(), false));
    assert_eq!(folder.import().unwrap().fingerprint, fingerprint);

    let mut bytes = folder.bytes("model.safetensors");
    *bytes.last_mut().unwrap() ^= 1;
    folder.write("model.safetensors", bytes);
    let (changed, computed) = count(&folder);
    assert!(computed && changed != fingerprint);
    // A damaged cache file is ignored.
    folder.write("embedgate.fingerprint", "nonsense");
    assert_eq!(count(&folder), (changed, true));
}

#[test]
fn an_accuracy_record_is_found_for_its_model_and_conditions_only() {
    let folder = Folder::tiny("bert-mean");
    let opened = folder.open().unwrap();
    let record = |fingerprint: &str, conditions: &str, worst| AccuracyRecord {
        fingerprint: fingerprint.to_owned(),
        conditions: conditions.to_owned(),
        measure: AccuracyMeasure::Cosine,
        worst,
        mean: worst,
        inputs: 29,
        max_tokens: 64,
        seconds: 0.5,
    };
    let load = |fingerprint, conditions| AccuracyRecord::load(&opened, fingerprint, conditions);
    assert_eq!(load("a", "amx"), None);
    record("a", "amx", 0.9).store(&opened);
    record("a", "avx512", 0.8).store(&opened);
    assert_eq!(load("a", "amx"), Some(record("a", "amx", 0.9)));
    assert_eq!(load("a", "avx512"), Some(record("a", "avx512", 0.8)));
    assert_eq!((load("a", "avx2"), load("b", "amx")), (None, None));
    record("a", "amx", 0.7).store(&opened);
    assert_eq!(load("a", "amx"), Some(record("a", "amx", 0.7)));
    // The files have changed.
    record("b", "amx", 0.6).store(&opened);
    assert_eq!((load("b", "amx"), load("a", "avx512")), (Some(record("b", "amx", 0.6)), None));
    // A volume of many machines.
    for machine in 0..40 {
        record("b", &format!("cpu {machine}"), 0.5).store(&opened);
    }
    assert_eq!((load("b", "cpu 39").is_some(), load("b", "cpu 0")), (true, None));
    for damaged in ["nonsense", "[{}]", "{}"] {
        folder.write("embedgate.accuracy.json", damaged);
        assert_eq!(load("b", "cpu 39"), None);
    }
}
