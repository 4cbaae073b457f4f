//! Parameters of other vendors: honored, ignored and listed, or rejected.

use gateway::{config::UnsupportedParameters, parameters::PARAMETERS};
use serde_json::{Value, json};

use crate::{
    app::{TestApp, WINDOW, vectors},
    fake::DIMENSIONS,
    http::Reply,
    schema::assert_valid,
};

const IGNORED: &str = "x-embedgate-ignored";

/// Posts the inputs `a` and `b` with `fields`.
fn post(app: &TestApp, fields: &Value) -> Reply {
    post_with(app, &json!(["a", "b"]), fields, &[])
}

fn post_with(app: &TestApp, input: &Value, fields: &Value, headers: &[(&str, &str)]) -> Reply {
    let mut body = json!({"model": "m", "input": input});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    app.send("POST", "/v1/embeddings", headers, body.to_string().as_bytes())
}

/// An input of twice the maximum length.
fn long() -> Value {
    json!("a ".repeat(2 * WINDOW))
}

#[track_caller]
fn assert_answered(reply: &Reply, ignored: Option<&str>) {
    assert_eq!((reply.status, reply.header(IGNORED)), (200, ignored), "{}", reply.text());
}

/// Asserts a 400 about `param`, and returns its message.
#[track_caller]
fn rejected(reply: &Reply, param: &str) -> String {
    assert_eq!(reply.status, 400, "{param}: {}", reply.text());
    let error = reply.json();
    assert_valid("error", &error);
    assert_eq!(error["error"]["param"], param, "{error}");
    assert_eq!((&error["error"]["type"], reply.header(IGNORED)), (&"invalid_request_error".into(), None));
    reply.message()
}

#[test]
fn parameters_without_effect_are_ignored_and_listed() {
    let app = TestApp::start();
    let plain = post(&app, &json!({}));
    assert_answered(&plain, None);
    for (fields, ignored) in [
        (json!({"user": "u", "metadata": {"a": 1}, "cache_salt": "s", "unknown": false}), None),
        (json!({"input_type": "query"}), Some("input_type")),
        (json!({"task": "retrieval.passage", "normalized": true}), Some("normalized, task")),
        (json!({"normalize": true, "use_activation": true}), Some("normalize, use_activation")),
        (json!({"embd_normalize": 2}), Some("embd_normalize")),
        (json!({"late_chunking": false, "prompt": ""}), Some("prompt, late_chunking")),
        (json!({"add_special_tokens": true, "priority": -3}), Some("add_special_tokens, priority")),
        (json!({"modality": ["text", "text"]}), Some("modality")),
        (json!({"embedding_types": []}), Some("embedding_types")),
        // The server always sends these, so they are honored.
        (json!({"output_dtype": "float", "embed_dtype": "float32", "endianness": "native"}), None),
        (json!({"embedding_type": "float", "embedding_types": ["float"]}), None),
        (json!({"truncation_side": "right", "truncation_direction": "Right"}), None),
        (json!({"output_dimension": DIMENSIONS, "truncate": true, "truncate_prompt_tokens": -1}), None),
    ] {
        let reply = post(&app, &fields);
        assert_answered(&reply, ignored);
        assert_eq!(vectors(&reply.json()), vectors(&plain.json()), "{fields}");
    }
}

#[test]
fn null_is_ignored_listed_and_counted_for_every_parameter() {
    let app = TestApp::start();
    let of_this_route = || PARAMETERS.iter().filter(|parameter| !parameter.own_route);
    for parameter in of_this_route() {
        assert_answered(&post(&app, &json!({ parameter.name: null })), Some(parameter.name));
    }
    for parameter in of_this_route() {
        let series = r#"embedgate_extra_parameters_total{outcome="ignored",parameter="#;
        app.wait_for_metric(&format!("{series}\"{}\"}} 1", parameter.name));
    }
}

