//! One connection to a server: a few lines of HTTP/1.1 with keep-alive, so that the client costs next to
//! nothing on cores that it shares with the server.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::texts::Text;

/// How long one answer may take before the profile is given up.
const PATIENCE: Duration = Duration::from_secs(180);
/// Characters of one vector in base64: 384 numbers of four bytes. A shorter answer would be no embedding.
const VECTOR: usize = 384 * 4 * 4 / 3;

/// The head of an answer, as far as anybody here looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Whole seconds.
    pub(crate) retry_after: Option<u64>,
}

/// A connection that is kept, and opened anew where the server said that it would close it.
pub(crate) struct Connection {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
    answer: Vec<u8>,
    /// The last answer's head said `connection: close`; llama.cpp's server does after each hundred.
    closing: bool,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self { address, stream: connect(address)?, answer: Vec::new(), closing: false })
    }

    /// Sends one request made by [`request`] and reads the answer to its end.
    ///
    /// # Errors
    /// The connection fails, or the answer is not 200 with vectors for `texts` inputs.
    pub(crate) fn embed(&mut self, request: &[u8], texts: usize) -> Result<()> {
        let Head { status, .. } = self.ask(request)?;
        if status != 200 {
            bail!("status {status}: {}", self.said());
        }
        let bytes = self.answer.len();
        ensure!(bytes > texts * VECTOR, "the answer to {texts} texts has only {bytes} bytes");
        Ok(())
    }

    /// Sends any request and reads the answer to its end, whatever it is.
    ///
    /// # Errors
    /// The connection fails, or what comes is not an answer with its length.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<Head> {
        self.send(request)?;
        self.read_answer()
    }

    /// Sends any bytes, for one who does not wait for the answer.
    ///
    /// # Errors
    /// The connection fails.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<()> {
        if self.closing {
            self.stream = connect(self.address)?;
            self.closing = false;
        }
        Ok(self.stream.get_mut().write_all(request)?)
    }

    /// The beginning of the last answer's body.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.answer).chars().take(200).collect()
    }

    /// The whole body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        &self.answer
    }

    fn read_answer(&mut self) -> Result<Head> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an HTTP status line: {line:?}"))?;
        let (mut length, mut retry_after) = (None, None);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim_end();
            if header.is_empty() {
                break;
            }
            let Some((name, value)) = header.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            } else if name.eq_ignore_ascii_case("retry-after") {
                retry_after = Some(value.trim().parse()?);
            } else if name.eq_ignore_ascii_case("connection") {
                self.closing = value.trim().eq_ignore_ascii_case("close");
            }
        }
        self.answer.resize(length.context("the answer has no content-length")?, 0);
        self.stream.read_exact(&mut self.answer)?;
        Ok(Head { status, retry_after })
    }
}

fn connect(address: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::with_capacity(64 << 10, stream))
}

/// The bytes of a request as OpenAI's Python SDK makes it: one text alone or a list, base64 asked for.
pub(crate) fn request(texts: &[Text]) -> Vec<u8> {
    // The texts are lower-case words and spaces: nothing to escape.
    let quoted: Vec<String> = texts.iter().map(|text| format!("\"{}\"", text.text)).collect();
    let input = match quoted.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(",")),
    };
    let body = format!(r#"{{"input":{input},"model":"all-MiniLM-L6-v2","encoding_format":"base64"}}"#);
    format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n\
         content-type: application/json\r\nauthorization: Bearer none\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;
    use crate::bench::texts::{Kind, text};

    /// Answers one request with `answer`, and yields what was asked.
    fn serve(answer: String) -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                let mut piece = [0; 1024];
                let read = stream.read(&mut piece).unwrap();
                assert!(read > 0, "the client went away");
                asked.extend_from_slice(&piece[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            asked
        });
        (address, thread)
    }

    fn ask(answer: String) -> (Result<()>, Vec<u8>) {
        let (address, server) = serve(answer);
        let result = Connection::open(address).unwrap().embed(&request(&[text(Kind::Short, 0, 0)]), 1);
        (result, server.join().unwrap())
    }

    #[test]
    fn an_answer_is_read_to_its_end_and_judged() {
        let answer = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nx: y\r\n\r\n{body}", body.len())
        };
        let (result, asked) = ask(answer("200 OK", &"A".repeat(VECTOR + 1)));
        result.unwrap();
        let asked = String::from_utf8(asked).unwrap();
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["encoding_format"], body["input"].is_string()), (&"base64".into(), true));

        let said = |answer| ask(answer).0.unwrap_err().to_string();
        assert_eq!(said(answer("503 Full", "no room")), "status 503: no room");
        assert!(said(answer("200 OK", "{}")).contains("only 2 bytes"));
        assert!(said("HTTP/1.1 200 OK\r\n\r\n".into()).contains("no content-length"));
        assert!(said("what\r\n\r\n".into()).contains("not an HTTP status line"));
    }

    #[test]
    fn a_connection_that_the_server_closes_is_opened_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = Connection::open(listener.local_addr().unwrap()).unwrap();
        let server = thread::spawn(move || {
            for head in ["Connection: close\r\n", ""] {
                let mut stream = listener.accept().unwrap().0;
                let read = stream.read(&mut [0; 64]).unwrap();
                assert!(read > 0, "the client went away");
                write!(stream, "HTTP/1.1 200 OK\r\n{head}Content-Length: 0\r\n\r\n").unwrap();
            }
        });
        for _ in 0..2 {
            assert_eq!(connection.ask(b"GET / HTTP/1.1\r\n\r\n").unwrap().status, 200);
        }
        server.join().unwrap();
        let error = connection.ask(b"GET / HTTP/1.1\r\n\r\n").unwrap_err().to_string();
        assert!(!error.contains("cannot connect"), "opened anew, though nobody said so: {error}");
    }

    #[test]
    fn several_texts_are_a_list() {
        let request = request(&[text(Kind::Short, 0, 0), text(Kind::Long, 0, 1)]);
        let request = String::from_utf8(request).unwrap();
        let body: serde_json::Value =
            serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["input"].as_array().unwrap().len(), 2);
    }
}
