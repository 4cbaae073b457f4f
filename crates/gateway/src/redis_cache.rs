//! Remote cache in Redis or Valkey, shared between servers.
//!
//! A lookup uses an open connection with a timeout of milliseconds. Any error closes the connection, and until a new
//! one is open every lookup returns nothing without touching the network. One background thread connects, which can be
//! slow, and writes. Errors are counted; the log has one line when the server fails and one when it recovers. No
//! request fails because of the remote cache (docs/adr/0007).

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
    background::{BackgroundThread, StopToken},
    config::CacheConfig,
    metrics::RemoteCacheMetrics,
};

/// Prefix of every key, so that a server can be shared. The number changes with the format of the values.
const PREFIX: &[u8] = b"embedgate:1:";
/// Maximum number of keys of one MGET: a reply so small that a healthy server delivers it within the timeout,
/// regardless of how many inputs a request has.
const MGET_CHUNK: usize = 64;
/// Maximum number of batches that wait to be written. Further ones are dropped.
const CHANNEL_CAPACITY: usize = 256;
/// Timeout of connecting, and of writing one batch.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay between an error and the next attempt to connect; it doubles with each error.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

type CacheEntries = Vec<(CacheKey, Vec<f32>)>;

/// Vectors in a Redis or Valkey server: little-endian 32-bit floats, under [`PREFIX`] and the key.
pub struct RedisCache {
    client: Arc<CacheClient>,
    /// Declared before the thread so that it is dropped first: closing the channel wakes the thread, which then ends.
    entries: SyncSender<CacheEntries>,
    _thread: BackgroundThread,
}

/// State that lookups and the background thread share.
struct CacheClient {
    client: Client,
    timeout: Duration,
    ttl: Duration,
    metrics: RemoteCacheMetrics,
    /// Connection for lookups; `None` while the server is unavailable.
    reader: Mutex<Option<Connection>>,
    backoff: Mutex<Backoff>,
}

/// Exponential backoff of connection attempts. A successful lookup resets it.
struct Backoff {
    next_attempt: Instant,
    delay: Duration,
    /// The log has a line that the server is unavailable.
    is_logged: bool,
}

impl RedisCache {
    /// Creates the remote cache of the settings; `None` if they name no server. The server need not be available.
    ///
    /// # Errors
    /// An invalid address, or a thread that cannot be started, as a message.
    pub fn new(config: &CacheConfig, metrics: RemoteCacheMetrics) -> Result<Option<Self>, String> {
        let Some(url) = &config.redis_url else { return Ok(None) };
        // The error is not shown: it could quote the address with its password.
        let client =
            Client::open(url.secret()).map_err(|_| format!("{url} is not an address of a Redis server"))?;
        let backoff = Backoff { next_attempt: Instant::now(), delay: MIN_BACKOFF, is_logged: false };
        let client = Arc::new(CacheClient {
            client,
            timeout: config.redis_timeout,
            ttl: config.redis_ttl,
            metrics,
            reader: Mutex::default(),
            backoff: Mutex::new(backoff),
        });
        let (entries, receiver) = sync_channel(CHANNEL_CAPACITY);
        let body = {
            let client = Arc::clone(&client);
            move |stop: &StopToken| client.run(stop, &receiver)
        };
        let thread = BackgroundThread::start("redis", body);
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Some(Self { client, entries, _thread: thread }))
    }

    /// Returns true while lookups are answered.
    pub fn is_up(&self) -> bool {
        self.client.reader().is_some()
    }
}

impl RemoteCache for RedisCache {
    fn get(&self, keys: &[CacheKey]) -> Vec<Option<Vec<f32>>> {
        let mut reader = self.client.reader();
        let Some(connection) = reader.as_mut() else { return vec![None; keys.len()] };
        let mut vectors = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(MGET_CHUNK) {
            match mget(connection, chunk) {
                Ok(found) => vectors.extend(found),
                Err(error) => {
                    *reader = None;
                    self.client.metrics.redis.up.set(0);
                    drop(reader);
                    self.client.on_error(&error);
                    // Vectors of earlier chunks are used.
                    vectors.resize(keys.len(), None);
                    return vectors;
                }
            }
        }
        self.client.on_success();
        vectors
    }

