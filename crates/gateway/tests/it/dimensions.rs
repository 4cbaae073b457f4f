//! `dimensions` of OpenAI's models, which many clients send unasked.

use gateway::config::Alias;
use serde_json::json;

use crate::{
    app::{TestApp, vectors},
    fake::DIMENSIONS,
    http::Reply,
};

/// A server on which `name` has the native dimensions `native`.
fn start(name: &str, native: Option<usize>) -> TestApp {
    let alias = Alias { native_dimensions: native, ..Alias::from("tiny") };
    TestApp::builder().config(|config| drop(config.aliases.insert(name.to_owned(), alias))).start()
}

fn post(app: &TestApp, model: &str, dimensions: usize) -> Reply {
    app.post(json!({"model": model, "input": "a", "dimensions": dimensions}).to_string())
}

#[test]
fn another_size_names_the_real_model_its_sizes_and_the_remedy() {
    let app = start("text-embedding-3-small", None);
    let reply = post(&app, "text-embedding-3-small", 1536);
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("dimensions")));
    assert_eq!(
        reply.message(),
        "Invalid value for 'dimensions' = 1536. Must be less than or equal to 8. `text-embedding-3-small` stands for \
         `tiny` here, which has 8 dimensions: leave 'dimensions' out, or send 8."
    );
}

#[test]
fn native_dimensions_mean_all_that_the_model_has() {
    let app = start("text-embedding-3-large", Some(3072));
    let reply = post(&app, "text-embedding-3-large", 3072);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(vectors(&reply.json()), app.embed(&json!("a")));
    assert_eq!(reply.header("x-embedgate-ignored"), Some("dimensions"));
    let line = r#"embedgate_extra_parameters_total{outcome="ignored",parameter="dimensions"} 1"#;
    assert!(app.get("/metrics").text().contains(line), "{}", app.get("/metrics").text());
    // Only this size, only under this name, and in any letter case of it.
    assert_eq!(post(&app, "text-embedding-3-large", 1536).status, 400);
    assert_eq!(post(&app, "m", 3072).status, 400);
    assert_eq!(post(&app, "openai/Text-Embedding-3-Large", 3072).status, 200);
    let own = post(&app, "text-embedding-3-large", DIMENSIONS);
    assert_eq!((own.status, own.header("x-embedgate-ignored")), (200, None));
}
