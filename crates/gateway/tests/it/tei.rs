//! Routes of text-embeddings-inference.

use serde_json::json;

use crate::{
    app::{TestApp, WINDOW},
    doors::{assert_error_shape, post, rows},
};

#[test]
fn embed_answers_with_the_bare_vectors_of_the_default_model() {
    let app = TestApp::builder().prompt("query", "query: ").start();
    for (inputs, expected) in
        [(json!("a"), app.embed(&json!(["a"]))), (json!(["a", "b c"]), app.embed(&json!(["a", "b c"])))]
    {
        let body = json!({"inputs": inputs, "truncate": true, "truncation_direction": "Right"});
        let reply = post(&app, "/embed", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(rows(&reply.json()), expected);
        assert_eq!(
            (reply.header("x-embedgate-model"), reply.header("x-embedgate-ignored")),
            (Some("tiny"), None)
        );
    }
    let reply = post(&app, "/embed", &json!({"inputs": "a", "prompt_name": "query"}));
    assert_eq!(reply.header("x-embedgate-prompt"), Some("query"));
    let long = json!({"inputs": "a ".repeat(2 * WINDOW), "truncate": false});
    assert_eq!(post(&app, "/embed", &long).status, 400);
}

#[test]
fn vectors_are_normalized_unless_the_request_says_otherwise() {
    let app = TestApp::builder().unnormalized().start();
    let norm = |body| {
        let vectors = rows(&post(&app, "/embed", &body).json());
        vectors[0].iter().map(|value| value * value).sum::<f64>().sqrt()
    };
    assert!((norm(json!({"inputs": "a"})) - 1.0).abs() < 1e-5);
    assert!((norm(json!({"inputs": "a", "normalize": true})) - 1.0).abs() < 1e-5);
    assert!((norm(json!({"inputs": "a", "normalize": false})) - 1.0).abs() > 1e-2);
}

#[test]
fn info_describes_the_default_model() {
    let app = TestApp::builder().hub_id("org/tiny").start();
    let info = app.get("/info").json();
    assert_eq!((&info["model_id"], &info["max_input_length"]), (&json!("org/tiny"), &json!(WINDOW)));
    assert_eq!((&info["max_client_batch_size"], &info["auto_truncate"]), (&json!(2048), &json!(true)));
}

#[test]
fn errors_have_the_shape_of_text_embeddings_inference() {
    assert_error_shape("/embed", &json!({"inputs": "a"}), "error", &["error", "error_type"]);
    let app = TestApp::start();
    assert_eq!(post(&app, "/embed", &json!({"inputs": []})).json()["error_type"], "validation");
}
