//! The requests that real clients were seen to send. They belong to the tests of `gateway`.

use std::{collections::BTreeMap, fs, path::Path};

use openai_schema::{EmbeddingInput, EmbeddingRequest, EncodingFormat, RequestError};
use serde_json::Value;

/// The bodies of all captured POST requests, by file name.
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
fn every_captured_body_is_understood() {
    let bodies = bodies();
    assert_eq!(bodies.len(), 95);
    for (name, body) in bodies {
        let request = EmbeddingRequest::from_json(&body);
        match name.as_str() {
            "openai-python-3.54.0-empty-list.json" => {
                assert_eq!(request, Err(RequestError::EmptyArray), "{name}");
            }
            "llamaindex-openai-empty.json" => {
                assert_eq!(request, Err(RequestError::EmptyInput { index: 0 }), "{name}");
            }
            _ => check(&name, &request.unwrap_or_else(|error| panic!("{name}: {error}"))),
        }
    }
}

/// What the name of a capture tells of its request.
fn check(name: &str, request: &EmbeddingRequest) {
    let says = |word| name.contains(word);
    let shape_fits = match &request.input {
        input if says("lone-surrogate") => *input == EmbeddingInput::Text("cut \u{fffd}".to_owned()),
        input if says("empty-string-call2") => *input == EmbeddingInput::Text(String::new()),
        // This client sends token ids unless told otherwise, also of one text.
        EmbeddingInput::TokenArrays(_) => {
            says("token-arrays") || says("langchain-openai") && !says("ctxlen-false")
        }
        EmbeddingInput::Tokens(_) => says("token-array."),
        EmbeddingInput::Texts(_) => !says("token-array") && !says("text-one"),
        EmbeddingInput::Text(_) => !says("token-array") && !says("three") && !says("batch"),
    };
    assert!(shape_fits, "{name}: {:?}", request.input);
    if says("-one.") || says("-three.") {
        assert_eq!(request.input.len(), if says("-one.") { 1 } else { 3 }, "{name}");
    }
    if says("float") || says("null-optionals") || says("haystack") {
        assert_eq!(request.encoding_format.unwrap_or_default(), EncodingFormat::Float, "{name}");
    } else if says("openai-node") || says("openai-python") || says("base64") || says("b64") {
        assert_eq!(request.encoding_format, Some(EncodingFormat::Base64), "{name}");
    }
    assert_eq!(request.dimensions, says("-dim").then_some(4), "{name}");
}
