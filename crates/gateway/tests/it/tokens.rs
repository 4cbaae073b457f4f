//! Token ids as input: those of OpenAI's vocabularies are decoded to text, the model's own are used as they are.

use gateway::config::TokenIds;
use serde_json::json;

use crate::app::{EMBEDDINGS, TestApp};

fn app(token_ids: TokenIds) -> TestApp {
    TestApp::builder().model(|model| model.token_ids = token_ids).start()
}

#[test]
fn openai_token_ids_have_the_vector_of_their_text() {
    for (policy, hello, world) in [(TokenIds::Cl100kBase, 15339, 1917), (TokenIds::O200kBase, 24912, 2375)] {
        let app = app(policy);
        let text = app.embed(&json!("hello world"));
        assert_eq!(app.embed(&json!([hello, world])), text);
        assert_eq!(app.embed(&json!([[hello, world]])), text);
        assert_eq!(app.embed(&json!([[hello], [hello, world]])), [app.embed(&json!("hello")), text].concat());
    }
}

#[test]
fn special_token_ids_are_decoded_to_their_text() {
    let app = app(TokenIds::Cl100kBase);
    assert_eq!(
        app.embed(&json!([[100_257], [100_276]])),
        app.embed(&json!(["<|endoftext|>", "<|endofprompt|>"]))
    );
}

/// LangChain splits long texts at 8,191 tokens, possibly inside a character.
#[test]
fn token_ids_split_inside_a_character_are_embedded() {
    let app = app(TokenIds::Cl100kBase);
    // The first of the three tokens of 🙂.
    assert_eq!(app.embed(&json!([64, 220, 9468])).len(), 1);
}

#[test]
fn an_unknown_token_id_is_named_by_its_path() {
    let app = app(TokenIds::Cl100kBase);
    let message =
        |input: serde_json::Value| app.post_invalid(json!({"model": "m", "input": input}).to_string());
    let expected = "Invalid 'input[1]': token id 100256 is not in the vocabulary cl100k_base.";
    assert_eq!(message(json!([1, 100_256])), expected);
    let expected = "Invalid 'input[1][2]': token id 4000000000 is not in the vocabulary cl100k_base.";
    assert_eq!(message(json!([[1], [2, 3, 4_000_000_000_u32]])), expected);
}

#[test]
fn native_token_ids_are_the_models_own() {
    let app = app(TokenIds::Native);
    // "a" is 40 in the vocabulary of the test's tokenizer, "b" 41.
    assert_eq!(app.embed(&json!([40, 41])), app.embed(&json!("a b")));
    assert_eq!(
        app.post_invalid(r#"{"model":"m","input":[[40],[1,99999]]}"#),
        "Invalid 'input[1]': token id 99999 is not in the vocabulary of the model `tiny`, or has no embedding."
    );
}

#[test]
fn token_ids_can_be_rejected() {
    let app = app(TokenIds::Reject);
    assert_eq!(
        app.post_invalid(r#"{"model":"m","input":[1,2]}"#),
        "`m` stands for `tiny` here, which does not accept token ids; send text instead."
    );
    assert_eq!(app.post(r#"{"model":"m","input":"text"}"#).status, 200);
}

/// They are rejected before decoding: the text of an id may be thirty times as long as the id.
#[test]
fn more_token_ids_than_max_request_tokens_are_rejected() {
    let app = TestApp::builder().config(|config| config.limits.max_request_tokens = 100).start();
    let body = |ids: usize| json!({"model": "m", "input": vec![58_040; ids]}).to_string();
    assert_eq!(app.post(body(100)).status, 200);
    let message = app.post_invalid(body(101));
    assert_eq!(message, "Invalid 'input': maximum request size is 100 tokens per request.");
}

/// A server with a modified tokenizer.
fn app_with(change: impl FnOnce(&mut serde_json::Value)) -> TestApp {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../model-import/tests/tiny-models/bert-mean/tokenizer.json");
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    TestApp::builder().tokenizer(file.path()).start()
}

/// Gemma's tokenizer has `<image_soft_token>`, but its text models have no embedding for it.
#[test]
fn an_input_with_a_token_without_embedding_is_a_400_that_names_it() {
    let app = app_with(|json| {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": EMBEDDINGS, "content": "<image_soft_token>", "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }));
    });
    for (input, place) in [
        (json!("an <image_soft_token>"), "input"),
        (json!(["fine", "fine", "<image_soft_token> a"]), "input[2]"),
    ] {
        let reply = app.post(json!({"model": "m", "input": input}).to_string());
        assert_eq!((reply.status, reply.header("retry-after")), (400, None), "{}", reply.text());
        let expected = format!(
            "Invalid '{place}': the model `tiny` has no embedding for the token `<image_soft_token>` (id 600) in this \
             text."
        );
        assert_eq!(reply.message(), expected);
    }
    assert_eq!(app.embed(&json!(["fine"])).len(), 1);
}

/// A tokenizer without an unknown token fails on some texts.
#[test]
fn an_input_that_the_tokenizer_rejects_is_a_400_that_names_it() {
    let app = app_with(|json| json["model"]["unk_token"] = json!("[ABSENT]"));
    let message = app.post_invalid(json!({"model": "m", "input": ["a", "東"]}).to_string());
    assert!(
        message.starts_with("Invalid 'input[1]': the tokenizer of the model `tiny` cannot read this text: "),
        "{message}"
    );
    assert!(!message.contains('東'), "{message}");
    assert_eq!(app.embed(&json!(["a"])).len(), 1);
}