/// Values that a model with normalized vectors and without prompts cannot honor, each with the end of its message.
const UNSUPPORTED: [(&str, &str, &str); 24] = [
    (
        "output_dtype",
        r#""float16""#,
        "= float16. Supported values: ['float', 'int8', 'uint8', 'binary', 'ubinary'].",
    ),
    ("embed_dtype", r#""float16""#, "Supported values: ['float', 'int8', 'uint8', 'binary', 'ubinary']."),
    (
        "embedding_type",
        r#""half""#,
        "= half. Supported values: ['float', 'base64', 'int8', 'uint8', 'binary', 'ubinary'].",
    ),
    ("embedding_types", r#"["float","int8"]"#, "A response has one encoding: send one of them."),
    ("endianness", r#""big""#, "= big. Supported values: ['little', 'native']."),
    ("normalize", "false", "which only has normalized vectors: leave 'normalize' out."),
    ("normalized", "false", "which only has normalized vectors: leave 'normalized' out."),
    ("embd_normalize", "-1", "which only has normalized vectors: leave 'embd_normalize' out."),
    ("embd_normalize", "0", "Supported values: [2, -1]."),
    ("truncate", r#""START""#, "= START. Supported values: [true, false, 'END', 'NONE']."),
    ("truncation_direction", r#""Left""#, "= Left. Supported values: ['right']."),
    ("truncate_prompt_tokens", "2", "= 2. Must be -1, or greater than or equal to 3."),
    ("truncate_prompt_tokens", "-2", "= -2. Must be -1, or greater than or equal to 3."),
    ("prompt_name", r#""query""#, "= query. `m` stands for `tiny` here, which has no prompts."),
    ("prompt", r#""Represent this""#, "prepend its text to each input, and do not send 'prompt'."),
    ("late_chunking", "true", "= true. Supported values: [false]."),
    ("add_special_tokens", "false", "= false. Supported values: [true]."),
    ("modality", r#""image""#, "= image. Supported values: ['text']."),
    ("output_dimension", "0", "= 0. Must be greater than or equal to 1."),
    (
        "output_dimension",
        "9",
        "Must be less than or equal to 8. `m` stands for `tiny` here, which has 8 dimensions: leave 'output_dimension' \
         out, or send 8.",
    ),
    ("normalize", r#""yes""#, "Invalid type for 'normalize': expected a boolean."),
    ("truncate_prompt_tokens", "1.5", "Invalid type for 'truncate_prompt_tokens': expected an integer."),
    ("input_type", "7", "Invalid type for 'input_type': expected a string."),
    ("truncate", "[]", "Invalid type for 'truncate': expected a boolean or a string."),
];

#[test]
fn parameters_that_would_change_the_vectors_are_rejected_with_their_name() {
    let app = TestApp::start();
    for (name, value, end) in UNSUPPORTED {
        let value: Value = serde_json::from_str(value).unwrap();
        let message = rejected(&post(&app, &json!({ name: value })), name);
        assert!(message.contains(&format!("'{name}'")) && message.ends_with(end), "{message}");
        assert!(!message.contains("Represent this"), "a prompt is input text: {message}");
    }
    app.wait_for_metric(r#"embedgate_extra_parameters_total{outcome="rejected",parameter="normalize"} 2"#);
}

#[test]
fn unsupported_parameters_can_be_ignored_by_a_setting() {
    let app = TestApp::builder()
        .config(|config| config.limits.unsupported_parameters = UnsupportedParameters::Ignore)
        .start();
    let plain = post(&app, &json!({}));
    for (name, value, _) in UNSUPPORTED {
        let value: Value = serde_json::from_str(value).unwrap();
        let reply = post(&app, &json!({ name: value }));
        assert_answered(&reply, Some(name));
        assert_eq!(vectors(&reply.json()), vectors(&plain.json()), "{name}");
    }
    // If two contradict each other, OpenAI's parameter applies and is never ignored.
    let both = json!({"dimensions": DIMENSIONS, "output_dimension": 4});
    assert_answered(&post(&app, &both), Some("output_dimension"));
    assert_eq!(post(&app, &json!({"dimensions": 4})).status, 400);
}

#[test]
fn the_truncate_parameter_overrides_the_models_policy() {
    for policy in [
        inference::TruncationPolicy::Truncate,
        inference::TruncationPolicy::Average,
        inference::TruncationPolicy::Error,
    ] {
        let app = TestApp::builder().model(|model| model.truncation = policy).start();
        for fields in [json!({"truncate": true}), json!({"truncate": "end"}), json!({"truncation": true})] {
            let reply = post_with(&app, &long(), &fields, &[]);
            assert_answered(&reply, None);
            assert_eq!(reply.header("x-embedgate-truncated"), Some("1"), "{policy} {fields}");
        }
        for fields in [json!({"truncate": false}), json!({"truncate": "NONE"}), json!({"truncation": false})]
        {
            let reply = post_with(&app, &long(), &fields, &[]);
            assert_eq!(reply.status, 400, "{policy} {fields}");
            assert!(reply.message().starts_with("Invalid 'input': maximum context length is 64 tokens."));
            assert_answered(&post(&app, &fields), None);
        }
    }
}

#[test]
fn embedgates_header_takes_precedence_over_parameters_of_other_vendors() {
    let app = TestApp::start();
    let average = [("x-embedgate-truncation", "average")];
    let averaged = post_with(&app, &long(), &json!({}), &average);
    for (name, value) in
        [("truncate", json!("NONE")), ("truncate", json!(true)), ("truncate_prompt_tokens", json!(-1))]
    {
        let reply = post_with(&app, &long(), &json!({name: value}), &average);
        assert_answered(&reply, Some(name));
        assert_eq!(vectors(&reply.json()), vectors(&averaged.json()));
    }
    // A smaller maximum cannot be combined with an average of the whole input.
    let reply = post_with(&app, &long(), &json!({"truncate_prompt_tokens": 10}), &average);
    assert!(
        rejected(&reply, "truncate_prompt_tokens")
            .ends_with("It contradicts 'x-embedgate-truncation': send one of them.")
    );
}

#[test]
fn truncate_prompt_tokens_lowers_the_maximum_of_each_input() {
    let app = TestApp::builder().model(|model| model.truncation = inference::TruncationPolicy::Error).start();
    let input = json!(["a b c d e f g h", "a b"]);
    let reply = post_with(&app, &input, &json!({"truncate_prompt_tokens": 6}), &[]);
    assert_answered(&reply, None);
    assert_eq!(reply.json()["usage"]["prompt_tokens"], 6 + 4);
    assert_eq!(reply.header("x-embedgate-truncated"), Some("1"));
    assert_eq!(vectors(&reply.json()), app.embed(&json!(["a b c d", "a b"])));
    // The model's maximum stays the limit.
    for tokens in [-1, WINDOW as i64, 1_000_000] {
        let reply = post_with(&app, &long(), &json!({"truncate_prompt_tokens": tokens}), &[]);
        assert_eq!(reply.json()["usage"]["prompt_tokens"], WINDOW, "{tokens}");
    }
}

#[test]
fn aliases_of_dimensions_and_encoding_format_have_the_same_effect() {
    let app = TestApp::builder().model(|model| model.matryoshka_dimensions = vec![2, 4]).start();
    let cut = post(&app, &json!({"dimensions": 4}));
    for name in ["output_dimension", "output_dimensionality", "truncate_dim"] {
        let reply = post(&app, &json!({ name: 4 }));
        assert_answered(&reply, None);
        assert_eq!(vectors(&reply.json()), vectors(&cut.json()), "{name}");
        assert_answered(&post(&app, &json!({ name: 4, "dimensions": 4 })), None);
    }
    let message = rejected(&post(&app, &json!({"dimensions": 2, "output_dimension": 4})), "output_dimension");
    assert_eq!(
        message,
        "Invalid value for 'output_dimension' = 4. It contradicts 'dimensions': send one of them."
    );

    let is_base64 = |fields: Value| {
        let reply = post(&app, &fields);
        assert_answered(&reply, None);
        reply.json()["data"][0]["embedding"].is_string()
    };
    for (name, base64) in [
        ("embedding_type", json!("base64")),
        ("embedding_types", json!(["base64"])),
        ("encoding_type", json!("base64")),
    ] {
        assert!(is_base64(json!({ name: base64 })), "{name}");
        assert!(is_base64(json!({ name: base64, "encoding_format": "base64" })), "{name}");
        rejected(&post(&app, &json!({ name: base64, "encoding_format": "float" })), name);
        // What NIM and Cohere call `float` is the type of the numbers; OpenAI's SDK adds the format by itself.
        assert!(is_base64(json!({ name: "float", "encoding_format": "base64" })), "{name}");
        assert!(!is_base64(json!({ name: "float" })), "{name}");
    }
}

/// The norm of the first vector of a response.
#[track_caller]
fn norm(reply: &Reply) -> f64 {
    assert_eq!(reply.status, 200, "{}", reply.text());
    vectors(&reply.json())[0].iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn normalize_true_normalizes_the_vectors_of_an_unnormalized_model() {
    let app = TestApp::builder().unnormalized().model(|model| model.matryoshka_dimensions = vec![4]).start();
    let plain = post(&app, &json!({}));
    assert!((norm(&plain) - 1.0).abs() > 1e-2, "the fake's vectors must not have norm 1");
    let normalized = post(&app, &json!({"normalize": true}));
    assert_answered(&normalized, None);
    assert!((norm(&normalized) - 1.0).abs() < 1e-6);
    let length = norm(&plain);
    for (plain, normalized) in vectors(&plain.json())[0].iter().zip(&vectors(&normalized.json())[0]) {
        assert!((plain / length - normalized).abs() < 1e-6);
    }
    let raw = post(&app, &json!({"normalized": false}));
    assert_answered(&raw, Some("normalized"));
    assert_eq!(vectors(&raw.json()), vectors(&plain.json()));
    rejected(&post(&app, &json!({"normalized": false, "normalize": true})), "normalized");
    // A truncated vector is normalized, as Matryoshka models are trained.
    assert_answered(&post(&app, &json!({"normalize": true, "dimensions": 4})), None);
    rejected(&post(&app, &json!({"normalize": false, "dimensions": 4})), "normalize");
}
