//! Prompts: chosen by parameter, alias, setting and the model's files; put before each text, and counted.

use gateway::config::LoadTime;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testkit::model::copy_tiny;

use crate::{
    app::{Builder, TestApp, vectors},
    http::Reply,
    schema::assert_valid,
};

const IGNORED: &str = "x-embedgate-ignored";
const PROMPT: &str = "x-embedgate-prompt";
const MISSING: &str = "x-embedgate-prompt-missing";

/// Posts the inputs `a` and `b` to `model` with `fields`.
fn post(app: &TestApp, model: &str, fields: &Value) -> Reply {
    post_input(app, model, &json!(["a", "b"]), fields)
}

fn post_input(app: &TestApp, model: &str, input: &Value, fields: &Value) -> Reply {
    let mut body = json!({"model": model, "input": input});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    app.post(body.to_string())
}

/// Asserts a 400 about `param`, and returns its message.
#[track_caller]
fn rejected(reply: &Reply, param: &Value) -> String {
    assert_eq!(reply.status, 400, "{}", reply.text());
    let error = reply.json();
    assert_valid("error", &error);
    assert_eq!(error["error"]["param"], *param, "{error}");
    reply.message()
}

fn with_prompts() -> Builder {
    TestApp::builder().prompt("query", "query: ").prompt("document", "")
}

/// Asserts the vectors of `query: a` and `query: b`.
#[track_caller]
fn assert_queries(app: &TestApp, reply: &Reply) {
    assert_eq!((reply.status, reply.header(IGNORED), reply.header(PROMPT)), (200, None, Some("query")));
    assert_eq!(reply.header(MISSING), None);
    let plain = post_input(app, "m", &json!(["query: a", "query: b"]), &json!({"prompt": ""}));
    assert_eq!(vectors(&reply.json()), vectors(&plain.json()));
    assert_eq!(reply.json()["usage"], plain.json()["usage"]);
}

#[test]
fn a_parameter_selects_the_prompt_of_all_inputs() {
    let app = with_prompts().start();
    for (name, value) in [
        ("prompt_name", "query"),
        ("input_type", "search_query"),
        ("task", "retrieval.query"),
        ("task_type", "RETRIEVAL_QUERY"),
        ("text_type", "query"),
    ] {
        assert_queries(&app, &post(&app, "m", &json!({ name: value })));
    }
    assert_queries(&app, &post(&app, "m", &json!({"prompt_name": "query", "input_type": "query"})));
}

#[test]
fn a_parameter_that_selects_an_empty_prompt_is_ignored_unless_it_replaces_another() {
    let plain = with_prompts().start();
    let default = with_prompts().model(|model| model.default_prompt = Some("query".to_owned())).start();
    for (name, value) in [
        ("prompt_name", "document"),
        ("input_type", "passage"),
        ("input_type", "search_document"),
        ("prompt", ""),
    ] {
        let reply = post(&plain, "m", &json!({ name: value }));
        assert_eq!((reply.status, reply.header(IGNORED), reply.header(MISSING)), (200, Some(name), None));
        let replaced = post(&default, "m", &json!({ name: value }));
        assert_eq!((replaced.status, replaced.header(IGNORED), replaced.header(PROMPT)), (200, None, None));
        assert_eq!(vectors(&replaced.json()), vectors(&reply.json()), "{name} = {value}");
    }
    // There is no prompt for it, so nothing changes.
    let reply = post(&plain, "m", &json!({"task": "classification"}));
    assert_eq!((reply.status, reply.header(IGNORED)), (200, Some("task")));
    let reply = post(&default, "m", &json!({"task": "classification"}));
    assert_eq!(reply.header(IGNORED), Some("task"));
    assert_eq!(reply.header(PROMPT), Some("query"));
}

#[test]
fn an_unknown_prompt_name_is_rejected_with_the_known_names() {
    let app = with_prompts().start();
    let message = rejected(&post(&app, "m", &json!({"prompt_name": "s2p"})), &json!("prompt_name"));
    assert!(message.ends_with("which has the prompts 'document', 'query'."), "{message}");
    let both = json!({"input_type": "document", "prompt_name": "query"});
    let message = rejected(&post(&app, "m", &both), &json!("prompt_name"));
    assert!(message.ends_with("It contradicts 'input_type': send one of them."), "{message}");
}

#[test]
fn a_parameter_takes_precedence_over_an_alias_and_an_alias_over_the_default() {
    let app = with_prompts()
        .prompt("passage", "passage: ")
        .model(|model| model.default_prompt = Some("passage".to_owned()))
        .prompt_alias("q", "query")
        .prompt_alias("raw", "")
        .start();
    assert_eq!(post(&app, "tiny", &json!({})).header(PROMPT), Some("passage"));
    assert_eq!(post(&app, "m", &json!({"prompt_name": null})).header(PROMPT), Some("passage"));
    assert_queries(&app, &post(&app, "q", &json!({})));
    assert_queries(&app, &post(&app, "openai/Q", &json!({})));
    assert_queries(&app, &post(&app, "raw", &json!({"prompt_name": "query"})));
    assert_eq!(post(&app, "q", &json!({"input_type": "passage"})).header(PROMPT), Some("passage"));
    let raw = post(&app, "raw", &json!({}));
    assert_eq!((raw.header(PROMPT), raw.header(MISSING)), (None, None));
    let off = post(&app, "q", &json!({"prompt": ""}));
    assert_eq!((off.header(PROMPT), off.header(IGNORED)), (None, None));
    assert_eq!(vectors(&off.json()), vectors(&raw.json()));
}

