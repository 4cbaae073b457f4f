//! Clients of the soak: regular ones, invalid ones, and those that disconnect.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use bench::client::{Client, request};
use bench::texts::{Text, TextKind, text};

/// Number of texts that are repeated.
const REPEATED_TEXTS: u32 = 64;
/// Number of different texts of a series; by the time they repeat, no cache contains them.
const SERIES_TEXTS: u32 = 1 << 22;

/// Behavior of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClientBehavior {
    /// Sends this many new texts per request, on one connection.
    NewTexts(usize, TextKind),
    /// Sends the same few texts.
    RepeatedTexts,
    /// Sends token ids of OpenAI's vocabulary.
    TokenIds,
    /// Opens a connection for each request.
    NewConnection,
    /// Sends invalid requests.
    InvalidRequest,
    /// Disconnects before the response.
    Disconnects,
    /// Scrapes metrics, probes health and lists models.
    Observer,
}

/// One client of each behavior, and more of the most common.
pub(crate) const WORKLOAD: [ClientBehavior; 10] = [
    ClientBehavior::NewTexts(1, TextKind::Short),
    ClientBehavior::NewTexts(1, TextKind::Short),
    ClientBehavior::NewTexts(16, TextKind::Mixed),
    ClientBehavior::NewTexts(2, TextKind::Long),
    ClientBehavior::RepeatedTexts,
    ClientBehavior::TokenIds,
    ClientBehavior::NewConnection,
    ClientBehavior::InvalidRequest,
    ClientBehavior::Disconnects,
    ClientBehavior::Observer,
];

impl ClientBehavior {
    /// Sends requests until `stop` is set, and counts them in `sent`. A failed connection or an unexpected status is an
    /// error.
    pub(crate) fn run(
        self,
        address: SocketAddr,
        series: u32,
        stop: &AtomicBool,
        sent: &AtomicU64,
    ) -> Result<()> {
        let mut client = Client::open(address)?;
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (request, expected) = self.request(series, number);
            if matches!(self, Self::NewConnection | Self::Disconnects) {
                client = Client::open(address)?;
            }
            if matches!(self, Self::Disconnects) {
                client.send(&request)?;
                // Some disconnect while the request is read, some while it is queued or computed.
                thread::sleep(Duration::from_micros(u64::from(number % 8) * 1500));
            } else {
                let status = client.ask(&request)?;
                ensure!(
                    status == expected,
                    "{self:?}: status {status}, expected {expected}: {}",
                    client.excerpt()
                );
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The bytes of a request, and the expected status.
    fn request(self, series: u32, number: u32) -> (Vec<u8>, u16) {
        let texts = |kind, count: u32, first: u32| -> Vec<Text> {
            (first..first + count).map(|n| text(kind, series, n % SERIES_TEXTS)).collect()
        };
        match self {
            Self::NewTexts(count, kind) => {
                (request(&texts(kind, count as u32, number.wrapping_mul(count as u32))), 200)
            }
            Self::RepeatedTexts => (request(&texts(TextKind::Short, 1, number % REPEATED_TEXTS)), 200),
            Self::TokenIds => {
                let ids: Vec<String> = (0..20).map(|n| (number * 7 % 90_000 + n).to_string()).collect();
                (post(&format!(r#"{{"model":"all-MiniLM-L6-v2","input":[{}]}}"#, ids.join(","))), 200)
            }
            Self::NewConnection => (request(&texts(TextKind::Short, 1, number)), 200),
            Self::Disconnects => (request(&texts(TextKind::Mixed, 4, number.wrapping_mul(4))), 200),
            Self::InvalidRequest => match number % 4 {
                0 => (post("{"), 400),
                1 => (post(r#"{"model":"all-MiniLM-L6-v2","input":[]}"#), 400),
                2 => (post(r#"{"model":"no-such-model","input":"a"}"#), 404),
                _ => (get("/v1/nothing"), 404),
            },
            Self::Observer => {
                let paths = ["/metrics", "/readyz", "/livez", "/v1/models", "/"];
                (get(paths[number as usize % paths.len()]), 200)
            }
        }
    }
}

fn post(body: &str) -> Vec<u8> {
    let headers = [("content-type", "application/json")];
    testkit::http::request("POST", "/v1/embeddings", &headers, body.as_bytes())
}

fn get(path: &str) -> Vec<u8> {
    testkit::http::request("GET", path, &[], b"")
}
