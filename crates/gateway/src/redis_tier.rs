//! The cache's second tier in Redis or Valkey: shared between servers, and never in their way.
//!
//! A lookup happens on a connection that is there, within a timeout of milliseconds, or it does not happen: any
//! error closes the connection, and until another one is open every lookup finds nothing at once. Connecting,
//! which may be slow, and writing are the business of one thread in the background. Whatever goes wrong is counted
//! and, when the server goes or comes, logged once; no request fails by it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use inference::{CacheKey, RemoteCache};
use redis::{Client, Connection, RedisError, RedisResult};

use crate::{
    background::{Background, Stop},
    config::CacheConfig,
    metrics::TierMetrics,
};

/// Before each key, so that a server may be shared; the number changes with the format of what is stored.
const PREFIX: &[u8] = b"embedgate:1:";
/// Keys to ask for at once: a reply so small that a healthy server and network deliver it well within the timeout,
/// however many texts a request has.
const PIECE: usize = 64;
/// Batches of vectors that wait to be written; what comes while they do is dropped.
const WAITING: usize = 256;
/// Longest time for connecting, and for writing one batch.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between an error and the next attempt to connect, doubled with each error.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Entries = Vec<(CacheKey, Vec<f32>)>;

/// Vectors in a Redis or Valkey server: 32-bit floats, little-endian, under a prefix and the key.
pub struct RedisTier {
    shared: Arc<Shared>,
    /// Stands before the thread so that it is dropped first: the closed channel wakes the thread that is to end.
    entries: SyncSender<Entries>,
    _thread: Background,
}

struct Shared {
    client: Client,
    timeout: Duration,
    ttl: Duration,
    metrics: TierMetrics,
    /// For lookups; `None` while the server is away.
    reader: Mutex<Option<Connection>>,
    /// When to connect again.
    attempts: Mutex<Attempts>,
}

/// Attempts to connect: the pause before the next one doubles with every error, until a lookup succeeds.
struct Attempts {
    next: Instant,
    pause: Duration,
    /// Whether it was logged that the server is away.
    said: bool,
}

impl RedisTier {
    /// A tier by the settings; `None` where they name no server. The server need not be there.
    ///
    /// # Errors
    /// An address that cannot be understood, or a thread that cannot be started, in words.
    pub fn new(config: &CacheConfig, metrics: TierMetrics) -> Result<Option<Self>, String> {
        let Some(url) = &config.redis_url else { return Ok(None) };
        // The error could quote the address, and with it a password.
        let client =
            Client::open(url.secret()).map_err(|_| format!("{url} is no address of a Redis server"))?;
        let shared = Arc::new(Shared {
            client,
            timeout: config.redis_timeout,
            ttl: config.redis_ttl,
            metrics,
            reader: Mutex::default(),
            attempts: Mutex::new(Attempts { next: Instant::now(), pause: FIRST_PAUSE, said: false }),
        });
        let (entries, receiver) = sync_channel(WAITING);
        let body = {
            let shared = Arc::clone(&shared);
            move |stop: &Stop| shared.run(stop, &receiver)
        };
        let thread = Background::start("redis", body);
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Some(Self { shared, entries, _thread: thread }))
    }

    /// Whether lookups are answered at present.
    pub fn is_up(&self) -> bool {
        self.shared.reader().is_some()
    }
}

impl RemoteCache for RedisTier {
    fn get(&self, keys: &[CacheKey]) -> Vec<Option<Vec<f32>>> {
        let mut reader = self.shared.reader();
        let Some(connection) = reader.as_mut() else { return vec![None; keys.len()] };
        let mut vectors = Vec::with_capacity(keys.len());
        for piece in keys.chunks(PIECE) {
            match ask(connection, piece) {
                Ok(found) => vectors.extend(found),
                Err(error) => {
                    *reader = None;
                    self.shared.metrics.up.set(0);
                    drop(reader);
                    self.shared.lost(&error);
                    // What was answered before counts.
                    vectors.resize(keys.len(), None);
                    return vectors;
                }
            }
        }
        self.shared.answered();
        vectors
    }

    fn put(&self, entries: Entries) {
        if let Err(TrySendError::Full(entries) | TrySendError::Disconnected(entries)) =
            self.entries.try_send(entries)
        {
            self.shared.metrics.dropped.inc_by(entries.len() as u64);
        }
    }
}

