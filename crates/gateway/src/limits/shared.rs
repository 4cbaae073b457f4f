//! Limits that several servers share, in a Redis or Valkey server: one script for one request, atomic there.
//!
//! HTTP threads never touch the network: they hand a question to one thread, which sends all that wait together, and
//! wait for its answer without blocking, a few milliseconds at most. Any error closes the connection, and until
//! another one is open every question is answered at once: away.

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

use super::bucket::{Amounts, Rates};
use crate::{
    background::{Background, Stop},
    config::RedisUrl,
    metrics::RedisMetrics,
};

const SCRIPT: &str = include_str!("bucket.lua");
/// Before each caller's number, so that a server may be used for other things too; the digit changes with the script.
const PREFIX: &str = "embedgate:limits:1:";
/// Questions that wait; with more, the server counts as away.
const WAITING: usize = 4096;
/// Questions that are sent together.
const TOGETHER: usize = 128;
/// Longest time for connecting.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between an error and the next attempt to connect, doubled with each error. Attempts delay nobody.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often the thread looks up when there is nothing to do.
const TICK: Duration = Duration::from_millis(50);

/// What the server said to a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answer {
    /// Whether the cost was taken.
    pub(super) taken: bool,
    /// What is left, after that.
    pub(super) levels: Amounts,
}

/// The shared buckets, from here.
pub(super) struct Shared {
    asks: SyncSender<Ask>,
    up: Arc<AtomicBool>,
    timeout: Duration,
}

struct Ask {
    caller: u64,
    cost: Amounts,
    /// Nobody waits for the answer where there is none; the cost is then taken whatever is left.
    reply: Option<oneshot::Sender<Answer>>,
}

impl Shared {
    /// Buckets of these rates in the server at `url`, which need not be there; they work for as long as the second
    /// value lives.
    ///
    /// # Errors
    /// When the system gives no thread, or the address is none, which is not quoted: it may hold a password.
    pub(super) fn start(
        url: &RedisUrl,
        timeout: Duration,
        rates: Rates,
        metrics: RedisMetrics,
    ) -> io::Result<(Self, Background)> {
        let client = Client::open(url.secret())
            .map_err(|_| io::Error::other(format!("{url} is no address of a Redis server")))?;
        let (asks, receiver) = sync_channel(WAITING);
        let up = Arc::new(AtomicBool::new(false));
        let mut errand = Errand {
            client,
            timeout,
            rates,
            metrics,
            up: Arc::clone(&up),
            link: None,
            next: Instant::now(),
            pause: FIRST_PAUSE,
            said: false,
        };
        let thread = Background::start("limits", move |stop| errand.run(stop, &receiver))?;
        Ok((Self { asks, up, timeout }, thread))
    }

    /// Takes `cost` if there is enough; `None` when the server is away.
    pub(super) async fn ask(&self, caller: u64, cost: Amounts) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Ask { caller, cost, reply: Some(reply) }).then_some(())?;
        timeout(self.timeout, answer).await.ok()?.ok()
    }

    /// Takes `cost` whatever there is, or gives it back where it is negative, some time soon. Lost when the server is
    /// away.
    pub(super) fn charge(&self, caller: u64, cost: Amounts) {
        self.hand_over(Ask { caller, cost, reply: None });
    }

    fn hand_over(&self, ask: Ask) -> bool {
        self.up.load(Ordering::Acquire) && self.asks.try_send(ask).is_ok()
    }
}

/// The thread's own.
struct Errand {
    client: Client,
    timeout: Duration,
    rates: Rates,
    metrics: RedisMetrics,
    up: Arc<AtomicBool>,
    link: Option<Link>,
    /// When to connect again.
    next: Instant,
    pause: Duration,
    /// Whether it was logged that the server is away.
    said: bool,
}

/// A connection, and what the script is called there.
struct Link {
    connection: Connection,
    script: String,
}

impl Errand {
    fn run(&mut self, stop: &Stop, asks: &Receiver<Ask>) {
        // What was taken for somebody who did not wait for the answer is to be given back.
        let mut returns: Vec<Ask> = Vec::new();
        while !stop.asked() {
            if self.link.is_none() && Instant::now() >= self.next {
                self.connect();
            }
            let first = match returns.pop() {
                Some(ask) => ask,
                None => match asks.recv_timeout(TICK) {
                    Ok(ask) => ask,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            let left = |ask: &Ask| ask.reply.as_ref().is_some_and(oneshot::Sender::is_closed);
            let together: Vec<Ask> = std::iter::once(first)
                .chain(returns.drain(..))
                .chain(asks.try_iter())
                .take(TOGETHER)
                .filter(|ask| !left(ask))
                .collect();
            returns = self.carry_out(together);
        }
    }

    /// Asks the server; what is to be given back is returned. Without an answer whoever asked finds the server away.
    fn carry_out(&mut self, asks: Vec<Ask>) -> Vec<Ask> {
        let Some(link) = self.link.as_mut().filter(|_| !asks.is_empty()) else { return Vec::new() };
        let mut pipeline = redis::pipe();
        for ask in &asks {
            let whatever = u8::from(ask.reply.is_none());
            let (limits, cost) = (self.rates.0, ask.cost);
            let command = pipeline.cmd("EVALSHA").arg(&link.script).arg(1);
            command.arg(format!("{PREFIX}{:016x}", ask.caller));
            command.arg(limits.requests).arg(limits.tokens).arg(cost.requests).arg(cost.tokens).arg(whatever);
        }
        let answers: Vec<(u8, f64, f64)> = match pipeline.query(&mut link.connection) {
            Ok(answers) => answers,
            Err(error) => {
                self.lost(&error);
                return Vec::new();
            }
        };
        let mut returns = Vec::new();
        for (Ask { caller, cost, reply }, (taken, requests, tokens)) in asks.into_iter().zip(answers) {
            let answer = Answer { taken: taken == 1, levels: Amounts { requests, tokens } };
            let unheard = reply.is_some_and(|reply| reply.send(answer).is_err());
            if unheard && answer.taken {
                let cost = Amounts { requests: -cost.requests, tokens: -cost.tokens };
                returns.push(Ask { caller, cost, reply: None });
            }
        }
        returns
    }

    fn connect(&mut self) {
        match self.open() {
            Ok(link) => {
                self.link = Some(link);
                self.pause = FIRST_PAUSE;
                self.metrics.up.set(1);
                self.up.store(true, Ordering::Release);
                if std::mem::take(&mut self.said) {
                    tracing::info!("the server of the shared limits answers again");
                }
            }
            Err(error) => self.lost(&error),
        }
    }

    /// Opens a connection and sees that the server answers on it, as quickly as it will have to.
    fn open(&self) -> RedisResult<Link> {
        let mut connection = self.client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(self.timeout))?;
        connection.set_write_timeout(Some(self.timeout))?;
        let script = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query(&mut connection)?;
        Ok(Link { connection, script })
    }

    /// Counts an error, closes the connection and puts the next attempt off; only the first error is logged. Its text
    /// is not: it could hold what was sent.
    fn lost(&mut self, error: &RedisError) {
        self.up.store(false, Ordering::Release);
        self.metrics.up.set(0);
        self.link = None;
        self.metrics.count_error(error);
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if !std::mem::replace(&mut self.said, true) {
            let code = error.code().unwrap_or_else(|| error.category());
            tracing::warn!(error = code, "the server of the shared limits is away");
        }
    }
}
