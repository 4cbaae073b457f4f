//! Tests of the encoder's tensors, and of the fingerprint of a folder without a graph.

use super::fixture::Folder;
use crate::{AccuracyRecord, Linear, Norm, fingerprint};

#[test]
fn every_tensor_of_every_family_is_found() {
    for name in ["bert-mean", "roberta-mean", "xlm-roberta-mean", "distilbert-cls"] {
        let folder = Folder::tiny(name);
        let weights = folder.open().unwrap().encoder().unwrap().unwrap();
        let sizes = weights.sizes();
        assert_eq!((sizes.hidden, sizes.heads, sizes.layers, sizes.intermediate), (48, 4, 2, 96), "{name}");
        for layer in 0..sizes.layers {
            let layers = [
                (Linear::Query, 48, 48),
                (Linear::Key, 48, 48),
                (Linear::Value, 48, 48),
                (Linear::Projection, 48, 48),
                (Linear::Up, 96, 48),
                (Linear::Down, 48, 96),
            ];
            for (linear, outputs, inputs) in layers {
                assert_eq!(
                    weights.weight(layer, linear).unwrap().len(),
                    outputs * inputs,
                    "{name} {linear:?}"
                );
                assert_eq!(weights.bias(layer, linear).unwrap().len(), outputs, "{name} {linear:?}");
            }
            for norm in [Norm::Embeddings, Norm::Attention(layer), Norm::Output(layer)] {
                assert_eq!(weights.scale(norm).unwrap().len(), 48, "{name} {norm:?}");
                assert_eq!(weights.shift(norm).unwrap().len(), 48, "{name} {norm:?}");
            }
        }
        assert_eq!(weights.positions().unwrap().len(), sizes.position_rows * 48, "{name}");
        assert!(weights.weight(sizes.layers, Linear::Up).is_err(), "{name}: a layer too many");
        let embeddings = weights.into_token_embeddings().unwrap();
        let (mut first, mut last) = ([0.0; 48], [0.0; 48]);
        embeddings.read_row(0, &mut first);
        embeddings.read_row(sizes.vocabulary as u32 - 1, &mut last);
        assert_ne!(first, last, "{name}");
    }
}

#[test]
fn read_row_returns_the_row_of_the_token_id() {
    let folder = Folder::tiny("bert-mean");
    let weights = crate::safetensors::Weights::open(folder.path(), &[]).unwrap();
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
    let record = |fingerprint: &str, conditions: &str, worst_cosine| AccuracyRecord {
        fingerprint: fingerprint.to_owned(),
        conditions: conditions.to_owned(),
        worst_cosine,
        texts: 29,
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
