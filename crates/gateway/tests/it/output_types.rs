//! Vectors as integers, which clients of OpenAI's API ask for by parameters of other vendors.

use serde_json::{Value, json};

use crate::{app::TestApp, doors::rows, http::Reply};

fn post(app: &TestApp, fields: &Value) -> Reply {
    let mut body = json!({"model": "m", "input": ["a", "b"]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    app.post(body.to_string())
}

/// The vectors of a response.
#[track_caller]
fn vectors(reply: &Reply) -> Vec<Vec<f64>> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let list =
        reply.json()["data"].as_array().unwrap().iter().map(|item| item["embedding"].clone()).collect();
    rows(&list)
}

#[test]
fn integers_are_made_of_the_numbers() {
    let app = TestApp::start();
    let floats = vectors(&post(&app, &json!({})));
    let as_int8 = |value: &f64| ((value + 1.0) * 127.5 - 128.0).trunc();
    let as_uint8 = |value: &f64| ((value + 1.0) * 127.5).trunc();
    let bits = |vector: &Vec<f64>| {
        let byte = vector.iter().fold(0_u8, |bits, value| bits << 1 | u8::from(*value > 0.0));
        f64::from(byte)
    };
    let map = |function: &dyn Fn(&f64) -> f64| -> Vec<Vec<f64>> {
        floats.iter().map(|vector| vector.iter().map(function).collect()).collect()
    };
    for (kind, expected) in [
        ("int8", map(&as_int8)),
        ("uint8", map(&as_uint8)),
        ("ubinary", floats.iter().map(|vector| vec![bits(vector)]).collect()),
        ("binary", floats.iter().map(|vector| vec![bits(vector) - 128.0]).collect::<Vec<_>>()),
    ] {
        for fields in [
            json!({"output_dtype": kind}),
            json!({"embedding_type": kind}),
            json!({"embedding_types": [kind], "encoding_format": "float"}),
            json!({"output_dtype": kind, "embedding_type": kind}),
        ] {
            let reply = post(&app, &fields);
            assert_eq!(vectors(&reply), expected, "{fields}");
            assert_eq!(reply.header("x-embedgate-ignored"), None);
        }
    }
}

/// OpenAI's and Voyage's SDKs send `encoding_format` unasked. OpenAI's would read floats from base64.
#[test]
fn integers_are_never_in_base64() {
    let app = TestApp::start();
    let reply = post(&app, &json!({"output_dtype": "int8", "encoding_format": "base64"}));
    assert_eq!(reply.header("x-embedgate-ignored"), Some("encoding_format"));
    assert_eq!(vectors(&reply), vectors(&post(&app, &json!({"output_dtype": "int8"}))));
}

#[test]
fn types_that_contradict_each_other_or_have_no_meaning_are_rejected() {
    let app = TestApp::start();
    for (fields, message) in [
        (json!({"output_dtype": "int8", "embedding_type": "binary"}), "It contradicts 'output_dtype'"),
        (json!({"output_dtype": "float16"}), "Supported values: ['float', 'int8'"),
        (json!({"embedding_types": ["float", "int8"]}), "A response has one encoding"),
    ] {
        let reply = post(&app, &fields);
        assert_eq!(reply.status, 400, "{fields}");
        assert!(reply.message().contains(message), "{fields}: {}", reply.message());
    }
    let app = TestApp::builder().unnormalized().start();
    let reply = post(&app, &json!({"output_dtype": "uint8"}));
    assert!(reply.message().contains("vectors without norm 1"), "{}", reply.text());
    assert_eq!(post(&app, &json!({"output_dtype": "uint8", "normalize": true})).status, 200);
    assert_eq!(post(&app, &json!({"output_dtype": "binary"})).status, 200);
}
