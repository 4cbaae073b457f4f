//! Models that cannot be served, or that cannot embed every text: refused at start-up, or for that text only, with
//! every kind of kernels.

use std::{fs, path::Path};

use inference::EmbedError;
use serde_json::{Value, json};

use crate::{Reference, config, embed, refused, served, tiny, ways, worst};

/// Overwrites one value of a tensor of fp32.
fn set_weight(folder: &Path, tensor: &str, index: usize, value: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    let place = 8 + length + start + 4 * index;
    bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

fn change_tokenizer(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn a_weight_that_is_not_finite_keeps_the_model_from_being_served() {
    for (tensor, index, place) in [
        ("embeddings.word_embeddings.weight", 599 * 48 + 1, "[599, 1]"),
        ("embeddings.position_embeddings.weight", 78 * 48, "[78, 0]"),
        ("encoder.layer.1.output.dense.weight", 96, "[1, 0]"),
        ("encoder.layer.0.output.LayerNorm.weight", 0, "[0]"),
    ] {
        for (cap, kernels) in ways() {
            let folder = tiny("bert-mean");
            // An earlier start may have left an export of the good weights.
            drop(served(&config(folder.path(), cap)).unwrap());
            set_weight(folder.path(), tensor, index, f32::NAN);
            let message = refused(&config(folder.path(), cap));
            for part in ["model.safetensors", tensor, &format!("holds NaN at {place}")] {
                assert!(message.contains(part), "{kernels}: {message}");
            }
        }
    }
}

/// Every weight is finite, but the computed values are not.
#[test]
fn a_model_that_overflows_fails_the_probe_at_start() {
    for (cap, kernels) in ways() {
        let folder = tiny("bert-mean");
        for index in 0..48 {
            set_weight(folder.path(), "encoder.layer.0.output.LayerNorm.weight", index, f32::MAX);
        }
        let message = refused(&config(folder.path(), cap));
        assert!(message.contains("cannot embed a short text"), "{kernels}: {message}");
        assert!(message.contains("not finite"), "{kernels}: {message}");
    }
}

#[test]
fn a_text_with_a_token_that_has_no_embedding_fails_alone_and_is_named() {
    for name in ["bert-mean", "roberta-mean", "xlm-roberta-mean"] {
        let folder = tiny(name);
        let reference = Reference::of(folder.path());
        let model: Value =
            serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
        let embeddings = u32::try_from(model["vocab_size"].as_u64().unwrap()).unwrap();
        change_tokenizer(folder.path(), |json| {
            json["added_tokens"].as_array_mut().unwrap().push(json!({
                "id": embeddings, "content": "<image_soft_token>", "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
        });
        for (cap, kernels) in ways() {
            let registry = served(&config(folder.path(), cap)).unwrap();
            let texts = ["one", "two <image_soft_token>", "three"];
            let error = embed(&registry, &texts).unwrap_err();
            assert!(
                matches!(&error, EmbedError::NoEmbedding { index: 1, id, token }
                    if *id == embeddings && token == "<image_soft_token>"),
                "{name} with {kernels}: {error:?}"
            );
            let found = embed(&registry, &reference.texts).unwrap();
            assert!(worst(&found.vectors, &reference.vectors.concat()) < 6e-6, "{name} with {kernels}");
        }
    }
}

#[test]
fn a_vocabulary_beyond_the_word_table_keeps_the_model_from_being_served() {
    for (cap, kernels) in ways() {
        let folder = tiny("bert-mean");
        change_tokenizer(folder.path(), |json| json["model"]["vocab"]["beyond"] = json!(600));
        let message = refused(&config(folder.path(), cap));
        for part in ["tokenizer.json", "ids up to 600, but the model has embeddings for ids up to 599 only"] {
            assert!(message.contains(part), "{kernels}: {message}");
        }
    }
}
