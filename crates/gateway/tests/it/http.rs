//! An HTTP client that sends exactly the given bytes, which no HTTP library does.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The value of the header with this lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `error.message` of an error response.
    #[track_caller]
    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    /// Status, headers of errors, and body, for a snapshot.
    pub(crate) fn summary(&self) -> String {
        let mut summary = format!("{}\n", self.status);
        for name in ["allow", "content-type", "retry-after", "www-authenticate", "x-should-retry"] {
            if let Some(value) = self.header(name) {
                summary += &format!("{name}: {value}\n");
            }
        }
        summary + self.text()
    }
}

/// One connection.
pub(crate) struct Connection<S = TcpStream>(BufReader<S>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        // A server that does not respond must fail the test instead of hanging it.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Closes the sending side.
    pub(crate) fn half_close(&mut self) {
        self.0.get_mut().shutdown(Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Connection<S> {
    /// A connection over a connected stream.
    pub(crate) fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    #[track_caller]
    pub(crate) fn receive(&mut self) -> Reply {
        self.try_receive().unwrap()
    }

    /// The stream itself.
    pub(crate) fn stream(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// As [`Connection::stream`], but consumes the connection. Bytes that were read ahead are lost.
    pub(crate) fn into_stream(self) -> S {
        self.0.into_inner()
    }

    /// Returns true if the server has closed the connection, or closes it now, without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            // The server closed before it had read everything.
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// The next response, to a `HEAD` request: no body follows its headers.
    pub(crate) fn receive_head(&mut self) -> Reply {
        let (status, headers) = self.head().unwrap();
        Reply { status, headers, body: Vec::new() }
    }

    /// The next response; an interim `100 Continue` is skipped.
    pub(crate) fn try_receive(&mut self) -> std::io::Result<Reply> {
        let (status, headers) = loop {
            let (status, headers) = self.head()?;
            if status != 100 {
                break (status, headers);
            }
        };
        let mut reply = Reply { status, headers, body: Vec::new() };
        if reply.header("transfer-encoding").is_some() {
            self.chunks(&mut reply.body)?;
        } else if status != 204 {
            let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
            reply.body = vec![0; length];
            self.0.read_exact(&mut reply.body)?;
        }
        Ok(reply)
    }

    /// The next response, which ends with the connection.
    pub(crate) fn receive_to_end(&mut self) -> Reply {
        let (status, headers) = self.head().unwrap();
        let mut body = Vec::new();
        self.0.read_to_end(&mut body).unwrap();
        Reply { status, headers, body }
    }

    fn head(&mut self) -> std::io::Result<(u16, Vec<(String, String)>)> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(format!("no status line: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok((status, headers)) };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> std::io::Result<()> {
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16).unwrap();
            let start = body.len();
            body.resize(start + size, 0);
            self.0.read_exact(&mut body[start..])?;
            self.line()?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Sends a GET request on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    let mut connection = Connection::open(address);
    connection.send(&request("GET", path, &[("connection", "close")], b""));
    connection.receive()
}

/// The bytes of a request, with a `content-length` if there is a body.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: test.example:8080\r\n");
    for (name, value) in headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        bytes += &format!("content-length: {}\r\n", body.len());
    }
    [bytes.as_bytes(), b"\r\n", body].concat()
}
