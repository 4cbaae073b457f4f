//! Models that cannot be served, or cannot embed every text: an error at startup, or for that input only, with every
//! backend.

use std::{fs, path::Path};

use gateway::Backend;
use inference::EmbedError;
use serde_json::{Value, json};

use crate::{Reference, config_for, embed, load_error, max_difference, served, tiny};

/// Changes every value of an fp32 tensor.
pub(crate) fn change_weights(folder: &Path, tensor: &str, mut change: impl FnMut(f32) -> f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let [start, end] =
        [0, 1].map(|end| 8 + length + header[tensor]["data_offsets"][end].as_u64().unwrap() as usize);
    for bytes in bytes[start..end].as_chunks_mut::<4>().0 {
        *bytes = change(f32::from_le_bytes(*bytes)).to_le_bytes();
    }
    fs::write(path, bytes).unwrap();
}

/// Overwrites one value of an fp32 tensor.
fn set_weight(folder: &Path, tensor: &str, index: usize, value: f32) {
    let mut at = 0..;
    change_weights(folder, tensor, |old| if at.next() == Some(index) { value } else { old });
}

fn change_tokenizer(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

backend_tests! {
    #[test]
    fn a_weight_that_is_not_finite_keeps_the_model_from_being_served(backend: Backend) {
        for (tensor, index, place) in [
            ("embeddings.word_embeddings.weight", 599 * 48 + 1, "[599, 1]"),
            ("embeddings.position_embeddings.weight", 78 * 48, "[78, 0]"),
            ("encoder.layer.1.output.dense.weight", 96, "[1, 0]"),
            ("encoder.layer.0.output.LayerNorm.weight", 0, "[0]"),
        ] {
            let folder = tiny("bert-mean");
            // An earlier start can have left an export of the valid weights.
            drop(served(&config_for(folder.path(), backend)).unwrap());
            set_weight(folder.path(), tensor, index, f32::NAN);
            let message = load_error(&config_for(folder.path(), backend));
            for part in ["model.safetensors", tensor, &format!("holds NaN at {place}")] {
                assert!(message.contains(part), "{message}");
            }
        }
    }

    /// Every weight is finite, but the computed values are not.
    #[test]
    fn a_model_that_overflows_fails_the_probe_at_start(backend: Backend) {
        let folder = tiny("bert-mean");
        for index in 0..48 {
            set_weight(folder.path(), "encoder.layer.0.output.LayerNorm.weight", index, f32::MAX);
        }
        let message = load_error(&config_for(folder.path(), backend));
        assert!(message.contains("cannot embed a short text"), "{message}");
        assert!(message.contains("holds NaN or an infinity"), "{message}");
    }

    #[test]
    fn a_text_with_a_token_that_has_no_embedding_fails_alone_and_is_named(backend: Backend) {
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
            let registry = served(&config_for(folder.path(), backend)).unwrap();
            let texts = ["one", "two <image_soft_token>", "three"];
            let error = embed(&registry, &texts).unwrap_err();
            assert!(
                matches!(&error, EmbedError::NoEmbedding { index: 1, id, token }
                    if *id == embeddings && token == "<image_soft_token>"),
                "{name}: {error:?}"
            );
            let found = embed(&registry, &reference.texts).unwrap();
            assert!(max_difference(&found.vectors, &reference.vectors.concat()) < 6e-6, "{name}");
        }
    }

    #[test]
    fn a_vocabulary_beyond_the_word_table_keeps_the_model_from_being_served(backend: Backend) {
        let folder = tiny("bert-mean");
        change_tokenizer(folder.path(), |json| json["model"]["vocab"]["beyond"] = json!(600));
        let message = load_error(&config_for(folder.path(), backend));
        for part in ["tokenizer.json", "ids up to 600, but the model has embeddings for ids up to 599 only"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
