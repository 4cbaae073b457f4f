//! Mixed traffic that changes every metric family: successes, client errors, truncated texts, rejections.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result, anyhow};

use testkit::http;

/// Settings with which little traffic fills the queue of the default model. The API key is that of [`AUTHORIZATION`].
pub(super) const SETTINGS: &str = "[limits]\nmax_body_bytes = 65536\nmax_request_tokens = 2048\n\
    [auth]\napi_keys = [\"team=sk-team\"]\n[[models]]\npath = \"models/all-MiniLM-L6-v2\"\n\
    threads = 1\nmax_queue_tokens = 2048\n";
/// Header with the API key.
const AUTHORIZATION: (&str, &str) = ("authorization", "Bearer sk-team");
/// Concurrent clients that fill the queue.
const CLIENTS: usize = 12;
/// Requests of each client.
const ITERATIONS: usize = 3;

/// Number of responses by status.
pub(super) type Answers = BTreeMap<u16, usize>;

/// Sends the traffic; texts of different rounds differ.
pub(super) fn send(server: SocketAddr, round: usize) -> Result<Answers> {
    let mut answers = Answers::new();
    let mut count = |status: u16| *answers.entry(status).or_default() += 1;
    // The second of each pair is a cache hit.
    for number in 0..10 {
        for _ in 0..2 {
            count(embed(server, &[words(6, &format!("{round} {number}"))])?);
        }
    }
    // Longer than max_input_tokens.
    count(embed(server, &[words(600, &format!("{round} long"))])?);
    // Invalid JSON, an unknown model, a body that is too large.
    count(post(server, "{")?);
    let unknown = r#"{"input":"a","model":"no-such-model"}"#;
    count(post(server, unknown)?);
    count(embed(server, &[words(20_000, "large")])?);
    // An ignored parameter of another vendor.
    let ignored = r#"{"input":"a","model":"all-MiniLM-L6-v2","input_type":"query"}"#;
    count(post(server, ignored)?);
    count(http::ask(server, &http::request("GET", "/v1/models", &[AUTHORIZATION], b""))?.status);

    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            thread::spawn(move || -> Result<Vec<u16>> {
                let texts = |of: usize| {
                    let text = |text| words(120, &format!("{round} {client} {of} {text}"));
                    (0..8).map(text).collect::<Vec<_>>()
                };
                (0..ITERATIONS).map(|of| embed(server, &texts(of))).collect()
            })
        })
        .collect();
    for client in clients {
        let statuses = client.join().map_err(|_| anyhow!("a client panicked"))??;
        statuses.into_iter().for_each(&mut count);
    }
    Ok(answers)
}

fn embed(server: SocketAddr, texts: &[String]) -> Result<u16> {
    post(server, &serde_json::json!({"input": texts, "model": "all-MiniLM-L6-v2"}).to_string())
}

fn post(server: SocketAddr, body: &str) -> Result<u16> {
    let request = http::request("POST", "/v1/embeddings", &[AUTHORIZATION], body.as_bytes());
    Ok(http::ask(server, &request).context("cannot embed")?.status)
}

/// `count` short words after `prefix`, which makes the text unique.
fn words(count: usize, prefix: &str) -> String {
    let mut text = String::from(prefix);
    for number in 0..count {
        // Writing to a string does not fail.
        let _ = write!(text, " {}", ["the", "cat", "sat", "on", "a", "mat"][number % 6]);
    }
    text
}
