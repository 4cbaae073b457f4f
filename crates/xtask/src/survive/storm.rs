//! Requests at a rate of their own, whatever becomes of them: what a server meets when its clients do not wait.
//!
//! Clients take their turns from one timetable. A client that still waits for an answer misses its turns to the
//! others, so there must be enough of them; how late the requests were says whether there were.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::client::{Connection, request};
use crate::bench::texts::{Kind, text};

/// A client's thread needs next to no stack.
const STACK: usize = 256 << 10;

/// What is sent, and how fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storm {
    pub(super) address: SocketAddr,
    /// Requests a second over all clients; infinite for as fast as answers come.
    pub(super) rate: f64,
    pub(super) clients: usize,
    /// Mixed texts of one request.
    pub(super) texts: usize,
    /// The series of the texts, so that no two storms send the same.
    pub(super) series: u32,
    pub(super) span: Duration,
}

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) status: u16,
    pub(super) retry_after: Option<u64>,
    /// From the first byte sent to the last received.
    pub(super) milliseconds: f64,
    /// How long after its turn the request was sent.
    pub(super) late: f64,
}

impl Storm {
    /// Sends until the time is over, and waits for the last answer.
    ///
    /// # Errors
    /// A connection fails: whatever it refuses, a server that survives answers.
    pub(super) fn run(&self) -> Result<Vec<Fate>> {
        let connections: Vec<Connection> =
            (0..self.clients).map(|_| Connection::open(self.address)).collect::<Result<_>>()?;
        let turns = AtomicU32::new(0);
        let started = Instant::now();
        thread::scope(|scope| {
            let mut threads = Vec::with_capacity(self.clients);
            for mut connection in connections {
                let turns = &turns;
                let client = move || self.client(&mut connection, turns, started);
                let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, client);
                threads.push(thread.with_context(|| format!("cannot start {} clients", self.clients))?);
            }
            let mut fates = Vec::new();
            for thread in threads {
                fates.extend(thread.join().ok().context("a client panicked")??);
            }
            Ok(fates)
        })
    }

    fn client(&self, connection: &mut Connection, turns: &AtomicU32, started: Instant) -> Result<Vec<Fate>> {
        let mut fates = Vec::new();
        loop {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            let due = started + Duration::from_secs_f64(f64::from(turn) / self.rate);
            let end = started + self.span;
            if due >= end || Instant::now() >= end {
                return Ok(fates);
            }
            let first = turn * self.texts as u32;
            let texts: Vec<_> =
                (first..first + self.texts as u32).map(|n| text(Kind::Mixed, self.series, n)).collect();
            let body = request(&texts);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            let head = connection.ask(&body)?;
            fates.push(Fate {
                status: head.status,
                retry_after: head.retry_after,
                milliseconds: sent.elapsed().as_secs_f64() * 1e3,
                late: sent.saturating_duration_since(due).as_secs_f64() * 1e3,
            });
        }
    }
}
