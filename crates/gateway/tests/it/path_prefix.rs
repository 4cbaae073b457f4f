//! The setting `server.path_prefix`.

use gateway::config::PathPrefix;
use serde_json::json;

use crate::{
    app::{TestApp, wait_until},
    doors::post,
    http,
};

#[test]
fn all_routes_are_under_the_prefix() {
    let (builder, ops) = TestApp::builder().ops();
    let app =
        builder.config(|config| config.server.path_prefix = PathPrefix::new("/ai/vectors").unwrap()).launch();
    let get = |path: &str| http::get(ops, path).unwrap().status;
    wait_until("the server is ready", || get("/ai/vectors/readyz") == 200);
    for (path, body) in [
        ("/v1/embeddings", json!({"model": "m", "input": "a"})),
        ("/embeddings", json!({"model": "m", "input": "a"})),
        ("/openai/deployments/m/embeddings", json!({"input": "a"})),
        ("/api/embed", json!({"model": "m", "input": "a"})),
        ("", json!({"inputs": "a"})),
    ] {
        assert_eq!(post(&app, &format!("/ai/vectors{path}"), &body).status, 200, "{path}");
        let bare = if path.is_empty() { "/" } else { path };
        assert_eq!(post(&app, bare, &body).status, 404, "{path}");
    }
    for path in ["/livez", "/health", "/ping", "/metrics"] {
        assert_eq!((get(&format!("/ai/vectors{path}")), get(path)), (200, 404), "{path}");
    }
    for path in ["/ai/vectors", "/ai/vectors/"] {
        let page = app.get(path);
        assert_eq!(page.status, 200, "{path}");
        let text = page.text();
        assert!(text.contains("http://test.example:8080/ai/vectors/v1"), "{text}");
        assert!(text.contains("href=\"/ai/vectors/v1/models\""));
    }
    assert_eq!(app.get("/").status, 404);
    // Routes keep their names in metrics, and their error shapes.
    let metrics = http::get(ops, "/ai/vectors/metrics").unwrap();
    assert!(
        metrics.text().contains(r#"http_requests_total{code="200",method="POST",route="/v1/embeddings"} 1"#)
    );
    assert!(post(&app, "/ai/vectors/api/embed", &json!({})).json()["error"].is_string());
}

#[test]
fn health_and_ping_are_further_names_of_readiness() {
    let (builder, gate) = TestApp::builder().gate();
    let app = builder.launch();
    app.wait_for("/livez", 200);
    for path in ["/health", "/ping"] {
        assert_eq!(app.get(path).status, 503, "{path}");
    }
    drop(gate);
    app.wait_for("/readyz", 200);
    for path in ["/health", "/ping"] {
        let reply = app.get(path);
        assert_eq!((reply.status, reply.text()), (200, "ok\n"), "{path}");
    }
}
