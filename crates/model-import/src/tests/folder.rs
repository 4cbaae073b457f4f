//! Tests of maximum input length, tokenizer and settings: which files and keys a folder needs.

use std::fs;

use serde_json::Value;

use super::fixture::{Folder, assert_contains};
use crate::{HeadSpec, ImportError, PoolingMode};

const SENTENCE: &str = "sentence_bert_config.json";

#[test]
fn a_missing_file_is_named_with_its_purpose() {
    for (name, hint) in [
        ("config.json", "architecture"),
        ("tokenizer.json", "fast tokenizer"),
        ("model.safetensors", "weights"),
        ("modules.json", "model.toml"),
        ("1_Pooling/config.json", "pooling mode"),
    ] {
        let folder = Folder::tiny("bert-mean");
        folder.remove(name);
        folder.assert_import_error(&[&format!("`{name}` is missing"), hint]);
    }
    let missing = crate::ModelFolder::open("/no/such/folder").unwrap_err();
    assert_contains(&missing.to_string(), &["/no/such/folder", "model folder"]);
}

#[test]
fn malformed_json_is_reported_with_file_and_line() {
    for name in ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", SENTENCE] {
        let folder = Folder::tiny("bert-mean");
        folder.write(name, "{\n  \"model_type\": \"bert\",\n  !\n}");
        folder.assert_import_error(&[&format!("`{name}`"), "line "]);
    }
    let folder = Folder::tiny("bert-mean");
    folder.write("tokenizer.json", "{}");
    folder.assert_import_error(&["`tokenizer.json`", "missing field `model`"]);
}

#[test]
fn max_input_tokens_is_stated_or_derived_and_at_most_the_positions() {
    let folder = Folder::tiny("bert-mean");
    assert_eq!(folder.open().unwrap().max_input_tokens(), 64);
    folder.set(SENTENCE, "max_seq_length", 10_000);
    assert_eq!(folder.open().unwrap().max_input_tokens(), 80);
    folder.set(SENTENCE, "max_seq_length", 0);
    folder.assert_import_error(&[SENTENCE, "maximum of 0 tokens"]);
    // As in sentence-transformers: the smaller of the tokenizer's limit and the number of positions.
    folder.set(SENTENCE, "max_seq_length", Value::Null);
    for (length, expected) in [(40.0, 40), (1e30, 80)] {
        folder.set("tokenizer_config.json", "model_max_length", length);
        assert_eq!(folder.open().unwrap().max_input_tokens(), expected);
    }
    folder.set("tokenizer_config.json", "model_max_length", Value::Null);
    folder.assert_import_error(&[SENTENCE, "max_seq_length", "model.toml"]);

    // Its position table has 80 rows, and positions begin after the padding id, 1.
    let folder = Folder::tiny("roberta-mean");
    folder.set(SENTENCE, "max_seq_length", 10_000);
    assert_eq!(folder.open().unwrap().max_input_tokens(), 78);
}

#[test]
fn settings_that_would_change_the_vectors_are_errors() {
    let folder = Folder::tiny("bert-mean");
    folder.set(SENTENCE, "do_lower_case", true);
    let mut tokenizer: Value = serde_json::from_slice(&folder.bytes("tokenizer.json")).unwrap();
    let lowering =
        serde_json::json!({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]});
    for (normalizer, fine) in [
        (serde_json::json!({"type": "BertNormalizer", "lowercase": true}), true),
        (lowering, true),
        (serde_json::json!({"type": "BertNormalizer", "lowercase": false}), false),
        (Value::Null, false),
    ] {
        tokenizer["normalizer"] = normalizer;
        folder.write("tokenizer.json", tokenizer.to_string());
        match fine {
            true => assert_eq!(folder.open().unwrap().max_input_tokens(), 64),
            false => folder.assert_import_error(&[SENTENCE, "do_lower_case", "tokenizer"]),
        }
    }
    let folder = Folder::tiny("bert-mean");
    folder.set("config_sentence_transformers.json", "default_prompt_name", "query");
    folder.assert_import_error(&["config_sentence_transformers.json", "default_prompt_name `query`"]);
}