#[test]
fn a_request_without_the_prompt_that_its_model_expects_is_told_and_counted() {
    let app = with_prompts().start();
    let missing = r#"embedgate_prompts_missing_total{model="tiny"}"#;
    app.wait_for_metric(&format!("{missing} 0"));
    let reply = post(&app, "m", &json!({}));
    assert_eq!((reply.header(MISSING), reply.header(PROMPT)), (Some("query"), None));
    let reply = post(&app, "m", &json!({"input_type": "clustering"}));
    assert_eq!((reply.header(MISSING), reply.header(IGNORED)), (Some("query"), Some("input_type")));
    assert_eq!(post(&app, "m", &json!({"prompt_name": "document"})).header(MISSING), None);
    app.wait_for_metric(&format!("{missing} 2"));
    // A default, or its absence on purpose, is a decision.
    for default in ["query", ""] {
        let app = with_prompts().model(|model| model.default_prompt = Some(default.to_owned())).start();
        assert_eq!(post(&app, "m", &json!({})).header(MISSING), None, "{default:?}");
    }
    // Prompts for other kinds of input are a choice, not a need.
    let app = TestApp::builder().prompt("clustering", "cluster: ").start();
    assert_eq!(post(&app, "m", &json!({})).header(MISSING), None);
}

#[test]
fn token_ids_of_the_model_have_no_prompt() {
    use gateway::config::TokenIds;

    let start = |default: Option<&str>, token_ids| {
        let default = default.map(str::to_owned);
        let builder = with_prompts().prompt_alias("q", "query");
        builder.model(|model| (model.token_ids, model.default_prompt) = (token_ids, default)).start()
    };
    let ids = json!([[5, 6]]);
    let plain = post_input(&start(None, TokenIds::Native), "m", &ids, &json!({}));
    assert_eq!((plain.status, plain.header(MISSING)), (200, Some("query")));
    let app = start(Some("query"), TokenIds::Native);
    // A default prompt is left out; one that the client chose is not.
    let reply = post_input(&app, "m", &ids, &json!({}));
    assert_eq!((reply.header(MISSING), reply.header(PROMPT)), (Some("query"), None));
    assert_eq!(vectors(&reply.json()), vectors(&plain.json()));
    for (model, fields, param) in [
        ("m", json!({"prompt_name": "query"}), json!("prompt_name")),
        ("m", json!({"input_type": "query"}), json!("input_type")),
        ("q", json!({}), Value::Null),
    ] {
        let message = rejected(&post_input(&app, model, &ids, &fields), &param);
        assert!(message.ends_with("send text."), "{message}");
    }
    assert_eq!(post_input(&app, "q", &ids, &json!({"prompt_name": "document"})).status, 200);
    // Ids of OpenAI's vocabularies become text.
    let decoded = start(Some("query"), TokenIds::Cl100kBase);
    assert_queries(&decoded, &post_input(&decoded, "m", &json!([[64], [65]]), &json!({})));
}

#[test]
fn a_prompt_counts_towards_the_maximum_length() {
    let app = with_prompts().model(|model| model.truncation = inference::TruncationPolicy::Error).start();
    let words = json!("a ".repeat(crate::app::WINDOW - 3));
    assert_eq!(post_input(&app, "m", &words, &json!({})).status, 200);
    let message = post_input(&app, "m", &words, &json!({"prompt_name": "query"})).message();
    assert!(message.starts_with("Invalid 'input': maximum context length is 64 tokens."), "{message}");
}

/// Texts, and what sentence-transformers computes for them.
struct Reference(Value);

impl Reference {
    fn of(model: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_tiny(model, folder.path()).unwrap();
        let text = std::fs::read(folder.path().join("reference.json")).unwrap();
        Self(serde_json::from_slice(&text).unwrap())
    }

    /// The values of `key` for the texts that the API accepts, which are not empty.
    fn values<T: DeserializeOwned>(&self, key: &str) -> Vec<T> {
        let (texts, values) = (&self.0["texts"], &self.0[key]);
        let pairs = texts.as_array().unwrap().iter().zip(values.as_array().unwrap());
        let values = pairs.filter(|(text, _)| *text != "").map(|(_, value)| value.clone());
        values.map(|value| serde_json::from_value(value).unwrap()).collect()
    }

