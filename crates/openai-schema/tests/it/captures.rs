//! Requests captured from real clients. The files belong to the tests of `gateway`.

use std::{collections::BTreeMap, fs, path::Path};

use openai_schema::{EmbeddingInput, EmbeddingRequest, EncodingFormat, RequestError};
use serde_json::Value;

/// Returns the bodies of all captured POST requests, by file name.
pub(crate) fn bodies() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/tests/captures");
    let mut bodies = BTreeMap::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let capture: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        if capture["method"] == "POST" {
            let body = match capture["body_is_raw_text"].as_bool() {
                Some(true) => capture["body"].as_str().unwrap().to_owned(),
                _ => capture["body"].to_string(),
            };
            bodies.insert(path.file_name().unwrap().to_string_lossy().into_owned(), body.into_bytes());
        }
    }
    bodies
}

#[test]
fn every_captured_body_is_parsed() {
    let bodies = bodies();
    assert_eq!(bodies.len(), 95);
    for (name, body) in bodies {
        let request = EmbeddingRequest::from_json(&body);
        match name.as_str() {
            "openai-python-3.54.0-empty-list.json" => {
                assert_eq!(request, Err(RequestError::EmptyArray { name: "input" }), "{name}");
            }
            "llamaindex-openai-empty.json" => {
                assert_eq!(request, Err(RequestError::EmptyInput { name: "input", index: 0 }), "{name}");
            }
            _ => check(&name, &request.unwrap_or_else(|error| panic!("{name}: {error}"))),
        }
    }
}

/// Compares a request with the properties that the name of its capture states.
fn check(name: &str, request: &EmbeddingRequest) {
    let has = |word| name.contains(word);
    let form_matches = match &request.input {
        input if has("lone-surrogate") => *input == EmbeddingInput::Text("cut \u{fffd}".to_owned()),
        input if has("empty-string-call2") => *input == EmbeddingInput::Text(String::new()),
        // LangChain's default sends token ids, even for one text.
        EmbeddingInput::TokenArrays(_) => {
            has("token-arrays") || has("langchain-openai") && !has("ctxlen-false")
        }
        EmbeddingInput::Tokens(_) => has("token-array."),
        EmbeddingInput::Texts(_) => !has("token-array") && !has("text-one"),
        EmbeddingInput::Text(_) => !has("token-array") && !has("three") && !has("batch"),
    };
    assert!(form_matches, "{name}: {:?}", request.input);
    if has("-one.") || has("-three.") {
        assert_eq!(request.input.len(), if has("-one.") { 1 } else { 3 }, "{name}");
    }
    if has("float") || has("null-optionals") || has("haystack") {
        assert_eq!(request.encoding_format.unwrap_or_default(), EncodingFormat::Float, "{name}");
    } else if has("openai-node") || has("openai-python") || has("base64") || has("b64") {
        assert_eq!(request.encoding_format, Some(EncodingFormat::Base64), "{name}");
    }
    assert_eq!(request.dimensions, has("-dim").then_some(4), "{name}");
}
