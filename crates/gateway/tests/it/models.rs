//! `GET /v1/models`, and the names of a model.

use serde_json::json;

use crate::{
    app::{Builder, TestApp},
    schema::assert_valid,
};

#[test]
fn models_come_first_and_every_alias_is_listed() {
    let app = TestApp::builder().hub_id("org/tiny").alias("text-embedding-3-small").start();
    for path in ["/v1/models", "/models", "/v1/models/", "//v1//models"] {
        let list = app.get(path).json();
        assert_valid("models", &list);
        let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
        assert_eq!(ids, ["tiny", "m", "org/tiny", "text-embedding-3-small"], "{path}");
    }
}

#[test]
fn a_model_is_found_by_id_and_alias_with_slashes_raw_or_encoded() {
    let app = TestApp::builder().hub_id("org/tiny").alias("a/b/c d").start();
    for (path, id) in [
        ("/v1/models/tiny", "tiny"),
        ("/models/m", "m"),
        ("/v1/models/org/tiny", "org/tiny"),
        ("/v1/models/org%2Ftiny", "org/tiny"),
        ("/v1/models/org%2ftiny/", "org/tiny"),
        ("/v1/models/a/b%2Fc%20d", "a/b/c d"),
    ] {
        let reply = app.get(path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_valid("model", &reply.json());
        let expected = json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "embedgate", "task": "embed"});
        assert_eq!(reply.json(), expected);
    }
    for path in ["/v1/models/unknown", "/v1/models/org", "/v1/models/%FF"] {
        let reply = app.get(path);
        assert_eq!(reply.status, 404, "{path}");
        assert_valid("error", &reply.json());
    }
}

#[test]
fn a_response_has_the_requested_name_and_a_header_with_the_model() {
    let app = TestApp::builder().hub_id("org/tiny").start();
    for name in ["tiny", "m", "org/tiny"] {
        let reply = app.post(json!({"model": name, "input": "a"}).to_string());
        assert_eq!(reply.json()["model"], name);
        assert_eq!(reply.header("x-embedgate-model"), Some("tiny"));
    }
}

#[test]
fn a_name_is_found_in_any_case_and_after_openai() {
    let app = TestApp::builder().hub_id("Org/Tiny").alias("text-embedding-3-small").start();
    for name in [
        "TINY",
        "org/tiny",
        "Text-Embedding-3-Small",
        "openai/text-embedding-3-small",
        "OpenAI/M",
        "openai/Org/Tiny",
    ] {
        let reply = app.post(json!({"model": name, "input": "a"}).to_string());
        assert_eq!((reply.status, reply.header("x-embedgate-model")), (200, Some("tiny")), "{name}");
        assert_eq!(reply.json()["model"], name);
        assert_eq!(app.get(&format!("/v1/models/{name}")).json()["id"], name);
    }
    for name in ["azure/m", "openai/openai/m", "openai/", "openai", " m", "m ", "ｍ", "text-embedding-3"] {
        let reply = app.post(json!({"model": name, "input": "a"}).to_string());
        assert_eq!(reply.status, 404, "{name}");
    }
}

#[test]
fn an_exact_name_takes_precedence_and_an_ambiguous_one_is_unknown() {
    let app = TestApp::builder()
        .config(|config| {
            let mut other = config.models[0].clone();
            other.id = "Tiny".to_owned();
            config.models.push(other);
            config.aliases.insert("openai/m".to_owned(), "Tiny".into());
            config.aliases.insert("M".to_owned(), "tiny".into());
        })
        .start();
    let model_of = |name| {
        let reply = app.post(json!({"model": name, "input": "a"}).to_string());
        reply.header("x-embedgate-model").map(str::to_owned)
    };
    for (name, model) in
        [("tiny", Some("tiny")), ("Tiny", Some("Tiny")), ("TINY", None), ("openai/TINY", None)]
    {
        assert_eq!(model_of(name).as_deref(), model, "{name}");
    }
    assert_eq!(model_of("openai/m").as_deref(), Some("Tiny"), "a name of its own goes before the rule");
    assert_eq!(model_of("openai/M").as_deref(), Some("Tiny"), "in any case of letters, too");
    assert_eq!(model_of("openai/Tiny").as_deref(), Some("Tiny"));
}

#[test]
fn an_unknown_model_error_lists_ten_names() {
    let with_eight = |builder: Builder| (0..8).fold(builder, |all, number| all.alias(&format!("a{number}")));
    let known = "Models here: `tiny`, `a0`, `a1`, `a2`, `a3`, `a4`, `a5`, `a6`, `a7`, `m`";
    let ten = with_eight(TestApp::builder()).start();
    let unknown = |app: &TestApp| app.post(r#"{"model":"unknown","input":"a"}"#).message();
    assert!(unknown(&ten).ends_with(&format!("{known}.")), "{}", unknown(&ten));
    let twelve = with_eight(TestApp::builder().alias("z1").alias("z2")).start();
    assert!(
        unknown(&twelve).ends_with(&format!("{known} and 2 more (GET /v1/models).")),
        "{}",
        unknown(&twelve)
    );
    // A long name is not repeated completely.
    let long = twelve.get(&format!("/v1/models/{}", "x".repeat(10_000)));
    assert!(long.status == 404 && long.message().len() < 400, "{}", long.message());
}

#[test]
fn several_models_are_served_at_once() {
    let app = TestApp::builder()
        .config(|config| {
            let mut other = config.models[0].clone();
            other.id = "other".to_owned();
            other.matryoshka_dimensions = vec![2];
            config.models.push(other);
            config.aliases.insert("second".to_owned(), "other".into());
        })
        .start();
    let post = |model| app.post(json!({"model": model, "input": "a", "dimensions": 2}).to_string());
    assert_eq!(post("tiny").status, 400);
    assert_eq!(post("second").header("x-embedgate-model"), Some("other"));
}
