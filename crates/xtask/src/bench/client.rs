//! Load over HTTP: a few lines of HTTP/1.1 with keep-alive, so that the client costs next to nothing on
//! cores that it shares with the server.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::texts;

/// How long one answer may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run measured.
pub(super) struct Measured {
    pub(super) texts: usize,
    pub(super) seconds: f64,
    /// Each request's latency.
    pub(super) milliseconds: Vec<f64>,
}

/// A server to load.
pub(super) struct Target {
    address: SocketAddr,
}

impl Target {
    /// # Errors
    /// `origin` is not `http://ADDRESS:PORT`.
    pub(super) fn new(origin: &str) -> Result<Self> {
        let address = origin.strip_prefix("http://").unwrap_or(origin);
        Ok(Self { address: address.parse().with_context(|| format!("{origin} is no address"))? })
    }

    /// Polls `/readyz`.
    pub(super) fn wait_until_ready(&self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        while Connection::open(self.address)?.exchange("GET", "/readyz", "")?.0 != 200 {
            ensure!(Instant::now() < end, "the server was not ready within {} s", patience.as_secs());
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Embeds one text.
    pub(super) fn embed(&self, text: &str) -> Result<()> {
        Connection::open(self.address)?.embed(text)
    }

    /// `clients` connections, each sending `requests` requests of one short text, one after the other.
    pub(super) fn load(&self, clients: usize, requests: usize, round: usize) -> Result<Measured> {
        let started = Instant::now();
        let latencies: Result<Vec<Vec<f64>>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..clients)
                .map(|client| {
                    scope.spawn(move || self.one_client(requests, (round * clients + client) * requests))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")))
                .collect()
        });
        let milliseconds = latencies?.concat();
        Ok(Measured { texts: milliseconds.len(), seconds: started.elapsed().as_secs_f64(), milliseconds })
    }

    fn one_client(&self, requests: usize, first: usize) -> Result<Vec<f64>> {
        let mut connection = Connection::open(self.address)?;
        (0..requests)
            .map(|n| {
                let text = texts::short(first + n);
                let started = Instant::now();
                connection.embed(&text)?;
                Ok(started.elapsed().as_secs_f64() * 1e3)
            })
            .collect()
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// As the OpenAI SDKs do it: base64.
    fn embed(&mut self, text: &str) -> Result<()> {
        let body = format!(
            r#"{{"model":"all-MiniLM-L6-v2","input":{},"encoding_format":"base64"}}"#,
            serde_json::to_string(text)?
        );
        let (status, answer) = self.exchange("POST", "/v1/embeddings", &body)?;
        ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(&answer));
        // 384 f32 in base64 are 2,048 characters: a shorter answer would be no embedding.
        ensure!(answer.len() > 2048, "the answer has only {} bytes", answer.len());
        Ok(())
    }

    fn exchange(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.get_mut().write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an HTTP status line: {line:?}"))?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok((status, answer))
    }
}
