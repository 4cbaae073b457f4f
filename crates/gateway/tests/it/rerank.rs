//! Reranking and sparse embeddings over HTTP: the formats of Cohere, Jina and text-embeddings-inference, served by tiny
//! models with known scores.

use gateway::config::{ModelConfig, PrecisionSetting};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::model::copy_tiny;

use crate::app::TestApp;

/// A cross-encoder with sigmoid, an embedding model and a sparse encoder, each under the name of its folder, and the
/// reference of the cross-encoder and of the sparse encoder.
pub(crate) struct Served {
    _folder: TempDir,
    pub(crate) app: TestApp,
    reranker: Value,
    sparse: Value,
}

pub(crate) const RERANKER: &str = "ce-xlm-roberta";
pub(crate) const SPARSE: &str = "splade-bert";
pub(crate) const EMBEDDER: &str = "bert-mean";

fn served() -> Served {
    served_with(|_| ())
}

pub(crate) fn served_with(change: impl FnOnce(&mut gateway::config::Config)) -> Served {
    let root = tempfile::tempdir().unwrap();
    for name in [EMBEDDER, RERANKER, SPARSE] {
        copy_tiny(name, &root.path().join(name)).unwrap();
    }
    let reference = |name: &str| -> Value {
        let text = std::fs::read(root.path().join(name).join("reference.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let (reranker, sparse) = (reference(RERANKER), reference(SPARSE));
    let app = TestApp::builder().real_models().config(|config| {
        config.models = [EMBEDDER, RERANKER, SPARSE]
            .map(|name| ModelConfig {
                precision: PrecisionSetting::Fp32,
                ..ModelConfig::builtin(name.to_owned(), root.path().join(name), 1)
            })
            .into();
        config.aliases.clear();
        config.default_model = EMBEDDER.to_owned();
        change(config);
    });
    Served { app: app.start(), _folder: root, reranker, sparse }
}

impl Served {
    /// The documents of the query "how cold is it" with their reference values of `key`.
    fn documents(&self, key: &str) -> (Vec<String>, Vec<f64>) {
        let pairs = self.reranker["pairs"].as_array().unwrap();
        let values = self.reranker[key].as_array().unwrap();
        let of_query = pairs.iter().zip(values).filter(|(pair, _)| pair[0] == QUERY);
        of_query.map(|(pair, value)| (pair[1].as_str().unwrap().to_owned(), value.as_f64().unwrap())).unzip()
    }

    fn tokens(&self) -> u64 {
        let pairs = self.reranker["pairs"].as_array().unwrap();
        let counts = self.reranker["token_counts"].as_array().unwrap();
        let of_query = pairs.iter().zip(counts).filter(|(pair, _)| pair[0] == QUERY);
        of_query.map(|(_, count)| count.as_u64().unwrap()).sum()
    }
}

const QUERY: &str = "how cold is it";

/// Asserts that results are the documents by descending score, and that the scores are near the expected ones.
#[track_caller]
fn assert_ranked(results: &Value, key: &str, expected: &[f64]) {
    let results = results.as_array().unwrap();
    let scores: Vec<f64> = results.iter().map(|result| result[key].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    for (result, score) in results.iter().zip(&scores) {
        let index = result["index"].as_u64().unwrap() as usize;
        assert!((score - expected[index]).abs() < 1e-5, "{index}: {score}, expected {}", expected[index]);
    }
}

#[test]
fn rerank_gives_the_reference_scores_in_the_format_of_cohere_and_jina() {
    let served = served();
    let (documents, expected) = served.documents("scores");
    for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
        let body = json!({"model": RERANKER, "query": QUERY, "documents": documents});
        let reply = served.app.post_to(path, &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let response = reply.json();
        assert_eq!(response["results"].as_array().unwrap().len(), documents.len());
        assert_ranked(&response["results"], "relevance_score", &expected);
        assert!(response["results"][0].get("document").is_none(), "{response}");
        assert_eq!(response["model"], RERANKER);
        assert_eq!(response["usage"]["total_tokens"], served.tokens(), "{response}");
        assert_eq!(response["meta"]["tokens"]["input_tokens"], served.tokens());
        let version = if path.starts_with("/v2") { "2" } else { "1" };
        assert_eq!(response["meta"]["api_version"]["version"], version);
        assert!(response["id"].as_str().unwrap().starts_with("req_"), "{response}");
        assert_eq!(reply.header("x-embedgate-model"), Some(RERANKER));
        assert!(reply.header("server-timing").is_some());
    }
}

#[test]
fn top_n_keeps_the_best_documents_which_are_returned_on_request() {
    let served = served();
    let (documents, expected) = served.documents("scores");
    let objects: Vec<Value> =
        documents.iter().map(|text| json!({"text": text, "title": text.len()})).collect();
    for (sent, returned) in [
        (json!(documents), documents.iter().map(|text| json!({"text": text})).collect::<Vec<_>>()),
        (json!(objects), objects.clone()),
    ] {
        let body = json!({
            "model": RERANKER, "query": QUERY, "documents": sent, "top_n": 2, "return_documents": true
        });
        let response = served.app.post_to("/v1/rerank", &body).json();
        let results = response["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        let best = expected.iter().copied().fold(f64::MIN, f64::max);
        assert!((results[0]["relevance_score"].as_f64().unwrap() - best).abs() < 1e-5, "{response}");
        for result in results {
            assert_eq!(result["document"], returned[result["index"].as_u64().unwrap() as usize]);
        }
    }
    let body = json!({"model": RERANKER, "query": QUERY, "documents": documents, "top_n": 1000});
    let results = served.app.post_to("/v1/rerank", &body).json()["results"].clone();
    assert_eq!(results.as_array().unwrap().len(), documents.len());
    let by_field = json!({
        "model": RERANKER, "query": QUERY, "rank_fields": ["body"],
        "documents": documents.iter().map(|text| json!({"body": text})).collect::<Vec<_>>(),
    });
    assert_eq!(served.app.post_to("/v1/rerank", &by_field).json()["results"], results);
}

#[test]
fn a_response_of_many_parts_is_the_same_json() {
    let served = served();
    let (documents, expected) = served.documents("scores");
    let filler = "x".repeat(1000);
    let many: Vec<Value> =
        documents.iter().cycle().take(1500).map(|text| json!({"text": text, "filler": filler})).collect();
    let body = json!({"model": RERANKER, "query": QUERY, "documents": many, "return_documents": true});
    let reply = served.app.post_to("/v1/rerank", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let response = reply.json();
    let expected: Vec<f64> = expected.iter().copied().cycle().take(1500).collect();
    assert_eq!(response["results"].as_array().unwrap().len(), 1500);
    assert_ranked(&response["results"], "relevance_score", &expected);
}

#[test]
fn rerank_gives_the_reference_scores_in_the_format_of_text_embeddings_inference() {
    let served = served();
    for (raw, key) in [(false, "scores"), (true, "raw_scores")] {
        let (texts, expected) = served.documents(key);
        let body = json!({"query": QUERY, "texts": texts, "raw_scores": raw});
        let reply = served.app.post_to("/rerank", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let results = reply.json();
        assert_eq!(results.as_array().unwrap().len(), texts.len());
        assert_ranked(&results, "score", &expected);
        assert!(results[0].get("text").is_none());
        let body = json!({"query": QUERY, "texts": texts, "raw_scores": raw, "return_text": true});
        for result in served.app.post_to("/rerank", &body).json().as_array().unwrap() {
            assert_eq!(result["text"], texts[result["index"].as_u64().unwrap() as usize]);
        }
    }
}

#[test]
fn a_request_of_infinitys_client_gets_its_form_of_the_response() {
    let served = served();
    for (raw, key) in [(false, "scores"), (true, "raw_scores")] {
        let (documents, expected) = served.documents(key);
        // `model` is what the client sends if its caller names none.
        let body = json!({
            "model": "default/not-specified", "query": QUERY, "documents": documents, "raw_scores": raw,
            "return_documents": true, "top_n": 2,
        });
        for path in ["/rerank", "/v1/rerank"] {
            let reply = served.app.post_to(path, &body);
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            let response = reply.json();
            assert_eq!((&response["object"], &response["model"]), (&json!("rerank"), &json!(RERANKER)));
            assert_ranked(&response["results"], "relevance_score", &expected);
            for result in response["results"].as_array().unwrap() {
                assert_eq!(result["document"], documents[result["index"].as_u64().unwrap() as usize]);
            }
        }
    }
    let body = json!({"model": "default/not-specified", "query": QUERY, "documents": ["a"]});
    assert_eq!(served.app.post_to("/v1/rerank", &body).status, 404);
}

#[test]
fn a_long_pair_is_truncated_or_rejected_as_the_request_says() {
    let served = served();
    let long = "A longer passage. ".repeat(100);
    let body = |truncate: Option<bool>| {
        let mut body = json!({"query": QUERY, "texts": ["short", long]});
        if let Some(truncate) = truncate {
            body["truncate"] = json!(truncate);
        }
        body
    };
    for truncate in [None, Some(true)] {
        let reply = served.app.post_to("/rerank", &body(truncate));
        assert_eq!((reply.status, reply.header("x-embedgate-truncated")), (200, Some("1")));
    }
    let rejected = served.app.post_to("/rerank", &body(Some(false)));
    assert_eq!(rejected.status, 400);
    let error = rejected.json();
    let message = error["error"].as_str().unwrap();
    assert!(message.starts_with("Invalid 'texts[1]': maximum input length is 64 tokens."), "{message}");
    assert_eq!(error["error_type"], "validation");
    let average = served.app.send(
        "POST",
        "/v1/rerank",
        &[("x-embedgate-truncation", "average")],
        json!({"model": RERANKER, "query": "a", "documents": ["b"]}).to_string().as_bytes(),
    );
    assert_eq!(average.status, 400);
    assert!(average.text().contains("scores are not averaged"), "{}", average.text());
}

#[test]
fn embed_sparse_gives_the_reference_weights() {
    let served = served();
    // An empty text is an error here, as in every route that embeds.
    let references =
        served.sparse["texts"].as_array().unwrap().iter().zip(served.sparse["sparse"].as_array().unwrap());
    let (texts, expected): (Vec<_>, Vec<_>) = references.filter(|(text, _)| **text != "").unzip();
    let reply = served.app.post_to("/embed_sparse", &json!({ "inputs": texts }));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let found = reply.json();
    assert_eq!(found.as_array().unwrap().len(), expected.len());
    for (found, expected) in found.as_array().unwrap().iter().zip(expected) {
        let indices: Vec<&Value> = found.as_array().unwrap().iter().map(|entry| &entry["index"]).collect();
        assert_eq!(indices, expected["indices"].as_array().unwrap().iter().collect::<Vec<_>>());
        for (entry, value) in found.as_array().unwrap().iter().zip(expected["values"].as_array().unwrap()) {
            assert!((entry["value"].as_f64().unwrap() - value.as_f64().unwrap()).abs() < 1e-5, "{entry}");
        }
    }
    let one = served.app.post_to("/embed_sparse", &json!({"inputs": served.sparse["texts"][0]})).json();
    assert_eq!(one[0], found[0]);
}

#[test]
fn a_model_of_another_task_is_rejected_with_the_way_out() {
    let served = served();
    let rerank = |model: &str| json!({"model": model, "query": "a", "documents": ["b"]});
    for (path, body, parts) in [
        (
            "/v1/rerank",
            rerank(EMBEDDER),
            ["`bert-mean` computes embeddings", "POST /v1/embeddings", "here reranks: `ce-xlm-roberta`"],
        ),
        (
            "/v1/embeddings",
            json!({"model": RERANKER, "input": "a"}),
            ["`ce-xlm-roberta` reranks", "POST /v1/rerank", "here computes embeddings: `bert-mean`"],
        ),
        (
            "/v1/embeddings",
            json!({"model": SPARSE, "input": "a"}),
            ["`splade-bert` computes sparse embeddings", "POST /embed_sparse", "`bert-mean`"],
        ),
        (
            "/embed_sparse",
            json!({"model": EMBEDDER, "inputs": "a"}),
            ["`bert-mean` computes embeddings", "POST /v1/embeddings", "`splade-bert`"],
        ),
    ] {
        let reply = served.app.post_to(path, &body);
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        for part in parts {
            assert!(reply.text().contains(part), "{path}: {part} is not in {}", reply.text());
        }
    }
}

#[test]
fn invalid_requests_are_rejected_in_the_shape_of_the_route() {
    let served = served_with(|config| config.limits.max_inputs = 3);
    for (body, part) in [
        (json!({"model": RERANKER, "documents": ["a"]}), "missing field `query`"),
        (json!({"model": RERANKER, "query": "a", "documents": []}), "array length must be from 1 to 3"),
        (json!({"model": RERANKER, "query": "a", "documents": ["a", "b", "c", "d"]}), "from 1 to 3"),
        (json!({"model": RERANKER, "query": "a", "documents": [5]}), "Invalid request body"),
        (json!({"model": RERANKER, "query": "a", "documents": [{"body": "a"}]}), "'documents[0]'"),
        (json!({"model": RERANKER, "query": "a", "documents": ["a"], "top_n": 0}), "at least 1"),
        (json!({"model": RERANKER, "query": "a", "documents": ["a"], "max_tokens_per_doc": 5}), "omit it"),
        (json!({"model": RERANKER, "query": "a", "documents": ["a"], "max_chunks_per_doc": 3}), "omit it"),
        (
            json!({"model": RERANKER, "query": "a", "documents": ["a"], "rank_fields": ["a", "b"]}),
            "one field",
        ),
        (json!({"model": "no-such", "query": "a", "documents": ["a"]}), "does not exist"),
    ] {
        let reply = served.app.post_to("/v1/rerank", &body);
        let status = if body["model"] == RERANKER { 400 } else { 404 };
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        let error = reply.json();
        assert_eq!(error.as_object().unwrap().len(), 2, "{error}");
        assert_eq!(error["id"], reply.header("x-request-id").unwrap());
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{body}: {message}");
    }
    // Parameters that change nothing.
    let body = json!({
        "model": RERANKER, "query": "a", "documents": ["a"], "max_tokens_per_doc": 4096, "max_chunks_per_doc": 1,
        "priority": 0,
    });
    assert_eq!(served.app.post_to("/v2/rerank", &body).status, 200);
    let direction = json!({"query": "a", "texts": ["a"], "truncation_direction": "left"});
    let reply = served.app.post_to("/rerank", &direction);
    assert_eq!((reply.status, &reply.json()["error_type"]), (400, &json!("validation")));
}

#[test]
fn requests_to_rerank_are_counted_and_limited_like_others() {
    let served = served_with(|config| config.limits.key_requests_per_minute = 2);
    let body = json!({"model": RERANKER, "query": QUERY, "documents": ["a"]});
    let first = served.app.post_to("/v1/rerank", &body);
    assert_eq!(first.status, 200);
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert_eq!(served.app.post_to("/v1/rerank", &body).status, 200);
    assert_eq!(served.app.post_to("/v1/rerank", &body).status, 429);
    let metrics = served.app.get("/metrics");
    let metrics = metrics.text();
    let line = format!("{{model=\"{RERANKER}\",outcome=\"success\"}} 2");
    assert!(metrics.contains(&line), "{metrics}");
}

#[test]
fn models_tell_their_task() {
    let served = served();
    let models = served.app.get("/v1/models").json();
    let tasks: Vec<_> =
        models["data"].as_array().unwrap().iter().map(|model| model["task"].clone()).collect();
    assert_eq!(tasks, ["embed", "rerank", "embed-sparse"]);
}
