//! Large responses: serialized in parts, within a bounded memory.

use actix_web::http::header;
use gateway::config::Bytes;
use openai_schema::{EmbeddingResponse, EncodingFormat, Usage, Vectors};
use serde_json::{Value, json};

use crate::{
    app::{TestApp, vectors},
    http::{Connection, request},
};

/// Dimensions of the default model.
const DIMENSIONS: usize = 384;

/// OpenAI's limit.
const INPUTS: usize = 2048;

/// Memory of a response to `INPUTS` inputs: its vectors and two parts.
const NEEDED: usize = INPUTS * DIMENSIONS * 4 + 2 * 64 * 1024;

/// A request of about 10 kB with a response of about 9 MB.
fn equal_texts(count: usize) -> Vec<u8> {
    json!({"model": "m", "input": vec!["a"; count]}).to_string().into_bytes()
}

fn text_of(count: usize, format: &str) -> String {
    let inputs: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    json!({"model": "m", "input": inputs, "encoding_format": format}).to_string()
}

/// The response, serialized at once.
fn serialized_at_once(response: &Value, format: EncodingFormat) -> String {
    let rows = vectors(response);
    let tokens = response["usage"]["total_tokens"].as_u64().unwrap();
    let mut json = Vec::new();
    EmbeddingResponse {
        model: "m".to_owned(),
        vectors: Vectors::new(rows.concat().into_iter().map(|value| value as f32).collect(), rows[0].len())
            .unwrap(),
        format,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    }
    .write_json(&mut json);
    String::from_utf8(json).unwrap()
}

/// Without a bound, 40 clients that do not read would hold 380 MB of text.
#[test]
fn unread_responses_use_a_bounded_memory() {
    const CLIENTS: usize = 40;
    const ADMITTED: usize = 8;
    let limit = ADMITTED * NEEDED + NEEDED / 2;
    let app = TestApp::builder()
        .dimensions(DIMENSIONS)
        .config(|config| config.limits.max_buffered_response_bytes = Bytes(limit))
        .start();
    let large = request("POST", "/v1/embeddings", &[], &equal_texts(INPUTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = Connection::open(app.address);
            client.send(&large);
            client
        })
        .collect();
    let rejections = r#"embedgate_requests_rejected_total{model="tiny",reason="response_memory_exhausted"}"#;
    app.wait_for_metric(&format!("{rejections} {}", CLIENTS - ADMITTED));
    app.wait_for_metric(&format!(
        r#"embedgate_request_duration_seconds_count{{model="tiny",outcome="success"}} {ADMITTED}"#
    ));
    app.wait_for_metric(&format!("embedgate_buffered_response_bytes {}", ADMITTED * NEEDED));
    app.wait_for_metric(&format!("embedgate_buffered_response_bytes_limit {limit}"));

    let rejected = app.post(equal_texts(INPUTS));
    assert_eq!((rejected.status, rejected.header("retry-after")), (503, Some("1")));
    assert_eq!(rejected.json()["error"]["code"], "server_is_overloaded");
    assert_eq!(app.get("/livez").status, 200);
    assert_eq!(app.post(equal_texts(1)).status, 200);

    drop(clients);
    app.wait_for_metric("embedgate_buffered_response_bytes 0");
    assert_eq!(app.post(equal_texts(INPUTS)).status, 200);
    app.wait_for_metric("embedgate_buffered_response_bytes 0");
}

/// Such a request is valid, so the server must be able to answer it.
#[test]
fn a_response_larger_than_the_memory_is_admitted_alone() {
    let app = TestApp::builder()
        .dimensions(DIMENSIONS)
        .config(|config| config.limits.max_buffered_response_bytes = Bytes(NEEDED / 2))
        .start();
    let mut client = Connection::open(app.address);
    client.send(&request("POST", "/v1/embeddings", &[], &equal_texts(INPUTS)));
    app.wait_for_metric(&format!("embedgate_buffered_response_bytes {}", NEEDED / 2));
    assert_eq!(app.post(equal_texts(INPUTS)).status, 503);
    assert_eq!(client.receive().json()["data"].as_array().unwrap().len(), INPUTS);
    app.wait_for_metric("embedgate_buffered_response_bytes 0");
}

/// Sizes around a part, on one connection.
#[test]
fn a_response_in_parts_equals_the_one_serialized_at_once() {
    let app = TestApp::builder().dimensions(DIMENSIONS).start();
    let mut connection = Connection::open(app.address);
    for (name, format) in [("float", EncodingFormat::Float), ("base64", EncodingFormat::Base64)] {
        for count in [1, 6, 7, 14, 15, 31, 33, 64, 500] {
            connection.send(&request("POST", "/v1/embeddings", &[], text_of(count, name).as_bytes()));
            let reply = connection.receive();
            assert_eq!(reply.status, 200);
            assert_eq!(reply.text(), serialized_at_once(&reply.json(), format), "{count} {name}");
            let is_chunked = reply.header("transfer-encoding") == Some("chunked");
            let length = reply.header("content-length").map(|length| length.parse::<usize>().unwrap());
            assert_eq!(length, (!is_chunked).then_some(reply.body.len()), "{count} {name}");
            // The length of numbers is unknown before they are serialized.
            assert_eq!(is_chunked, format == EncodingFormat::Float && count >= 7, "{count} {name}");
        }
    }
    app.wait_for_metric("embedgate_buffered_response_bytes 0");
}

/// HTTP/1.0 has no chunked encoding: a response of unknown length ends with its connection.
#[test]
fn a_large_response_to_http_1_0_ends_with_its_connection() {
    let app = TestApp::builder().dimensions(DIMENSIONS).start();
    let body = text_of(100, "float");
    let head = format!(
        "POST /v1/embeddings HTTP/1.0\r\n{}: keep-alive\r\n{}: {}\r\n\r\n",
        header::CONNECTION,
        header::CONTENT_LENGTH,
        body.len()
    );
    let mut connection = Connection::open(app.address);
    connection.send(&[head.as_bytes(), body.as_bytes()].concat());
    let reply = connection.receive_to_end();
    assert_eq!((reply.status, reply.header("connection")), (200, None));
    assert_eq!(reply.json()["data"].as_array().unwrap().len(), 100);
}