    fn put(&self, entries: CacheEntries) {
        if let Err(TrySendError::Full(entries) | TrySendError::Disconnected(entries)) =
            self.entries.try_send(entries)
        {
            self.client.metrics.dropped.inc_by(entries.len() as u64);
        }
    }
}

impl CacheClient {
    fn reader(&self) -> MutexGuard<'_, Option<Connection>> {
        // No code panics halfway through a change.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Body of the background thread: opens connections and writes entries.
    fn run(&self, stop: &StopToken, entries: &Receiver<CacheEntries>) {
        let mut writer: Option<Connection> = None;
        while !stop.is_cancelled() {
            if self.reader().is_none() {
                writer = None;
            }
            if writer.is_none() && Instant::now() >= self.backoff().next_attempt {
                match self.connect() {
                    Ok((for_lookups, for_writing)) => {
                        writer = Some(for_writing);
                        let mut reader = self.reader();
                        *reader = Some(for_lookups);
                        self.metrics.redis.up.set(1);
                    }
                    Err(error) => self.on_error(&error),
                }
            }
            match entries.recv_timeout(MIN_BACKOFF) {
                Ok(entries) => self.write(&mut writer, &entries),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Opens a connection for lookups and one for writing, and checks that the server answers on both within their
    /// timeouts.
    fn connect(&self) -> RedisResult<(Connection, Connection)> {
        let open = |timeout| {
            let mut connection = self.client.get_connection_with_timeout(WRITE_TIMEOUT)?;
            connection.set_read_timeout(Some(timeout))?;
            connection.set_write_timeout(Some(timeout))?;
            redis::cmd("PING").exec(&mut connection)?;
            RedisResult::Ok(connection)
        };
        Ok((open(self.timeout)?, open(WRITE_TIMEOUT)?))
    }

    fn write(&self, writer: &mut Option<Connection>, entries: &CacheEntries) {
        let Some(connection) = writer else {
            self.metrics.dropped.inc_by(entries.len() as u64);
            return;
        };
        let mut pipeline = redis::pipe();
        for (key, vector) in entries {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            pipeline.cmd("SET").arg(redis_key(key)).arg(bytes).arg("EX").arg(self.ttl.as_secs()).ignore();
        }
        let Err(error) = pipeline.exec(connection) else { return };
        self.metrics.dropped.inc_by(entries.len() as u64);
        if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() {
            // Both connections lead to the same server.
            *self.reader() = None;
            self.metrics.redis.up.set(0);
            *writer = None;
            self.on_error(&error);
        } else {
            // The server answers, but is full or a read-only replica. Lookups still work.
            self.metrics.redis.count_error(&error);
        }
    }

    fn on_success(&self) {
        let mut backoff = self.backoff();
        backoff.delay = MIN_BACKOFF;
        if std::mem::take(&mut backoff.is_logged) {
            tracing::info!("the remote cache is available again");
        }
    }

    /// Counts an error and postpones the next attempt. Only the first error since the last successful lookup is logged,
    /// without its text, which could quote what was sent.
    fn on_error(&self, error: &RedisError) {
        self.metrics.redis.count_error(error);
        let mut backoff = self.backoff();
        backoff.next_attempt = Instant::now() + backoff.delay;
        backoff.delay = (backoff.delay * 2).min(MAX_BACKOFF);
        if !std::mem::replace(&mut backoff.is_logged, true) {
            let code = error.code().unwrap_or_else(|| error.category());
            tracing::warn!(error = code, "the remote cache is unavailable; requests are served without it");
        }
    }
}

/// Looks up `keys` with one MGET.
fn mget(connection: &mut Connection, keys: &[CacheKey]) -> RedisResult<Vec<Option<Vec<f32>>>> {
    let mut command = redis::cmd("MGET");
    for key in keys {
        command.arg(redis_key(key));
    }
    let values: Vec<Option<Vec<u8>>> = command.query(connection)?;
    if values.len() != keys.len() {
        // The values cannot be assigned to keys.
        return Ok(vec![None; keys.len()]);
    }
    Ok(values.into_iter().map(|value| value.as_deref().and_then(decode)).collect())
}

fn redis_key(key: &CacheKey) -> Vec<u8> {
    [PREFIX, key].concat()
}

/// Decodes a stored vector; `None` if its length is not a multiple of four bytes.
fn decode(bytes: &[u8]) -> Option<Vec<f32>> {
    let (values, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| values.iter().copied().map(f32::from_le_bytes).collect())
}
