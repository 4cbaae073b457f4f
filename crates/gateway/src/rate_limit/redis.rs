//! Token buckets shared by several servers, in Redis or Valkey. One Lua script debits a request atomically.
//!
//! HTTP threads never block on the network. They send each debit to one thread and await its result without blocking,
//! for a few milliseconds at most. The thread sends all queued debits as one pipeline. Any error closes the connection;
//! until a new one is open, every debit fails immediately (docs/adr/0010).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use redis::{Client, Connection, RedisError, RedisResult};
use tokio::{sync::oneshot, time::timeout};

use super::bucket::{Counts, RateLimits};
use crate::{
    background::{BackgroundThread, StopToken},
    config::RedisUrl,
    metrics::RedisMetrics,
};

const SCRIPT: &str = include_str!("bucket.lua");
/// Prefix of all keys, so that the Redis server can be shared with other uses. The number changes with the format of
/// the values.
const PREFIX: &str = "embedgate:limits:1:";
/// Maximum number of queued debits; further ones fail as if Redis were unavailable.
const CHANNEL_CAPACITY: usize = 4096;
/// Maximum number of debits in one pipeline.
const MAX_PIPELINE: usize = 128;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay between an error and the next attempt to connect. It doubles with each error in a row.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Interval at which the idle thread checks its stop token and its backoff.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Result of a debit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DebitResult {
    /// True if the cost was debited.
    pub(super) allowed: bool,
    /// Levels after that.
    pub(super) levels: Counts,
}

/// Client of the shared buckets.
pub(super) struct RedisRateLimiter {
    debits: SyncSender<Debit>,
    is_up: Arc<AtomicBool>,
    timeout: Duration,
}

struct Debit {
    caller: u64,
    cost: Counts,
    /// Without it, no task awaits the result, and the cost is debited even if the buckets hold less.
    reply: Option<oneshot::Sender<DebitResult>>,
}

impl RedisRateLimiter {
    /// Starts the thread. The server at `url` need not be reachable. Debits work while the returned thread lives.
    ///
    /// # Errors
    /// If the system cannot start a thread, or `url` is not a Redis address. The error does not quote the address,
    /// which may hold a password.
    pub(super) fn start(
        url: &RedisUrl,
        timeout: Duration,
        limits: RateLimits,
        metrics: RedisMetrics,
    ) -> io::Result<(Self, BackgroundThread)> {
        let client = Client::open(url.secret())
            .map_err(|_| io::Error::other(format!("{url} is not the address of a Redis server")))?;
        let (debits, receiver) = sync_channel(CHANNEL_CAPACITY);
        let is_up = Arc::new(AtomicBool::new(false));
        let mut worker = RedisWorker {
            client,
            timeout,
            limits,
            metrics,
            is_up: Arc::clone(&is_up),
            connection: None,
            next_attempt: Instant::now(),
            backoff: MIN_BACKOFF,
            has_logged_outage: false,
        };
        let thread = BackgroundThread::start("rate limiter", move |stop| worker.run(stop, &receiver))?;
        Ok((Self { debits, is_up, timeout }, thread))
    }

    /// Debits `cost` if the buckets hold enough. Returns `None` if Redis is unavailable.
    pub(super) async fn try_debit(&self, caller: u64, cost: Counts) -> Option<DebitResult> {
        let (reply, result) = oneshot::channel();
        self.send(Debit { caller, cost, reply: Some(reply) }).then_some(())?;
        timeout(self.timeout, result).await.ok()?.ok()
    }

    /// Debits `cost` even if the buckets hold less, or refunds a negative one, without waiting. The change is lost if
    /// Redis is unavailable.
    pub(super) fn debit(&self, caller: u64, cost: Counts) {
        self.send(Debit { caller, cost, reply: None });
    }

    fn send(&self, debit: Debit) -> bool {
        self.is_up.load(Ordering::Acquire) && self.debits.try_send(debit).is_ok()
    }
}

/// State of the thread.
struct RedisWorker {
    client: Client,
    timeout: Duration,
    limits: RateLimits,
    metrics: RedisMetrics,
    is_up: Arc<AtomicBool>,
    connection: Option<RedisConnection>,
    /// Earliest time of the next attempt to connect.
    next_attempt: Instant,
    backoff: Duration,
    /// True from the log line of an outage until the server responds again.
    has_logged_outage: bool,
}

