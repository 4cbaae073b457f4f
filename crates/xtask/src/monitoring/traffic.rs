//! Mixed traffic that moves every family: answers, mistakes of clients, texts that are cut, refusals for want of room.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result, anyhow};

use super::http;

/// Settings under which little traffic fills the server; the model's folder is the default one.
pub(super) const SETTINGS: &str = "[limits]\nmax_body_bytes = 65536\nmax_request_tokens = 2048\n[[models]]\n\
    path = \"models/all-MiniLM-L6-v2\"\nthreads = 1\nmax_queue_tokens = 2048\n";
/// Who sends at once to fill the queue.
const CROWD: usize = 12;
/// Requests of each of them.
const ROUNDS: usize = 3;

/// How many answers had which status.
pub(super) type Answers = BTreeMap<u16, usize>;

/// Sends the traffic; `round` makes its texts other ones than those of any other round.
///
/// # Errors
/// The server cannot be reached, or does not answer.
pub(super) fn send(server: SocketAddr, round: usize) -> Result<Answers> {
    let mut answers = Answers::new();
    let mut note = |status: u16| *answers.entry(status).or_default() += 1;
    // The second of each pair is found in the cache.
    for number in 0..10 {
        for _ in 0..2 {
            note(embed(server, &[words(6, &format!("{round} {number}"))])?);
        }
    }
    // Longer than the model's window.
    note(embed(server, &[words(600, &format!("{round} long"))])?);
    // No JSON, no such model, too large.
    note(http::post(server, "/v1/embeddings", "application/json", "{")?.0);
    let unknown = r#"{"input":"a","model":"no-such-model"}"#;
    note(http::post(server, "/v1/embeddings", "application/json", unknown)?.0);
    note(embed(server, &[words(20_000, "large")])?);
    // A parameter of another vendor that changes nothing.
    let ignored = r#"{"input":"a","model":"all-MiniLM-L6-v2","input_type":"query"}"#;
    note(http::post(server, "/v1/embeddings", "application/json", ignored)?.0);
    note(http::get(server, "/v1/models")?.0);

    let crowd: Vec<_> = (0..CROWD)
        .map(|client| {
            thread::spawn(move || -> Result<Vec<u16>> {
                let texts = |of: usize| {
                    let text = |text| words(120, &format!("{round} {client} {of} {text}"));
                    (0..8).map(text).collect::<Vec<_>>()
                };
                (0..ROUNDS).map(|of| embed(server, &texts(of))).collect()
            })
        })
        .collect();
    for client in crowd {
        let statuses = client.join().map_err(|_| anyhow!("a client panicked"))??;
        statuses.into_iter().for_each(&mut note);
    }
    Ok(answers)
}

fn embed(server: SocketAddr, texts: &[String]) -> Result<u16> {
    let body = serde_json::json!({"input": texts, "model": "all-MiniLM-L6-v2"}).to_string();
    let (status, _) =
        http::post(server, "/v1/embeddings", "application/json", &body).context("cannot embed")?;
    Ok(status)
}

/// So many short words, and a few more that make the text its own.
fn words(count: usize, own: &str) -> String {
    let mut text = String::from(own);
    for number in 0..count {
        // Writing to a string does not fail.
        let _ = write!(text, " {}", ["the", "cat", "sat", "on", "a", "mat"][number % 6]);
    }
    text
}
