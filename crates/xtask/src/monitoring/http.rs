//! One request and its whole answer, over a connection of its own: HTTP/1.0, so that no answer comes in chunks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Status and body.
pub(super) type Answer = (u16, String);

/// Asks for a path.
///
/// # Errors
/// The connection fails, or what comes is no answer.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    ask(address, &format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n"))
}

/// Posts a body of the given media type.
///
/// # Errors
/// As [`get`].
pub(super) fn post(address: SocketAddr, path: &str, media: &str, body: &str) -> Result<Answer> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: {media}");
    ask(address, &format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}"))
}

fn ask(address: SocketAddr, request: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Who refuses a body may do so before having read it; the answer is there all the same.
    let sent = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let received = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        sent.with_context(|| format!("cannot send to {address}"))?;
        received.with_context(|| format!("cannot read from {address}"))?;
        anyhow::bail!("{address} sent no answer");
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("no status in {head:?}"))?, body.to_owned()))
}
