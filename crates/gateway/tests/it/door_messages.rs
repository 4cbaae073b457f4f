//! Messages of errors on every route that embeds or reranks: they name the fields and parameters of the route's own
//! API, never those of another vendor.

use serde_json::{Value, json};

use crate::{
    app::TestApp,
    rerank::{EMBEDDER, RERANKER, SPARSE, served_with},
};

/// A route, and the field that has its inputs.
struct Door {
    path: &'static str,
    model: &'static str,
    field: &'static str,
    /// Accepts token ids as inputs.
    takes_tokens: bool,
}

const fn door(path: &'static str, model: &'static str, field: &'static str) -> Door {
    Door { path, model, field, takes_tokens: true }
}

const fn reranker(path: &'static str, field: &'static str) -> Door {
    Door { path, model: RERANKER, field, takes_tokens: false }
}

const DOORS: [Door; 12] = [
    door("/v1/embeddings", EMBEDDER, "input"),
    door("/openai/deployments/bert-mean/embeddings", EMBEDDER, "input"),
    door("/v1/embed", EMBEDDER, "texts"),
    door("/v2/embed", EMBEDDER, "texts"),
    door("/api/embed", EMBEDDER, "input"),
    Door { takes_tokens: false, ..door("/api/embeddings", EMBEDDER, "prompt") },
    door("/embed", EMBEDDER, "inputs"),
    door("/embed_sparse", SPARSE, "inputs"),
    reranker("/v1/rerank", "documents"),
    reranker("/v2/rerank", "documents"),
    reranker("/rerank", "documents"),
    reranker("/rerank", "texts"),
];

/// Fields with inputs of all routes.
const FIELDS: [&str; 5] = ["input", "inputs", "texts", "documents", "prompt"];

impl Door {
    fn body(&self, value: &Value) -> Value {
        let mut body = json!({"model": self.model, self.field: value});
        if !self.takes_tokens {
            body["query"] = json!("a");
        }
        body
    }

    fn has_openai_form(&self) -> bool {
        self.path.ends_with("/embeddings") && !self.path.starts_with("/api")
    }

    /// Asserts that the request is a 400 whose message has `part` and nothing of another vendor.
    #[track_caller]
    fn assert_rejected(&self, app: &TestApp, body: &str, part: &str) {
        let headers = [("x-embedgate-truncation", "error")];
        let reply = app.send("POST", self.path, &headers, body.as_bytes());
        let (path, text) = (self.path, reply.text());
        assert_eq!(reply.status, 400, "{path}: {body}: {text}");
        assert!(text.contains(part), "{path}: {body}: {part} is not in {text}");
        let other = FIELDS.iter().filter(|field| **field != self.field);
        for field in other {
            let is_named = ["'", "["].iter().any(|end| text.contains(&format!("'{field}{end}")));
            assert!(!is_named, "{path}: {body}: '{field}' is in {text}");
        }
        let names_openai = text.to_ascii_lowercase().contains("openai");
        assert!(self.has_openai_form() || !names_openai, "{path}: {body}: {text}");
    }
}

fn app() -> crate::rerank::Served {
    served_with(|config| {
        config.limits.max_inputs = 3;
        config.limits.max_request_tokens = 150;
    })
}

#[test]
fn messages_about_inputs_name_the_field_of_the_route() {
    let served = app();
    let (long, longest) = ("a ".repeat(90), "a ".repeat(300));
    for door in DOORS {
        let (field, named) = (door.field, format!("'{}", door.field));
        let reject = |value: Value, part: &str| {
            door.assert_rejected(&served.app, &door.body(&value).to_string(), part);
        };
        reject(json!([]), &named);
        reject(json!(["a", "b", "c", "d"]), &named);
        reject(json!(5), "nvalid");
        reject(json!([5, "a"]), "nvalid");
        if field == "prompt" {
            reject(json!(long), "Invalid 'prompt': maximum context length is ");
            reject(json!(longest), "Invalid 'prompt': maximum");
        } else {
            reject(json!(["a", long]), &format!("Invalid '{field}[1]': maximum input length is "));
            let large = ["b ".repeat(50), "c ".repeat(50), "b ".repeat(50)];
            let limit = format!("Invalid '{field}': maximum request size is 150 tokens");
            reject(json!(large), &limit);
        }
        if door.takes_tokens {
            reject(json!(["a", ""]), &format!("Invalid '{field}[1]'"));
            reject(json!([[1], [4_000_000_000_u32]]), &format!("Invalid '{field}[1]"));
            reject(json!([4_000_000_000_u32]), &format!("Invalid '{field}"));
            reject(json!([vec![1; 151]]), &format!("Invalid '{field}': maximum request size"));
        }
        let reject = |body: &str, part: &str| door.assert_rejected(&served.app, body, part);
        // Without the field that tells the formats of `/rerank` apart, the body is of text-embeddings-inference.
        let without = if door.path == "/rerank" { "texts" } else { field };
        if without == field {
            reject(&json!({"model": door.model, "query": "a"}).to_string(), field);
        }
        reject("{", "line 1 column 1");
        reject("[]", "");
    }
}

