//! Cohere's `/v1/embed` and `/v2/embed`.

use serde_json::json;

use crate::{
    app::{TestApp, WINDOW},
    doors::{assert_error_shape, numbers, post, rows},
};

#[test]
fn every_format_of_a_response_has_a_list() {
    let app = TestApp::start();
    let expected = app.embed(&json!(["a", "b c"]));
    let types = ["float", "int8", "uint8", "binary", "ubinary", "base64"];
    for version in ["v1", "v2"] {
        let reply = post(
            &app,
            &format!("/{version}/embed"),
            &json!({
                "model": "m", "texts": ["a", "b c"], "input_type": "search_document", "embedding_types": types,
                "truncate": "END", "output_dimension": 8, "max_tokens": 32, "priority": 0
            }),
        );
        assert_eq!(reply.status, 200, "{}", reply.text());
        let response = reply.json();
        assert_eq!(response["response_type"], "embeddings_by_type");
        assert_eq!(response["id"], reply.header("x-request-id").unwrap());
        assert_eq!(response["meta"]["billed_units"]["input_tokens"], 7);
        let lists = response["embeddings"].as_object().unwrap();
        assert_eq!(lists.len(), types.len());
        assert!(lists.values().all(|list| list.as_array().unwrap().len() == 2));
        for (row, vector) in expected.iter().enumerate() {
            assert_eq!(rows(&lists["float"])[row], *vector);
            let int8 = rows(&lists["int8"]);
            for (quantized, value) in int8[row].iter().zip(vector) {
                // The range of 8 components is ±1: a step is 2/255.
                assert_eq!(*quantized, ((value + 1.0) * 127.5 - 128.0).trunc(), "{value}");
            }
            let bits = vector.iter().fold(0, |bits, value| bits << 1 | u8::from(*value > 0.0));
            assert_eq!(rows(&lists["ubinary"])[row], [f64::from(bits)]);
            assert_eq!(rows(&lists["binary"])[row], [f64::from(bits) - 128.0]);
            assert_eq!(rows(&lists["uint8"])[row].len(), 8);
        }
        assert!(lists["base64"][0].as_str().unwrap().len() > 8 * 4);
    }
}

#[test]
fn without_types_v1_has_a_plain_list_and_v2_floats() {
    let app = TestApp::start();
    let expected = app.embed(&json!(["a"]));
    let body = json!({"model": "m", "texts": ["a"], "input_type": "search_query"});
    let v1 = post(&app, "/v1/embed", &body).json();
    assert_eq!(
        (&v1["response_type"], rows(&v1["embeddings"])),
        (&json!("embeddings_floats"), expected.clone())
    );
    let v2 = post(&app, "/v2/embed", &body).json();
    assert_eq!(numbers(&v2["embeddings"]["float"][0]), expected[0]);
}

#[test]
fn parameters_are_honored_or_rejected() {
    let app = TestApp::builder().prompt("query", "query: ").start();
    let long = "a ".repeat(2 * WINDOW);
    for (fields, status, message) in [
        (
            json!({"texts": [long], "truncate": "NONE"}),
            400,
            "Invalid 'texts[0]': maximum input length is 64 tokens.",
        ),
        (json!({"texts": [long], "truncate": "END"}), 200, ""),
        (json!({"truncate": "START"}), 400, "Supported values"),
        (json!({"embedding_types": ["float16"]}), 400, "Supported values: float, int8"),
        (json!({"embedding_types": []}), 400, "it is empty"),
        (json!({"embedding_types": "float"}), 400, "expected an array"),
        (json!({"texts": []}), 400, "Invalid 'texts'"),
        (json!({"texts": null}), 400, "Missing required parameter: 'texts'."),
        (json!({"images": ["data:image/png;base64,AA=="]}), 400, "'images' is not supported"),
        (json!({"output_dimension": 256}), 400, "Must be less than or equal to 8"),
        (json!({"model": "embed-v4.0"}), 404, "`embed-v4.0` does not exist"),
    ] {
        let mut body = json!({"model": "m", "texts": ["a"], "input_type": "search_query"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = post(&app, "/v2/embed", &body);
        assert_eq!(reply.status, status, "{fields}: {}", reply.text());
        if status == 200 {
            assert_eq!(reply.header("x-embedgate-prompt"), Some("query"));
            assert_eq!(reply.header("x-embedgate-truncated"), Some("1"));
        } else {
            let error = reply.json();
            assert!(error["message"].as_str().unwrap().contains(message), "{fields}: {error}");
        }
    }
}

#[test]
fn integers_of_8_bits_need_vectors_of_norm_1() {
    let app = TestApp::builder().unnormalized().start();
    let body = |types| json!({"model": "m", "texts": ["a"], "embedding_types": types});
    let reply = post(&app, "/v2/embed", &body(["binary", "uint8"]));
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(post(&app, "/v2/embed", &body(["binary", "ubinary"])).status, 200);
}

#[test]
fn errors_have_coheres_shape() {
    let body = json!({"model": "m", "texts": ["a"], "input_type": "search_query"});
    for path in ["/v1/embed", "/v2/embed"] {
        assert_error_shape(path, &body, "message", &["id", "message"]);
    }
}
