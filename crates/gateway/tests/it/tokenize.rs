//! `POST /tokenize` of text-embeddings-inference.

use serde_json::{Value, json};

use crate::{
    app::{TestApp, WINDOW},
    doors::post,
    loading::on_demand,
};

#[track_caller]
fn tokenize(app: &TestApp, body: &Value) -> Value {
    let reply = post(app, "/tokenize", body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Asserts that each token's text is the part of `text` at its position.
#[track_caller]
fn assert_positions(tokens: &Value, text: &str) {
    let chars: Vec<char> = text.chars().collect();
    for token in tokens.as_array().unwrap() {
        if token["special"] == true {
            assert_eq!((&token["start"], &token["stop"]), (&Value::Null, &Value::Null), "{token}");
            continue;
        }
        let (start, stop) =
            (token["start"].as_u64().unwrap() as usize, token["stop"].as_u64().unwrap() as usize);
        let part: String = chars[start..stop].iter().collect();
        assert_eq!(token["text"], part, "{token}");
    }
}

#[test]
fn tokens_have_the_text_and_position_of_the_input() {
    let app = TestApp::start();
    let text = "É, x 🚀";
    let lists = tokenize(&app, &json!({"inputs": text}));
    let tokens = lists[0].as_array().unwrap();
    assert_eq!(lists.as_array().unwrap().len(), 1);
    assert_eq!(tokens[0]["text"], "[CLS]");
    assert_eq!(tokens.last().unwrap()["text"], "[SEP]");
    assert_eq!(
        tokens[1],
        json!({"id": tokens[1]["id"], "text": "É", "special": false, "start": 0, "stop": 1})
    );
    assert_positions(&lists[0], text);
    // As many as `usage` counts.
    let usage = app.post(json!({"model": "m", "input": text}).to_string()).json()["usage"].clone();
    assert_eq!(usage["prompt_tokens"], tokens.len());
}

#[test]
fn byte_level_and_sentencepiece_tokens_have_positions() {
    for (name, text) in [
        ("modernbert-mean", "Hello wörld 🚀 東京!"),
        ("roberta-mean", "Hello wörld 🚀 東京!"),
        ("xlm-roberta-mean", "Hello wörld ﬁne 東京!"),
    ] {
        let app = TestApp::builder().real(name).start();
        let lists = tokenize(&app, &json!({"inputs": [text, ""], "add_special_tokens": false}));
        assert_positions(&lists[0], text);
        let tokens = lists[0].as_array().unwrap();
        assert!(tokens.iter().all(|token| token["special"] == false), "{name}: {lists}");
        assert_eq!(tokens.last().unwrap()["stop"], text.chars().count(), "{name}: {lists}");
        assert_eq!(lists[1], json!([]), "{name}");
    }
}

#[test]
fn texts_are_not_truncated() {
    let app = TestApp::start();
    for words in [2 * WINDOW, 20_000] {
        let lists = tokenize(&app, &json!({"inputs": "a ".repeat(words)}));
        assert_eq!(lists[0].as_array().unwrap().len(), words + 2);
    }
}

#[test]
fn the_default_model_answers_unless_another_is_named() {
    let app = on_demand(&["a", "b"]).config(|config| config.default_model = "b".to_owned()).start();
    tokenize(&app, &json!({"inputs": "x"}));
    assert_eq!((app.loads["a"].entered(), app.loads["b"].entered()), (0, 1));
    tokenize(&app, &json!({"inputs": "x", "model": "m"}));
    assert_eq!(app.loads["a"].entered(), 1);
    let reply = post(&app, "/tokenize", &json!({"inputs": "x", "model": "unknown"}));
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error_type"], "validation");
}

#[test]
fn invalid_and_too_large_requests_are_rejected() {
    let app = TestApp::builder()
        .config(|config| {
            config.limits.max_inputs = 2;
            config.limits.max_request_tokens = 5;
            config.limits.max_body_bytes = 1000;
        })
        .start();
    for (body, status, said) in [
        (json!({}), 400, "inputs"),
        (json!({"inputs": []}), 400, "from 1 to 2"),
        (json!({"inputs": ["a", "b", "c"]}), 400, "from 1 to 2"),
        (json!({"inputs": 1}), 400, "a text or a list of texts"),
        (json!({"inputs": "a a a a"}), 400, "maximum request size is 5 tokens"),
        (json!({"inputs": ["a", "a"]}), 400, "maximum request size is 5 tokens"),
        (json!({"inputs": "a", "prompt_name": "query"}), 400, "prompt_name"),
        (json!({"inputs": "a".repeat(1000)}), 413, "1000"),
    ] {
        let reply = post(&app, "/tokenize", &body);
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        let error = reply.json();
        assert!(error["error"].as_str().unwrap().contains(said), "{body}: {error}");
        assert_eq!(error["error_type"], "validation");
    }
    assert_eq!(post(&app, "/tokenize", &json!({"inputs": "a a a"})).status, 200);
}

#[test]
fn a_key_is_required_where_keys_are_configured() {
    let app = TestApp::builder().key("team", "secret").start();
    let body = json!({"inputs": "a"}).to_string();
    let send = |key: &str| app.send("POST", "/tokenize", &[("authorization", key)], body.as_bytes());
    let reply = send("Bearer wrong");
    assert_eq!((reply.status, reply.json()["error_type"].as_str()), (401, Some("validation")));
    assert_eq!(send("Bearer secret").status, 200);
}
