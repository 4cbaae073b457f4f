//! Open-loop load: requests at a given arrival rate, independent of the responses (as wrk2 and k6's arrival-rate
//! executors do).
//!
//! Clients take their slots from one schedule. A client that still waits for a response leaves its slots to the others,
//! so there must be enough clients; the requests' delay behind the schedule shows if there were too few.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::client::{Client, request};
use bench::texts::{TextKind, text};

use crate::millis;

/// Stack of a client's thread.
const STACK_BYTES: usize = 256 << 10;

/// Parameters of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenLoopLoad {
    pub(crate) address: SocketAddr,
    /// Requests per second over all clients; infinite for as fast as responses arrive.
    pub(crate) rate: f64,
    pub(crate) clients: usize,
    /// Mixed texts per request.
    pub(crate) texts: usize,
    /// Series of the texts: loads of different series send different texts.
    pub(crate) series: u32,
    pub(crate) duration: Duration,
}

/// Result of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOutcome {
    pub(crate) status: u16,
    pub(crate) has_retry_after: bool,
    /// From the first byte sent to the last byte received.
    pub(crate) milliseconds: f64,
    /// Delay of the request behind the schedule, in milliseconds.
    pub(crate) schedule_delay: f64,
}

impl OpenLoopLoad {
    /// Sends for the whole duration, and waits for the last response. A failed connection is an error: an overloaded
    /// server rejects requests, but it answers them.
    pub(crate) fn run(&self) -> Result<Vec<RequestOutcome>> {
        let clients: Vec<Client> =
            (0..self.clients).map(|_| Client::open(self.address)).collect::<Result<_>>()?;
        let slots = AtomicU32::new(0);
        let started = Instant::now();
        thread::scope(|scope| {
            let mut threads = Vec::with_capacity(self.clients);
            for mut client in clients {
                let slots = &slots;
                let run = move || self.run_client(&mut client, slots, started);
                let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run);
                threads.push(thread.with_context(|| format!("cannot start {} clients", self.clients))?);
            }
            let mut outcomes = Vec::new();
            for thread in threads {
                outcomes.extend(thread.join().ok().context("a client panicked")??);
            }
            Ok(outcomes)
        })
    }

    fn run_client(
        &self,
        client: &mut Client,
        slots: &AtomicU32,
        started: Instant,
    ) -> Result<Vec<RequestOutcome>> {
        let end = started + self.duration;
        let mut outcomes = Vec::new();
        loop {
            let slot = slots.fetch_add(1, Ordering::Relaxed);
            let due = started + Duration::from_secs_f64(f64::from(slot) / self.rate);
            if due >= end || Instant::now() >= end {
                return Ok(outcomes);
            }
            let first = slot * self.texts as u32;
            let texts: Vec<_> =
                (first..first + self.texts as u32).map(|n| text(TextKind::Mixed, self.series, n)).collect();
            let body = request(&texts);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            let status = client.ask(&body)?;
            outcomes.push(RequestOutcome {
                status,
                has_retry_after: client.reply().header("retry-after").is_some(),
                milliseconds: millis(sent.elapsed()),
                schedule_delay: millis(sent.saturating_duration_since(due)),
            });
        }
    }
}
