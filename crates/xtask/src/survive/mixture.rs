//! The clients of a soak: well-behaved ones, careless ones, and those that hang up.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, ensure};

use crate::bench::client::{Connection, request};
use crate::bench::texts::{Kind, Text, text};

/// Texts that come again and again.
const POOL: u32 = 64;
/// Indices of a series of texts; after so many the first come again, by when no cache holds them.
const SERIES: u32 = 1 << 22;

/// What a client does all the time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Habit {
    /// Sends so many new texts a request, on one connection.
    Fresh(usize, Kind),
    /// Asks for the same few texts.
    Again,
    /// Sends token ids of OpenAI's vocabulary.
    Tokens,
    /// Comes with a new connection each time.
    Stranger,
    /// Sends what is no request.
    Careless,
    /// Hangs up before the answer.
    Leaver,
    /// Scrapes, probes and lists models.
    Observer,
}

/// One of each, and more of those that most clients are.
pub(super) const MIXTURE: [Habit; 10] = [
    Habit::Fresh(1, Kind::Short),
    Habit::Fresh(1, Kind::Short),
    Habit::Fresh(16, Kind::Mixed),
    Habit::Fresh(2, Kind::Long),
    Habit::Again,
    Habit::Tokens,
    Habit::Stranger,
    Habit::Careless,
    Habit::Leaver,
    Habit::Observer,
];

impl Habit {
    /// Follows the habit until it is `over`, counting requests in `sent`.
    ///
    /// # Errors
    /// A connection fails, or an answer has another status than the one due.
    pub(super) fn follow(
        self,
        address: SocketAddr,
        series: u32,
        over: &AtomicBool,
        sent: &AtomicU64,
    ) -> Result<()> {
        let mut connection = Connection::open(address)?;
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let (request, due) = self.request(series, number);
            if matches!(self, Self::Stranger | Self::Leaver) {
                connection = Connection::open(address)?;
            }
            if matches!(self, Self::Leaver) {
                connection.send(&request)?;
                // Some leave while the request is read, some while it waits or is computed.
                std::thread::sleep(std::time::Duration::from_micros(u64::from(number % 8) * 1500));
            } else {
                let head = connection.ask(&request)?;
                ensure!(head.status == due, "{self:?} got {} for {due}: {}", head.status, connection.said());
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The bytes of a request, and the status that is due to it.
    fn request(self, series: u32, number: u32) -> (Vec<u8>, u16) {
        let texts = |kind, count: u32, first: u32| -> Vec<Text> {
            (first..first + count).map(|n| text(kind, series, n % SERIES)).collect()
        };
        match self {
            Self::Fresh(count, kind) => {
                (request(&texts(kind, count as u32, number.wrapping_mul(count as u32))), 200)
            }
            Self::Again => (request(&texts(Kind::Short, 1, number % POOL)), 200),
            Self::Tokens => {
                let ids: Vec<String> = (0..20).map(|n| (number * 7 % 90_000 + n).to_string()).collect();
                (post(&format!(r#"{{"model":"all-MiniLM-L6-v2","input":[{}]}}"#, ids.join(","))), 200)
            }
            Self::Stranger => (request(&texts(Kind::Short, 1, number)), 200),
            Self::Leaver => (request(&texts(Kind::Mixed, 4, number.wrapping_mul(4))), 200),
            Self::Careless => match number % 4 {
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
    format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").into_bytes()
}
