//! One client's connection to a server: kept alive, with few allocations, since the client shares the server's cores.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testkit::http::{Connection, Reply};

use crate::texts::Text;

/// Read timeout; a profile fails after it.
const READ_TIMEOUT: Duration = Duration::from_secs(180);
/// Characters of one vector in base64: 384 numbers of four bytes. A shorter response holds no embedding.
const VECTOR_CHARACTERS: usize = 384 * 4 * 4 / 3;

/// A connection that is kept, and reopened after `connection: close`, which llama.cpp's server sends with every
/// hundredth response.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    connection: Connection,
    reply: Reply,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The connection is refused.
    pub fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self { address, connection: connect(address)?, reply: Reply::default() })
    }

    /// Sends one request made by [`request`] and reads the response.
    ///
    /// # Errors
    /// The connection fails, or the response is not 200 with vectors for `texts` inputs.
    pub fn embed(&mut self, request: &[u8], texts: usize) -> Result<()> {
        let status = self.ask(request)?;
        if status != 200 {
            bail!("status {status}: {}", self.excerpt());
        }
        let bytes = self.reply.body.len();
        ensure!(bytes > texts * VECTOR_CHARACTERS, "the response to {texts} texts has only {bytes} bytes");
        Ok(())
    }

    /// Sends any request, reads the response and returns its status.
    ///
    /// # Errors
    /// The connection fails, or the response is not HTTP.
    pub fn ask(&mut self, request: &[u8]) -> Result<u16> {
        self.send(request)?;
        self.connection.receive_into(&mut self.reply)?;
        Ok(self.reply.status)
    }

    /// Sends a request without waiting for the response.
    ///
    /// # Errors
    /// The connection fails.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        if self.reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.connection = connect(self.address)?;
            self.reply = Reply::default();
        }
        Ok(self.connection.try_send(request)?)
    }

    /// The last response.
    pub fn reply(&self) -> &Reply {
        &self.reply
    }

    /// The start of the last response's body, for messages.
    pub fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.reply.body).chars().take(200).collect()
    }
}

fn connect(address: SocketAddr) -> Result<Connection> {
    Connection::connect(address, READ_TIMEOUT).with_context(|| format!("cannot connect to {address}"))
}

/// The bytes of a request as OpenAI's Python SDK sends it: one text alone or a list, with base64 requested.
pub fn request(texts: &[Text]) -> Vec<u8> {
    // The texts are lower-case words and spaces: nothing to escape.
    let quoted: Vec<String> = texts.iter().map(|text| format!("\"{}\"", text.text)).collect();
    let input = match quoted.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(",")),
    };
    post(&input, "base64")
}

/// The bytes of a request of any texts as a list, with numbers requested.
pub(crate) fn floats_request(texts: &[&str]) -> Vec<u8> {
    post(&serde_json::json!(texts).to_string(), "float")
}

/// The bytes of a request with `input` as JSON.
fn post(input: &str, encoding: &str) -> Vec<u8> {
    let body = format!(r#"{{"input":{input},"model":"all-MiniLM-L6-v2","encoding_format":"{encoding}"}}"#);
    format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n\
         content-type: application/json\r\nauthorization: Bearer none\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::texts::{TextKind, text};

    /// Answers one request with `response`, and returns the request.
    fn serve(response: String) -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut piece = [0; 1024];
                let read = stream.read(&mut piece).unwrap();
                assert!(read > 0, "the client disconnected");
                request.extend_from_slice(&piece[..read]);
            }
            stream.write_all(response.as_bytes()).unwrap();
            request
        });
        (address, thread)
    }

    fn embed(response: String) -> (Result<()>, Vec<u8>) {
        let (address, server) = serve(response);
        let result = Client::open(address).unwrap().embed(&request(&[text(TextKind::Short, 0, 0)]), 1);
        (result, server.join().unwrap())
    }

    #[test]
    fn a_response_needs_status_200_and_a_vector() {
        let response = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nx: y\r\n\r\n{body}", body.len())
        };
        let (result, sent) = embed(response("200 OK", &"A".repeat(VECTOR_CHARACTERS + 1)));
        result.unwrap();
        let sent = String::from_utf8(sent).unwrap();
        let (head, body) = sent.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["encoding_format"], body["input"].is_string()), (&"base64".into(), true));

        let error = |response| embed(response).0.unwrap_err().to_string();
        assert_eq!(error(response("503 Full", "no room")), "status 503: no room");
        assert!(error(response("200 OK", "{}")).contains("only 2 bytes"));
        assert!(error("HTTP/1.1 200 OK\r\n\r\n".into()).contains("only 0 bytes"));
        assert!(error("what\r\n\r\n".into()).contains("invalid status line"));
    }

    #[test]
    fn a_connection_that_the_server_closes_is_reopened() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Client::open(listener.local_addr().unwrap()).unwrap();
        let server = thread::spawn(move || {
            for head in ["Connection: close\r\n", ""] {
                let mut stream = listener.accept().unwrap().0;
                let read = stream.read(&mut [0; 64]).unwrap();
                assert!(read > 0, "the client disconnected");
                write!(stream, "HTTP/1.1 200 OK\r\n{head}Content-Length: 0\r\n\r\n").unwrap();
            }
        });
        for _ in 0..2 {
            assert_eq!(client.ask(b"GET / HTTP/1.1\r\n\r\n").unwrap(), 200);
        }
        server.join().unwrap();
        let error = client.ask(b"GET / HTTP/1.1\r\n\r\n").unwrap_err().to_string();
        assert!(!error.contains("cannot connect"), "reopened without `connection: close`: {error}");
    }

    #[test]
    fn several_texts_are_a_list() {
        let request = request(&[text(TextKind::Short, 0, 0), text(TextKind::Long, 0, 1)]);
        let request = String::from_utf8(request).unwrap();
        let body: serde_json::Value =
            serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["input"].as_array().unwrap().len(), 2);
    }
}