impl Shared {
    fn reader(&self) -> MutexGuard<'_, Option<Connection>> {
        // Nothing panics halfway through a change.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Body of the background thread: keeps connections open and writes what comes.
    fn run(&self, stop: &Stop, entries: &Receiver<Entries>) {
        let mut writer: Option<Connection> = None;
        while !stop.asked() {
            if self.reader().is_none() {
                writer = None;
            }
            if writer.is_none() && Instant::now() >= self.attempts().next {
                match self.connect() {
                    Ok((fresh, other)) => {
                        writer = Some(other);
                        let mut reader = self.reader();
                        *reader = Some(fresh);
                        self.metrics.up.set(1);
                    }
                    Err(error) => self.lost(&error),
                }
            }
            match entries.recv_timeout(FIRST_PAUSE) {
                Ok(entries) => self.write(&mut writer, &entries),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Opens a connection for lookups and one for writing, and sees that the server answers on both, as quickly as
    /// it will have to.
    fn connect(&self) -> RedisResult<(Connection, Connection)> {
        let open = |timeout| {
            let mut connection = self.client.get_connection_with_timeout(PATIENCE)?;
            connection.set_read_timeout(Some(timeout))?;
            connection.set_write_timeout(Some(timeout))?;
            redis::cmd("PING").exec(&mut connection)?;
            RedisResult::Ok(connection)
        };
        Ok((open(self.timeout)?, open(PATIENCE)?))
    }

    fn write(&self, writer: &mut Option<Connection>, entries: &Entries) {
        let Some(connection) = writer else {
            self.metrics.dropped.inc_by(entries.len() as u64);
            return;
        };
        let mut pipeline = redis::pipe();
        for (key, vector) in entries {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            pipeline.cmd("SET").arg(name(key)).arg(bytes).arg("EX").arg(self.ttl.as_secs()).ignore();
        }
        let Err(error) = pipeline.exec(connection) else { return };
        self.metrics.dropped.inc_by(entries.len() as u64);
        if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() {
            // Both connections lead to the same server.
            *self.reader() = None;
            self.metrics.up.set(0);
            *writer = None;
            self.lost(&error);
        } else {
            // It answered: full, or a replica that takes no writes. What it holds can still be looked up.
            self.metrics.others.inc();
        }
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lookup succeeded: the server is as good as new.
    fn answered(&self) {
        let mut attempts = self.attempts();
        attempts.pause = FIRST_PAUSE;
        if std::mem::take(&mut attempts.said) {
            tracing::info!("the cache's second tier answers again");
        }
    }

    /// Counts an error and puts the next attempt off; only the first error since the last good lookup is logged.
    /// Its text is not: it could hold what was sent.
    fn lost(&self, error: &RedisError) {
        let kind = if error.is_timeout() {
            &self.metrics.timeouts
        } else if error.is_io_error() || error.is_connection_dropped() {
            &self.metrics.connections
        } else {
            &self.metrics.others
        };
        kind.inc();
        let mut attempts = self.attempts();
        attempts.next = Instant::now() + attempts.pause;
        attempts.pause = (attempts.pause * 2).min(LONGEST_PAUSE);
        if !std::mem::replace(&mut attempts.said, true) {
            let code = error.code().unwrap_or_else(|| error.category());
            tracing::warn!(error = code, "the cache's second tier is away; going on without it");
        }
    }
}

/// The vectors of `keys`, as one question.
fn ask(connection: &mut Connection, keys: &[CacheKey]) -> RedisResult<Vec<Option<Vec<f32>>>> {
    let mut command = redis::cmd("MGET");
    for key in keys {
        command.arg(name(key));
    }
    let values: Vec<Option<Vec<u8>>> = command.query(connection)?;
    if values.len() != keys.len() {
        // Nobody could say which is whose.
        return Ok(vec![None; keys.len()]);
    }
    Ok(values.into_iter().map(|value| value.as_deref().and_then(floats)).collect())
}

fn name(key: &CacheKey) -> Vec<u8> {
    [PREFIX, key].concat()
}

/// A stored vector; `None` for what is no whole number of floats.
fn floats(bytes: &[u8]) -> Option<Vec<f32>> {
    let (values, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| values.iter().copied().map(f32::from_le_bytes).collect())
}
