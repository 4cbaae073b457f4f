//! Runs a profile against a server: blocking clients on small threads, each with one kept connection.
//!
//! A client's cost is one write and one read a request; bodies are made before the clock of their request starts. All
//! clients take their texts from one counter, so that every competitor reads the same sequence.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    client::{Client, request},
    profile::{BULK, Load},
    texts::{self, Text, TextKind},
};

/// Stack of a client's thread: 512 clients should not need gigabytes of address space.
const STACK_BYTES: usize = 256 << 10;
/// First index of warm-up texts: half of a series, which no measurement reaches.
const WARMUP_FIRST_INDEX: u32 = 1 << 21;
/// Number of times that repeated texts are embedded before the measurement: a cache may store a text only at its second
/// request.
const WARMUP_REQUESTS: usize = 3;
/// Delay of the interactive client, so that the server is already busy with the bulk request.
const START_DELAY: Duration = Duration::from_millis(50);

/// Measurement of one run of a profile.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Texts and tokens that were answered, over all clients.
    pub(crate) texts: usize,
    pub(crate) tokens: usize,
    /// Tokens that were answered before the clock started.
    pub(crate) warm_tokens: usize,
    /// From the first request to the last answer.
    pub(crate) seconds: f64,
    /// Latency of each request; with a bulk client, of the interactive ones alone.
    pub(crate) milliseconds: Vec<f64>,
}

/// Texts of a series, from an index on.
struct TextSource {
    kind: TextKind,
    series: u32,
    next: AtomicU32,
    /// Number of texts before the first is repeated; 0 for no repetition.
    pool: u32,
}

impl TextSource {
    fn new(kind: TextKind, series: u32, first: u32) -> Self {
        Self { kind, series, next: AtomicU32::new(first), pool: 0 }
    }

    fn take(&self, count: usize) -> Vec<Text> {
        let first = self.next.fetch_add(count as u32, Ordering::Relaxed);
        let index = |n: u32| if self.pool == 0 { n } else { n % self.pool };
        (first..first + count as u32).map(|n| texts::text(self.kind, self.series, index(n))).collect()
    }
}

/// Loads the server at `address` for `seconds`, each client at least once, after a tenth of that to warm up.
///
/// `series` is the profile's own, so that none of its texts was seen before.
///
/// # Errors
/// A connection fails, or a response is wrong: a profile counts completely or not at all.
pub(crate) fn run(address: SocketAddr, load: Load, series: u32, seconds: f64) -> Result<Measured> {
    let span = Duration::from_secs_f64(seconds);
    let warm = span / 10;
    match load {
        Load::Clients { clients, texts, kind } => {
            let warm = clients_until(
                address,
                clients,
                texts,
                &TextSource::new(kind, series, WARMUP_FIRST_INDEX),
                warm,
            )?;
            let measured = clients_until(address, clients, texts, &TextSource::new(kind, series, 0), span)?;
            Ok(Measured { warm_tokens: warm.tokens, ..measured })
        }
        Load::RepeatedTexts { clients, pool } => {
            let source = TextSource { pool, ..TextSource::new(TextKind::Short, series, 0) };
            let mut connection = Client::open(address)?;
            let mut warm_tokens = 0;
            for _ in 0..WARMUP_REQUESTS {
                let texts = source.take(pool as usize);
                connection.embed(&request(&texts), texts.len())?;
                warm_tokens += texts.iter().map(|text| text.tokens).sum::<usize>();
            }
            let measured = clients_until(address, clients, 1, &source, span)?;
            Ok(Measured { warm_tokens, ..measured })
        }
        Load::DuringBulk => during_bulk(address, series, span),
    }
}

/// Sends one short text; an error means that the server is not ready yet.
pub(crate) fn ask_once(address: SocketAddr) -> Result<()> {
    let text = texts::text(TextKind::Short, 31, 0);
    Client::open(address)?.embed(&request(&[text]), 1)
}

fn clients_until(
    address: SocketAddr,
    clients: usize,
    texts: usize,
    source: &TextSource,
    span: Duration,
) -> Result<Measured> {
    let connections: Vec<Client> = (0..clients).map(|_| Client::open(address)).collect::<Result<_>>()?;
    let started = Instant::now();
    thread::scope(|scope| {
        let mut threads = Vec::with_capacity(clients);
        for mut connection in connections {
            let client = move || one_client(&mut connection, texts, source, started + span);
            let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, client);
            threads.push(thread.with_context(|| format!("cannot start {clients} client threads"))?);
        }
        let mut measured = Measured::default();
        for thread in threads {
            let client = thread.join().ok().context("a client panicked")??;
            measured.texts += client.texts;
            measured.tokens += client.tokens;
            measured.milliseconds.extend(client.milliseconds);
        }
        measured.seconds = started.elapsed().as_secs_f64();
        Ok(measured)
    })
}

/// Requests of `texts` texts until `deadline`, one at least.
fn one_client(client: &mut Client, texts: usize, source: &TextSource, deadline: Instant) -> Result<Measured> {
    let mut measured = Measured::default();
    loop {
        let batch = source.take(texts);
        let body = request(&batch);
        let started = Instant::now();
        client.embed(&body, texts)?;
        measured.milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        measured.texts += texts;
        measured.tokens += batch.iter().map(|text| text.tokens).sum::<usize>();
        if Instant::now() >= deadline {
            return Ok(measured);
        }
    }
}

fn during_bulk(address: SocketAddr, series: u32, span: Duration) -> Result<Measured> {
    let bulk_texts = TextSource::new(TextKind::Short, series, 0);
    let one_text = TextSource::new(TextKind::Short, series, WARMUP_FIRST_INDEX);
    let mut bulk_connection = Client::open(address)?;
    let mut one_connection = Client::open(address)?;
    let started = Instant::now();
    thread::scope(|scope| {
        let bulk = scope.spawn(|| one_client(&mut bulk_connection, BULK, &bulk_texts, started + span));
        thread::sleep(START_DELAY.min(span / 4));
        let interactive = one_client(&mut one_connection, 1, &one_text, started + span);
        let bulk = bulk.join().ok().context("the bulk client panicked")??;
        let interactive = interactive?;
        Ok(Measured {
            texts: bulk.texts + interactive.texts,
            tokens: bulk.tokens + interactive.tokens,
            seconds: started.elapsed().as_secs_f64(),
            milliseconds: interactive.milliseconds,
            warm_tokens: 0,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_source_repeats_only_its_pool() {
        let fresh = TextSource::new(TextKind::Short, 2, 0);
        let texts: HashSet<String> = fresh.take(5000).into_iter().map(|text| text.text).collect();
        assert_eq!(texts.len(), 5000);
        assert!(fresh.take(1).iter().all(|text| !texts.contains(&text.text)));

        let again = TextSource { pool: 8, ..TextSource::new(TextKind::Short, 2, 0) };
        let texts: HashSet<String> = again.take(100).into_iter().map(|text| text.text).collect();
        assert_eq!(texts.len(), 8);
    }

    #[test]
    fn a_refused_connection_is_an_error() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let load = Load::Clients { clients: 3, texts: 1, kind: TextKind::Short };
        assert!(run(address, load, 0, 0.01).unwrap_err().to_string().contains("cannot connect"));
        assert!(run(address, Load::DuringBulk, 0, 0.01).is_err());
    }
}
