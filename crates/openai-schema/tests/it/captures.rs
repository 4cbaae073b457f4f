//! The requests that real clients were seen to send. They belong to the tests of `gateway`.

use std::{collections::BTreeMap, fs, path::Path};

use openai_schema::{EmbeddingRequest, RequestError};
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
            _ => assert!(request.is_ok(), "{name}: {request:?}"),
        }
    }
}
