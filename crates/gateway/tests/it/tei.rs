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
fn the_root_answers_as_embed_for_clients_of_inference_endpoints() {
    let app = TestApp::start();
    let body = json!({"inputs": ["a", "b c"]});
    let reply = post(&app, "/", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json(), post(&app, "/embed", &body).json());
    let wrong = post(&app, "/", &json!({"inputs": []}));
    assert_eq!((wrong.status, &wrong.json()["error_type"]), (400, &json!("validation")));
    let page = app.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let other = app.send("DELETE", "/", &[], b"");
    assert_eq!((other.status, other.header("allow")), (405, Some("GET, HEAD, POST")));
    // The page is no request for embeddings.
    app.wait_for_metric("embedgate_request_duration_seconds_count{model=\"tiny\",outcome=\"success\"} 2");
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
fn vectors_of_tokens_are_not_supported() {
    let app = TestApp::builder().key("team", "secret").start();
    let reply = app.send("POST", "/embed_all", &[("authorization", "Bearer secret")], br#"{"inputs":"a"}"#);
    let error = reply.json();
    assert_eq!((reply.status, &error["error_type"]), (404, &json!("validation")));
    assert!(error["error"].as_str().unwrap().ends_with("Use POST /embed."), "{error}");
    assert_eq!(post(&app, "/embed_all", &json!({"inputs": "a"})).status, 401);
}

#[test]
fn errors_have_the_shape_of_text_embeddings_inference() {
    for path in ["/embed", "/"] {
        assert_error_shape(path, &json!({"inputs": "a"}), "error", &["error", "error_type"]);
    }
    let app = TestApp::start();
    assert_eq!(post(&app, "/embed", &json!({"inputs": []})).json()["error_type"], "validation");
}
