//! An HTTP/1.1 client that sends exactly the given bytes, which no HTTP library does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Read timeout of [`Connection::open`]: a server that does not answer fails the test.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// One response.
#[derive(Debug, Default)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header lines, names in lower case.
    head: String,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A response without headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, head: String::new(), body: body.into() }
    }

    /// Names, in lower case, and values of the headers.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.head.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()))
    }

    /// The value of a header, whose name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The body as text.
    ///
    /// # Panics
    /// The body is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// The body is not declared as JSON, or is not JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).expect("a body in JSON")
    }

    /// `error.message` of an error response.
    ///
    /// # Panics
    /// The body is not an error.
    #[track_caller]
    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().expect("an error message").to_owned()
    }

    /// Status, the headers that describe an error, and the body: the content of a snapshot.
    pub fn summary(&self) -> String {
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
#[derive(Debug)]
pub struct Connection<S = TcpStream>(BufReader<S>);

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// The connection is refused.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        Self::connect(address, READ_TIMEOUT)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects, with a limit for each read.
    ///
    /// # Errors
    /// The connection is refused.
    pub fn connect(address: SocketAddr, read_timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(read_timeout))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::with_capacity(64 << 10, stream)))
    }

    /// Shuts down the write side, as a client does after its last request.
    ///
    /// # Panics
    /// The connection is gone.
    pub fn half_close(&mut self) {
        self.0.get_mut().shutdown(Shutdown::Write).expect("an open connection");
    }
}

impl<S: Read + Write> Connection<S> {
    /// A connection over a connected stream.
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// The connection is gone.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("a request that can be sent");
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Reads the next response.
    ///
    /// # Panics
    /// The connection ends first.
    #[track_caller]
    pub fn receive(&mut self) -> Reply {
        self.try_receive().unwrap_or_else(|error| panic!("no response: {error}"))
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// Consumes the connection and returns the stream. Bytes that were read ahead are lost.
    pub fn into_stream(self) -> S {
        self.0.into_inner()
    }

    /// Returns true if the server has closed the connection, or closes it now, without another byte.
    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            // The server closed before it had read everything.
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Reads the next response to a `HEAD` request: its headers describe a body that does not follow.
    ///
    /// # Panics
    /// The connection ends first.
    #[track_caller]
    pub fn receive_head(&mut self) -> Reply {
        let mut reply = Reply::default();
        self.head(&mut reply).expect("a response");
        reply
    }

    /// Reads the next response; an interim `100 Continue` is skipped.
    ///
    /// # Errors
    /// The connection ends first, or the response is not HTTP.
    pub fn try_receive(&mut self) -> io::Result<Reply> {
        let mut reply = Reply::default();
        self.receive_into(&mut reply)?;
        Ok(reply)
    }

    /// As [`Connection::try_receive`], into the buffers of an earlier response: the load generator must cost little.
    ///
    /// # Errors
    /// As [`Connection::try_receive`].
    pub fn receive_into(&mut self, reply: &mut Reply) -> io::Result<()> {
        self.head(reply)?;
        while reply.status == 100 {
            self.head(reply)?;
        }
        reply.body.clear();
        if reply.header("transfer-encoding").is_some() {
            return self.chunks(&mut reply.body);
        }
        if reply.status != 204 {
            let length = match reply.header("content-length") {
                Some(length) => length.parse().map_err(|_| invalid("content-length", length))?,
                None => 0,
            };
            reply.body.resize(length, 0);
            self.0.read_exact(&mut reply.body)?;
        }
        Ok(())
    }

    /// Reads the next response, which ends with the connection.
    ///
    /// # Panics
    /// The connection fails.
    #[track_caller]
    pub fn receive_to_end(&mut self) -> Reply {
        let mut reply = self.receive_head();
        self.0.read_to_end(&mut reply.body).expect("the rest of a response");
        reply
    }

    fn head(&mut self, reply: &mut Reply) -> io::Result<()> {
        let head = &mut reply.head;
        head.clear();
        read_line(&mut self.0, head)?;
        let status = head.split(' ').nth(1).and_then(|status| status.trim_end().parse().ok());
        reply.status = status.ok_or_else(|| invalid("status line", head))?;
        head.clear();
        loop {
            let start = head.len();
            read_line(&mut self.0, head)?;
            let line = &mut head[start..];
            let Some(colon) = line.find(':') else {
                head.truncate(start);
                return Ok(());
            };
            line[..colon].make_ascii_lowercase();
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            read_line(&mut self.0, &mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| invalid("chunk size", &line))?;
            let start = body.len();
            body.resize(start + size, 0);
            self.0.read_exact(&mut body[start..])?;
            read_line(&mut self.0, &mut line)?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

fn read_line(stream: &mut impl BufRead, line: &mut String) -> io::Result<()> {
    if stream.read_line(line)? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn invalid(what: &str, found: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid {what}: {found:?}"))
}

/// The bytes of a request; a body gets its `content-length`.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: test.example:8080\r\n");
    for (name, value) in headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        bytes += &format!("content-length: {}\r\n", body.len());
    }
    [bytes.as_bytes(), b"\r\n", body].concat()
}

/// Sends one request on a connection of its own and returns the response.
///
/// # Errors
/// The connection fails, or the response is not HTTP.
pub fn ask(address: SocketAddr, request: &[u8]) -> io::Result<Reply> {
    let mut connection = Connection::connect(address, READ_TIMEOUT * 3)?;
    // A server that rejects a body may close before it has read it; its response arrives all the same.
    let sent = connection.try_send(request);
    connection.try_receive().map_err(|error| sent.err().unwrap_or(error))
}

/// Sends a GET request.
///
/// # Errors
/// As [`ask`].
pub fn get(address: SocketAddr, path: &str) -> io::Result<Reply> {
    ask(address, &request("GET", path, &[], b""))
}

/// Sends a POST request with a body of the given media type.
///
/// # Errors
/// As [`ask`].
pub fn post(address: SocketAddr, path: &str, media_type: &str, body: &str) -> io::Result<Reply> {
    ask(address, &request("POST", path, &[("content-type", media_type)], body.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn receive(bytes: &str) -> io::Result<Reply> {
        Connection::over(Cursor::new(bytes.as_bytes().to_vec())).try_receive()
    }

    #[test]
    fn a_response_is_read_to_its_end() {
        let reply = receive(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Y:  z \r\nContent-Length: 2\r\n\r\nok.",
        )
        .unwrap();
        assert_eq!((reply.status, reply.header("x-y"), reply.text()), (200, Some("z"), "ok"));
        assert_eq!(reply.headers().count(), 2);
        let chunked = receive(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\na\r\n0123456789\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.unwrap().text(), "a0123456789");
        assert!(receive("what\r\n\r\n").unwrap_err().to_string().contains("invalid status line"));
        assert_eq!(receive("HTTP/1.1 200 OK\r\n").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