    /// Posts the texts with `fields`, and compares with the reference values whose keys end in `suffix`.
    #[track_caller]
    fn assert_equals(&self, app: &TestApp, (model, fields): (&str, Value), suffix: &str) {
        let reply = post_input(app, model, &json!(self.values::<String>("texts")), &fields);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let response = reply.json();
        let tokens: u64 = self.values::<u64>(&format!("token_counts{suffix}")).iter().sum();
        assert_eq!(response["usage"]["prompt_tokens"], tokens, "{model} {fields}");
        let expected: Vec<Vec<f64>> = self.values(&format!("vectors{suffix}"));
        let found = vectors(&response);
        assert_eq!(found.len(), expected.len());
        for (text, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
            let worst = differences.fold(0.0, f64::max);
            assert!(
                worst < 1e-5 && found.len() == expected.len(),
                "{model} {fields}: text {text} is off by {worst}"
            );
        }
    }
}

#[test]
fn prompts_give_the_vectors_and_token_counts_of_sentence_transformers() {
    const MODEL: &str = "bert-prompts-mean";
    let reference = Reference::of(MODEL);
    let real = || TestApp::builder().real(MODEL).prompt_alias("p", "passage").prompt_alias("raw", "");
    // The model's own default is `query`.
    let app = real().start();
    for (model, fields, suffix) in [
        ("m", json!({}), ""),
        ("m", json!({}), "_query"),
        ("m", json!({"prompt_name": "passage"}), "_passage"),
        ("m", json!({"input_type": "passage"}), "_passage"),
        ("m", json!({"input_type": "document"}), "_without_prompt"),
        ("m", json!({"prompt_name": "document"}), "_without_prompt"),
        ("m", json!({"prompt": ""}), "_without_prompt"),
        ("p", json!({}), "_passage"),
        ("p", json!({"task": "retrieval.query"}), "_query"),
        ("raw", json!({}), "_without_prompt"),
    ] {
        reference.assert_equals(&app, (model, fields), suffix);
    }
    for (default, suffix) in [("passage", "_passage"), ("", "_without_prompt")] {
        let app = real().model(|model| model.default_prompt = Some(default.to_owned())).start();
        reference.assert_equals(&app, ("tiny", json!({})), suffix);
        reference.assert_equals(&app, ("tiny", json!({"prompt_name": "query"})), "_query");
    }
}

#[test]
fn a_model_without_include_prompt_leaves_the_prompt_out_of_its_pooling() {
    const MODEL: &str = "bert-instructor-mean";
    let reference = Reference::of(MODEL);
    let app = TestApp::builder().real(MODEL).start();
    // Equal texts with different prompts share nothing in the cache.
    for _ in 0..2 {
        reference.assert_equals(&app, ("m", json!({})), "");
        reference.assert_equals(&app, ("m", json!({"input_type": "query"})), "_query");
        reference.assert_equals(&app, ("m", json!({"prompt_name": "document"})), "_document");
    }
    // The same ids without a prompt are pooled as a whole.
    let prompted = post_input(&app, "m", &json!("a"), &json!({"prompt_name": "query"}));
    let text = "Represent the query for retrieval: a";
    let plain = post_input(&app, "m", &json!(text), &json!({}));
    assert_eq!(prompted.json()["usage"], plain.json()["usage"]);
    assert_ne!(vectors(&prompted.json()), vectors(&plain.json()));
}

#[test]
fn an_alias_or_a_setting_with_an_unknown_prompt_is_an_error_at_start() {
    for load in [LoadTime::Startup, LoadTime::OnDemand] {
        for (builder, expected) in [
            (
                TestApp::builder().real("bert-prompts-mean").prompt_alias("q", "s2p"),
                "the alias `q` has the prompt `s2p`, but the model `tiny` has the prompts 'document', 'passage', \
                 'query'",
            ),
            (
                TestApp::builder()
                    .real("bert-mean")
                    .model(|model| model.default_prompt = Some("query".to_owned())),
                "default_prompt = \"query\", but the model has no prompts",
            ),
        ] {
            let mut app = builder.model(|model| model.load = load).launch();
            let error = app.join().unwrap_err();
            let mut message = String::new();
            let mut source: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = source {
                message += &format!("{error}\n");
                source = error.source();
            }
            assert!(message.contains(expected), "{load:?}: {message}");
        }
    }
}

#[test]
fn the_prompt_of_an_alias_applies_to_a_model_loaded_on_demand() {
    let app =
        with_prompts().prompt_alias("q", "query").model(|model| model.load = LoadTime::OnDemand).start();
    assert_eq!(app.loads["tiny"].entered(), 0);
    assert_queries(&app, &post(&app, "q", &json!({})));
    assert_eq!(app.loads["tiny"].entered(), 1);
}

#[test]
fn an_alias_whose_prompt_is_gone_when_its_model_is_loaded_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    copy_tiny("bert-prompts-mean", folder.path()).unwrap();
    let path = folder.path().to_owned();
    let app = TestApp::builder()
        .real_models()
        .model(|model| (model.path, model.load) = (path, LoadTime::OnDemand))
        .prompt_alias("q", "query")
        .prompt_alias("raw", "")
        .start();
    std::fs::write(folder.path().join("config_sentence_transformers.json"), "{}").unwrap();
    let reply = post(&app, "q", &json!({}));
    assert_eq!((reply.status, reply.header(PROMPT)), (500, None), "{}", reply.text());
    for model in ["m", "raw"] {
        assert_eq!(post(&app, model, &json!({})).status, 200, "{model}");
    }
}
