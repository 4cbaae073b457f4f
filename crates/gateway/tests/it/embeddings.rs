//! Successful responses of `POST /v1/embeddings`.

use std::{collections::HashSet, thread};

use serde_json::{Value, json};

use crate::{
    app::{BODY, TestApp, WINDOW, vectors},
    schema::assert_valid,
};

#[test]
fn a_response_matches_the_schema_and_has_the_documented_headers() {
    let reply = TestApp::start().post(r#"{"model":"m","input":["one","two words"]}"#);
    let response = reply.json();
    assert_valid("embeddings", &response);
    assert_eq!(response["model"], "m");
    assert_eq!(response["usage"]["prompt_tokens"], response["usage"]["total_tokens"]);
    assert!(reply.header("x-request-id").is_some_and(|id| id.starts_with("req_") && id.len() == 36));
    assert_eq!(reply.header("openai-version"), Some("2020-10-01"));
    assert!(reply.header("openai-processing-ms").is_some_and(|ms| ms.parse::<u64>().is_ok()));
    let timing = reply.header("server-timing").unwrap();
    let phases: Vec<_> = timing.split(", ").filter_map(|phase| phase.split_once(";dur=")).collect();
    assert_eq!(phases.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["tokenize", "queue", "inference"]);
    assert!(phases.iter().all(|(_, ms)| ms.parse::<f64>().is_ok()), "{timing}");
    assert_eq!(reply.header("x-embedgate-truncated"), None);
}

#[test]
fn float_and_base64_have_the_same_numbers() {
    let app = TestApp::start();
    let post = |format: Value| {
        app.post(json!({"model": "m", "input": "a b", "encoding_format": format}).to_string())
    };
    let (absent, null) = (app.post(r#"{"model":"m","input":"a b"}"#), post(Value::Null));
    let (float, base64) = (post("float".into()), post("base64".into()));
    for reply in [&absent, &null, &float] {
        assert!(reply.json()["data"][0]["embedding"].is_array());
    }
    assert!(base64.json()["data"][0]["embedding"].is_string());
    assert_valid("embeddings", &base64.json());
    let as_f32 = |reply: &crate::http::Reply| -> Vec<f32> {
        vectors(&reply.json())[0].iter().map(|&value| value as f32).collect()
    };
    assert_eq!(as_f32(&float), as_f32(&base64));
    let norm: f32 = as_f32(&float).iter().map(|value| value * value).sum();
    assert!((norm - 1.0).abs() < 1e-5);
}

#[test]
fn a_single_input_and_an_array_of_it_have_the_same_vector() {
    let app = TestApp::start();
    for (bare, listed) in [("a text", "a text"), (" ", " "), ("", " ")] {
        assert_eq!(app.embed(&json!(bare)), app.embed(&json!([listed])), "{bare:?}");
    }
}

#[test]
fn usage_counts_the_encoded_tokens_including_special_ones() {
    let app = TestApp::start();
    let usage =
        |input: Value| app.post(json!({"model": "m", "input": input}).to_string()).json()["usage"].clone();
    assert_eq!(usage(json!("")), json!({"prompt_tokens": 2, "total_tokens": 2}));
    assert_eq!(usage(json!(["a", "a b c"])), json!({"prompt_tokens": 8, "total_tokens": 8}));
    let cut = usage(json!("a ".repeat(WINDOW * 2)));
    assert_eq!(cut["prompt_tokens"], WINDOW);
}

#[test]
fn truncated_inputs_are_reported_and_a_header_sets_the_policy() {
    let app = TestApp::start();
    let long = "a ".repeat(WINDOW * 2);
    let body = json!({"model": "m", "input": [long, "short", long]}).to_string();
    let post =
        |policy| app.send("POST", "/v1/embeddings", &[("x-embedgate-truncation", policy)], body.as_bytes());
    for reply in [app.post(&body), post("truncate")] {
        assert_eq!((reply.status, reply.header("x-embedgate-truncated")), (200, Some("2")));
    }
    let averaged = post("average");
    assert_eq!((averaged.status, averaged.header("x-embedgate-truncated")), (200, None));
    let read = averaged.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(read > 4 * WINDOW as u64, "{read} tokens cannot be all of both texts");
    assert_eq!(post("error").status, 400);
}

#[test]
fn the_models_own_dimensions_are_accepted() {
    let app = TestApp::start();
    let whole = app.embed(&json!("a"));
    let reply = app.post(r#"{"model":"m","input":"a","dimensions":8}"#);
    assert_eq!(vectors(&reply.json()), whole);
}

#[test]
fn a_matryoshka_vector_is_truncated_and_normalized_again() {
    let app = TestApp::builder().model(|model| model.matryoshka_dimensions = vec![2, 4]).start();
    let whole = app.embed(&json!(["a", "b"]));
    let reply = app.post(r#"{"model":"m","input":["a","b"],"dimensions":4}"#);
    for (cut, whole) in vectors(&reply.json()).iter().zip(&whole) {
        assert_eq!(cut.len(), 4);
        let norm = whole[..4].iter().map(|value| value * value).sum::<f64>().sqrt();
        for (cut, whole) in cut.iter().zip(whole) {
            assert!((cut - whole / norm).abs() < 1e-6);
        }
    }
}

#[test]
fn vectors_of_2048_inputs_are_in_order() {
    let app = TestApp::start();
    let texts: Vec<_> = (0..2048).map(|number| format!("text {number}")).collect();
    let all = app.embed(&json!(texts));
    assert_eq!(all.len(), 2048);
    let distinct: HashSet<_> = all.iter().map(|vector| format!("{vector:?}")).collect();
    assert_eq!(distinct.len(), 2048);
    for number in [0, 1, 1023, 2047] {
        assert_eq!(app.embed(&json!(texts[number]))[0], all[number]);
    }
}

#[test]
fn configured_input_and_token_limits_apply() {
    let app = TestApp::builder().config(|config| config.limits.max_inputs = 5000).start();
    assert_eq!(app.embed(&json!(vec!["a"; 5000])).len(), 5000);
}

#[test]
fn three_hundred_thousand_tokens_are_the_limit() {
    let app = TestApp::builder().config(|config| config.limits.max_inputs = 10_000).start();
    // 62 words and 2 special tokens each: 64 × 4687 = 299,968, and one text more is too many.
    let text = "a ".repeat(WINDOW - 2);
    let post = |texts: usize| app.post(json!({"model": "m", "input": vec![&text; texts]}).to_string());
    assert_eq!(post(300_000 / WINDOW).status, 200);
    let rejected = post(300_000 / WINDOW + 1);
    assert_eq!(rejected.status, 400);
    assert_eq!(rejected.message(), "Invalid 'input': maximum request size is 300000 tokens per request.");
}

#[test]
fn concurrent_clients_get_the_vectors_of_their_own_inputs() {
    const CLIENTS: usize = 32;
    const REQUESTS: usize = 20;
    let app = TestApp::start();
    let texts: Vec<_> = (0..CLIENTS * REQUESTS).map(|number| format!("{number} things")).collect();
    let expected = app.embed(&json!(texts));
    let distinct: HashSet<_> = expected.iter().map(|vector| format!("{vector:?}")).collect();
    assert_eq!(distinct.len(), texts.len());
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (app, texts, expected) = (&app, &texts, &expected);
            scope.spawn(move || {
                for number in client * REQUESTS..(client + 1) * REQUESTS {
                    assert_eq!(app.embed(&json!(texts[number]))[0], expected[number]);
                }
            });
        }
    });
}

#[test]
fn paths_without_v1_and_with_trailing_slashes_are_the_same_route() {
    let app = TestApp::start();
    for path in [
        "/v1/embeddings",
        "/embeddings",
        "/v1/embeddings/",
        "//v1//embeddings",
        "/v1/embeddings?api-version=1",
    ] {
        let reply = app.send("POST", path, &[], BODY);
        assert_eq!(reply.status, 200, "{path}");
    }
}

#[test]
fn any_content_type_is_read_as_json() {
    let app = TestApp::start();
    for content_type in [None, Some("text/plain"), Some("application/json; charset=utf-8"), Some("nonsense")]
    {
        let headers: Vec<_> = content_type.map(|value| ("content-type", value)).into_iter().collect();
        let reply = app.send("POST", "/v1/embeddings", &headers, BODY);
        assert_eq!(reply.status, 200, "{content_type:?}");
    }
}

#[test]
fn a_byte_order_mark_and_identity_encoding_are_accepted() {
    let app = TestApp::start();
    assert_eq!(app.post("\u{feff}{\"model\":\"m\",\"input\":\"a\"}").status, 200);
    for coding in ["identity", "", "Identity, identity", "UTF-8"] {
        let headers = [("content-encoding", coding)];
        let reply = app.send("POST", "/v1/embeddings", &headers, BODY);
        assert_eq!(reply.status, 200, "{coding}");
    }
}

#[test]
fn a_large_body_is_read_completely() {
    let app = TestApp::start();
    let text = format!("{}end", "word ".repeat(1_000_000));
    let reply = app.post(json!({"model": "m", "input": text}).to_string());
    assert_eq!((reply.status, reply.header("x-embedgate-truncated")), (200, Some("1")));
}