#[test]
fn messages_about_parameters_name_them_as_the_client_does() {
    let served = app();
    for (path, body, part) in [
        ("/v2/embed", json!({"model": EMBEDDER, "texts": ["a"], "max_tokens": 1}), "'max_tokens' = 1"),
        ("/v1/embed", json!({"model": EMBEDDER, "texts": ["a"], "max_tokens": "8"}), "for 'max_tokens'"),
        (
            "/v2/embed",
            json!({"model": EMBEDDER, "texts": ["a"], "output_dimension": 999}),
            "'output_dimension'",
        ),
        ("/v2/embed", json!({"model": EMBEDDER, "texts": ["a"], "truncate": "START"}), "'truncate' = START"),
        ("/v2/embed", json!({"texts": ["a"]}), "'model'"),
        ("/api/embed", json!({"model": EMBEDDER, "input": "a", "truncate": 5}), "'truncate'"),
        ("/api/embed", json!({"model": EMBEDDER, "input": "a", "dimensions": 999}), "'dimensions'"),
        ("/embed", json!({"inputs": "a", "truncation_direction": "Left"}), "'truncation_direction' = Left"),
        ("/embed", json!({"inputs": "a", "prompt_name": "x"}), "'prompt_name' = x"),
        ("/embed_sparse", json!({"inputs": "a", "truncate": "x"}), "'truncate' = x"),
        ("/rerank", json!({"query": "a", "texts": ["a"], "truncate": "x"}), "'truncate' = x"),
        (
            "/rerank",
            json!({"query": "a", "texts": ["a"], "truncation_direction": "left"}),
            "'truncation_direction' = left. Supported values: ['right'].",
        ),
        ("/v2/rerank", json!({"query": "a", "documents": ["a"], "top_n": 0}), "'top_n'"),
    ] {
        let reply = served.app.post_to(path, &body);
        let text = reply.text();
        assert_eq!(reply.status, 400, "{path}: {body}: {text}");
        assert!(text.contains(part), "{path}: {body}: {part} is not in {text}");
        assert!(!text.contains("truncate_prompt_tokens") && !text.contains("openai"), "{path}: {text}");
    }
}

#[test]
fn ignored_parameters_of_a_rerank_request_are_listed() {
    let served = served_with(|config| {
        config.limits.unsupported_parameters = gateway::config::UnsupportedParameters::Ignore;
    });
    let body = json!({"query": "a", "texts": ["a"], "truncation_direction": "left", "truncate": true});
    let reply = served.app.post_to("/rerank", &body);
    assert_eq!((reply.status, reply.header("x-embedgate-ignored")), (200, Some("truncation_direction")));
    // The header decides where both are given.
    let body = json!({"query": "a", "texts": ["a ".repeat(200)], "truncate": true}).to_string();
    let reply = served.app.send("POST", "/rerank", &[("x-embedgate-truncation", "error")], body.as_bytes());
    assert_eq!(reply.status, 400, "{}", reply.text());
}

#[test]
fn max_tokens_has_an_effect_on_coheres_routes_only() {
    let served = app();
    let texts = json!(["a b c d e f"]);
    let body = json!({"model": EMBEDDER, "texts": texts, "max_tokens": 4});
    let reply = served.app.post_to("/v2/embed", &body);
    assert_eq!((reply.status, reply.header("x-embedgate-truncated")), (200, Some("1")), "{}", reply.text());
    let body = json!({"model": EMBEDDER, "input": texts, "max_tokens": 1});
    let reply = served.app.post_to("/v1/embeddings", &body);
    assert_eq!((reply.status, reply.header("x-embedgate-truncated")), (200, None), "{}", reply.text());
}
