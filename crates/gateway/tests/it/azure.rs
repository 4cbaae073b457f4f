//! Azure's form of OpenAI's API.

use serde_json::json;

use crate::{
    app::{TestApp, vectors},
    doors::post,
    schema::assert_valid,
};

#[test]
fn the_deployment_in_the_path_is_the_model() {
    let app = TestApp::builder().alias("org/name").start();
    let expected = app.embed(&json!("a"));
    for path in [
        "/openai/deployments/m/embeddings?api-version=2024-10-21",
        "/openai/deployments/m/embeddings",
        "/openai/deployments/org%2Fname/embeddings?api-version=2023-05-15",
    ] {
        for body in [json!({"input": "a"}), json!({"input": "a", "model": "of-no-meaning"})] {
            let reply = post(&app, path, &body);
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            assert_valid("embeddings", &reply.json());
            assert_eq!(vectors(&reply.json()), expected);
            assert_eq!(reply.header("x-embedgate-model"), Some("tiny"));
        }
    }
    let reply = post(&app, "/openai/deployments/other/embeddings", &json!({"input": "a"}));
    assert_eq!(reply.status, 404);
    assert_valid("error", &reply.json());
    let line = "embedgate_request_duration_seconds_count{model=\"tiny\",outcome=\"success\"} 7";
    assert!(app.get("/metrics").text().contains(line));
}

#[test]
fn the_other_routes_of_azure_are_those_of_openai() {
    let app = TestApp::builder().key("team", "secret").start();
    let key = [("api-key", "secret")];
    let body = json!({"model": "m", "input": "a"}).to_string();
    let send =
        |method, path| app.send(method, path, &key, if method == "POST" { body.as_bytes() } else { b"" });
    for (method, path) in [
        ("POST", "/openai/v1/embeddings"),
        ("POST", "/openai/deployments/m/embeddings?api-version=1"),
        ("GET", "/openai/v1/models"),
        ("GET", "/openai/v1/models/m"),
        ("GET", "/openai/models?api-version=2024-10-21"),
        ("GET", "/openai/models/m?api-version=2024-10-21"),
    ] {
        assert_eq!(send(method, path).status, 200, "{path}");
        assert_eq!(app.send(method, path, &[("api-key", "wrong")], body.as_bytes()).status, 401, "{path}");
    }
    for path in ["/openai/v1/models", "/openai/models?api-version=2024-10-21"] {
        assert_eq!(send("GET", path).json(), send("GET", "/v1/models").json());
    }
    // A token of Entra ID is a bearer token, and compared with the configured keys.
    let path = "/openai/deployments/m/embeddings?api-version=1";
    for (token, status) in [("Bearer secret", 200), ("Bearer eyJ0eXAiOiJKV1QifQ.e30.c2ln", 401)] {
        let reply = app.send("POST", path, &[("authorization", token)], body.as_bytes());
        assert_eq!(reply.status, status, "{token}");
    }
}