#[test]
fn prompts_are_read_by_name_and_null_is_empty() {
    let folder = Folder::tiny("bert-mean");
    assert!(folder.open().unwrap().prompts().is_empty());
    let prompts = serde_json::json!({"query": "query: ", "document": "", "passage": null});
    folder.set("config_sentence_transformers.json", "prompts", prompts);
    let found = folder.open().unwrap().prompts().clone();
    let found: Vec<_> = found.iter().map(|(name, text)| (&**name, &**text)).collect();
    assert_eq!(found, [("document", ""), ("passage", ""), ("query", "query: ")]);
}

#[test]
fn a_manifest_states_the_pooling_and_length_of_a_plain_folder() {
    let folder = Folder::tiny("bert-mean");
    for name in ["modules.json", SENTENCE, "tokenizer_config.json"] {
        folder.remove(name);
    }
    fs::remove_dir_all(folder.file("1_Pooling")).unwrap();
    folder.assert_import_error(&["modules.json", "pooling", "normalize"]);
    folder.write("model.toml", "id = 'x'\npooling = 'cls'\nnormalize = false");
    folder.assert_import_error(&[SENTENCE, "model.toml", "max_input_tokens"]);
    folder.write("model.toml", "id = 'x'\npooling = 'cls'\nnormalize = false\nmax_input_tokens = 32");
    let opened = folder.open().unwrap();
    assert_eq!(
        (opened.head(), opened.normalize(), opened.max_input_tokens()),
        (&HeadSpec::from(PoolingMode::Cls), false, 32)
    );
    let cls = folder.import().unwrap().fingerprint;
    folder.write("model.toml", "id = 'x'\npooling = 'mean'\nnormalize = false\nmax_input_tokens = 32");
    assert_ne!(folder.import().unwrap().fingerprint, cls);
}

#[test]
fn a_manifest_that_contradicts_the_folder_is_an_error() {
    let folder = Folder::tiny("bert-mean");
    for (line, parts) in [
        ("max_input_tokens = 32", ["max_input_tokens 32", "64"]),
        ("dimensions = 32", ["dimensions 32", "48"]),
        ("pooling = 'cls'", ["pooling cls", "mean"]),
        ("normalize = false", ["normalize false", "true"]),
    ] {
        folder.write("model.toml", format!("id = 'x'\n{line}"));
        assert!(matches!(folder.open(), Err(ImportError::ManifestMismatch { .. })));
        folder.assert_import_error(&[&["model.toml"], &parts[..]].concat());
    }
    folder.write(
        "model.toml",
        "id = 'x'\nmax_input_tokens = 64\ndimensions = 48\npooling = 'mean'\nnormalize = true",
    );
    assert_eq!(folder.open().unwrap().manifest().unwrap().id, "x");
}

#[test]
fn a_manifest_names_the_source_of_missing_files() {
    let folder = Folder::empty();
    let manifest = "id = 'x'\nhub_id = 'o/x'\npooling = 'mean'\nnormalize = true\nsource = { kind = 'hub' }";
    folder.write("model.toml", manifest);
    folder.assert_import_error(&["config.json", "is missing", "`o/x` from the Hugging Face hub"]);
}

#[test]
fn the_memory_estimate_is_the_size_of_the_files_and_16_bit_weights_count_twice() {
    let folder = Folder::tiny("bert-mean");
    let size = |file: &str| folder.bytes(file).len();
    let estimate = || folder.open().unwrap().estimate_memory().unwrap();
    let (in_fp32, config) = (estimate(), size("config.json"));
    assert!(in_fp32 >= size("model.safetensors") + size("tokenizer.json"));
    assert!(in_fp32 <= folder.content().values().map(Vec::len).sum());
    for (dtype, torch_dtype) in [(Some("bfloat16"), None), (None, Some("float16"))] {
        folder.set("config.json", "dtype", dtype);
        folder.set("config.json", "torch_dtype", torch_dtype);
        assert_eq!(estimate(), 2 * (in_fp32 - config + size("config.json")), "{dtype:?} {torch_dtype:?}");
    }
}
