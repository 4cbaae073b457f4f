//! Ollama's routes.

use serde_json::json;

use crate::{
    app::{TestApp, WINDOW},
    doors::{assert_error_shape, numbers, post, rows},
};

#[test]
fn embed_answers_one_text_and_many() {
    let app = TestApp::start();
    for (input, expected) in
        [(json!("a"), app.embed(&json!(["a"]))), (json!(["a", "b"]), app.embed(&json!(["a", "b"])))]
    {
        let body =
            json!({"model": "m:latest", "input": input, "options": {"num_ctx": 64}, "keep_alive": "5m"});
        let reply = post(&app, "/api/embed", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let response = reply.json();
        assert_eq!((&response["model"], rows(&response["embeddings"])), (&json!("m:latest"), expected));
        assert!(response["total_duration"].as_u64().unwrap() > 0);
        assert!(response["prompt_eval_count"].as_u64().unwrap() >= 3);
        assert_eq!(reply.header("x-embedgate-ignored"), Some("keep_alive, options"));
    }
    let long = "a ".repeat(2 * WINDOW);
    for (truncate, status) in [(json!(true), 200), (json!(false), 400), (json!(null), 200)] {
        let body = json!({"model": "m", "input": long, "truncate": truncate});
        assert_eq!(post(&app, "/api/embed", &body).status, status, "{truncate}");
    }
    assert_eq!(post(&app, "/api/embed", &json!({"model": "m", "input": "a", "dimensions": 4})).status, 400);
}

#[test]
fn the_older_route_answers_one_text() {
    let app = TestApp::start();
    let reply = post(&app, "/api/embeddings", &json!({"model": "tiny", "prompt": "a b"}));
    assert_eq!(numbers(&reply.json()["embedding"]), app.embed(&json!("a b"))[0]);
    assert_eq!(post(&app, "/api/embeddings", &json!({"model": "tiny", "prompt": ["a"]})).status, 400);
}

#[test]
fn models_are_listed_and_described() {
    let app = TestApp::builder().hub_id("org/tiny").start();
    let tags = app.get("/api/tags").json();
    let names: Vec<_> = tags["models"].as_array().unwrap().iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["tiny:latest", "m:latest", "org/tiny:latest"]);
    assert_eq!(tags["models"][0]["modified_at"], "2023-11-14T22:13:20Z");
    for body in [json!({"model": "tiny"}), json!({"name": "m:latest"})] {
        let reply = post(&app, "/api/show", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let model = reply.json();
        assert_eq!(model["model_info"]["embedgate.embedding_length"], 8);
        assert_eq!(model["model_info"]["embedgate.context_length"], WINDOW);
        assert_eq!(model["capabilities"], json!(["embedding"]));
    }
    assert_eq!(post(&app, "/api/show", &json!({"model": "llama3"})).status, 404);
    assert_eq!(app.get("/api/version").json()["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn errors_have_ollamas_shape() {
    assert_error_shape("/api/embed", &json!({"model": "m", "input": "a"}), "error", &["error"]);
    assert_error_shape("/api/embeddings", &json!({"model": "m", "prompt": "a"}), "error", &["error"]);
}