/// A connection, and the SHA-1 by which `EVALSHA` calls the script on it.
struct RedisConnection {
    connection: Connection,
    script_sha: String,
}

impl RedisWorker {
    fn run(&mut self, stop: &StopToken, debits: &Receiver<Debit>) {
        let mut refunds: Vec<Debit> = Vec::new();
        while !stop.is_cancelled() {
            if self.connection.is_none() && Instant::now() >= self.next_attempt {
                self.connect();
            }
            let first = match refunds.pop() {
                Some(refund) => refund,
                None => match debits.recv_timeout(POLL_INTERVAL) {
                    Ok(debit) => debit,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            let is_abandoned = |debit: &Debit| debit.reply.as_ref().is_some_and(oneshot::Sender::is_closed);
            let pipeline: Vec<Debit> = std::iter::once(first)
                .chain(refunds.drain(..))
                .chain(debits.try_iter())
                .take(MAX_PIPELINE)
                .filter(|debit| !is_abandoned(debit))
                .collect();
            refunds = self.execute(pipeline);
        }
    }

    /// Sends the debits as one pipeline. Returns the refunds of those whose task stopped waiting in the meantime. After
    /// an error the dropped reply channels report that Redis is unavailable.
    fn execute(&mut self, debits: Vec<Debit>) -> Vec<Debit> {
        let Some(RedisConnection { connection, script_sha }) =
            self.connection.as_mut().filter(|_| !debits.is_empty())
        else {
            return Vec::new();
        };
        let mut pipeline = redis::pipe();
        for debit in &debits {
            let is_forced = u8::from(debit.reply.is_none());
            let (RateLimits(limits), cost) = (self.limits, debit.cost);
            let command = pipeline.cmd("EVALSHA").arg(&*script_sha).arg(1);
            command.arg(format!("{PREFIX}{:016x}", debit.caller));
            command
                .arg(limits.requests)
                .arg(limits.tokens)
                .arg(cost.requests)
                .arg(cost.tokens)
                .arg(is_forced);
        }
        let results: Vec<(u8, f64, f64)> = match pipeline.query(connection) {
            Ok(results) => results,
            Err(error) => {
                self.on_error(&error);
                return Vec::new();
            }
        };
        let mut refunds = Vec::new();
        for (Debit { caller, cost, reply }, (allowed, requests, tokens)) in debits.into_iter().zip(results) {
            let result = DebitResult { allowed: allowed == 1, levels: Counts { requests, tokens } };
            let is_unreceived = reply.is_some_and(|reply| reply.send(result).is_err());
            if is_unreceived && result.allowed {
                let cost = Counts { requests: -cost.requests, tokens: -cost.tokens };
                refunds.push(Debit { caller, cost, reply: None });
            }
        }
        refunds
    }

    fn connect(&mut self) {
        match self.open() {
            Ok(connection) => {
                self.connection = Some(connection);
                self.backoff = MIN_BACKOFF;
                self.metrics.up.set(1);
                self.is_up.store(true, Ordering::Release);
                if std::mem::take(&mut self.has_logged_outage) {
                    tracing::info!("the Redis server of the rate limiter responds again");
                }
            }
            Err(error) => self.on_error(&error),
        }
    }

    /// Opens a connection and loads the script, which also proves that the server responds within the timeout.
    fn open(&self) -> RedisResult<RedisConnection> {
        let mut connection = self.client.get_connection_with_timeout(CONNECT_TIMEOUT)?;
        connection.set_read_timeout(Some(self.timeout))?;
        connection.set_write_timeout(Some(self.timeout))?;
        let script_sha = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query(&mut connection)?;
        Ok(RedisConnection { connection, script_sha })
    }

    /// Counts an error, closes the connection and schedules the next attempt. Logs only the first error in a row, and
    /// only its code: its text may quote what was sent.
    fn on_error(&mut self, error: &RedisError) {
        self.is_up.store(false, Ordering::Release);
        self.metrics.up.set(0);
        self.connection = None;
        self.metrics.count_error(error);
        self.next_attempt = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        if !std::mem::replace(&mut self.has_logged_outage, true) {
            let code = error.code().unwrap_or_else(|| error.category());
            tracing::warn!(error = code, "the Redis server of the rate limiter is unavailable");
        }
    }
}
