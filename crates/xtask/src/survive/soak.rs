//! Mixed load for a long time: memory, descriptors and threads stay what they are.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::gauge::{self, Sample};
use super::judge;
use super::mixture::MIXTURE;
use crate::server::Server;
use crate::test::report::Suite;
use crate::workspace::Workspace;

/// Small, so that it is full before the measurement begins and evicts during it.
const CACHE: &str = "1MiB";
/// Until buffers, stacks and the allocator's arenas are as large as this load makes them; at most a quarter.
const WARM_UP: Duration = Duration::from_secs(60);
/// How often the server is looked at.
const PULSE: Duration = Duration::from_secs(1);
/// How long closed connections and idle threads may take to go.
const SETTLE: Duration = Duration::from_secs(15);
/// Megabytes a minute by which a line through two minutes of samples may rise: the noise of a short run.
const SHORT_SLOPE: f64 = 3.0;
/// As much of a run of twenty minutes.
const LONG_SLOPE: f64 = 0.2;
const LONG: Duration = Duration::from_secs(15 * 60);

/// Loads a server for `span`, warm-up included, and judges what it held.
///
/// # Errors
/// The server does not start.
pub(super) fn run(workspace: &Workspace, span: Duration, suite: &mut Suite) -> Result<()> {
    let server = Server::start(workspace, &["--cache-memory".to_owned(), CACHE.to_owned()])?;
    let (id, address) = (server.id(), server.address()?);
    let warm_up = WARM_UP.min(span / 4);
    let (warm, _) = load(id, address, warm_up, 8)?;
    let before = settled(id, None)?;
    println!(
        "  after {:.0} s of warm-up and {warm} requests: {:.0} MB, of which {:.0} allocated; {} descriptors, {} threads",
        warm_up.as_secs_f64(),
        before.resident,
        before.allocated,
        before.descriptors,
        before.threads
    );

    let (sent, samples) = load(id, address, span.saturating_sub(warm_up), 16)?;
    let slope = |of: fn(&Sample) -> f64| {
        let point = |(at, sample): &(Duration, Sample)| (at.as_secs_f64() / 60.0, of(sample));
        gauge::slope(&samples.iter().map(point).collect::<Vec<_>>())
    };
    let range = |of: fn(&Sample) -> f64| {
        let values = samples.iter().map(|(_, sample)| of(sample));
        let (low, high) =
            values.fold((f64::INFINITY, 0.0), |(low, high), value| (value.min(low), value.max(high)));
        format!("{low:.1} to {high:.1} MB")
    };
    let bound = if span >= LONG { LONG_SLOPE } else { SHORT_SLOPE };
    judge(suite, sent > 0, format!("{sent} requests, each with the status that was due to it"));
    let allocated = slope(|sample| sample.allocated);
    judge(
        suite,
        allocated <= bound,
        format!(
            "{} allocated, slope {allocated:+.2} MB a minute (at most {bound}); with the pages of the model's files {}, \
             slope {:+.2}",
            range(|sample| sample.allocated),
            range(|sample| sample.resident),
            slope(|sample| sample.resident)
        ),
    );
    let most = |of: fn(&Sample) -> usize| samples.iter().map(|(_, sample)| of(sample)).max().unwrap_or(0);
    let after = settled(id, Some(before))?;
    judge(
        suite,
        after.descriptors <= before.descriptors,
        format!(
            "{} descriptors before and {} after, at most {} meanwhile",
            before.descriptors,
            after.descriptors,
            most(|sample| sample.descriptors)
        ),
    );
    judge(
        suite,
        after.threads <= before.threads,
        format!(
            "{} threads before and {} after, at most {} meanwhile",
            before.threads,
            after.threads,
            most(|sample| sample.threads)
        ),
    );
    server.stop()
}

/// Lets every client of the mixture loose for `span`; yields the number of requests, and looks at the process by
/// the second. The clients' texts are of `series` and the next.
fn load(id: u32, address: SocketAddr, span: Duration, series: u32) -> Result<(u64, Vec<(Duration, Sample)>)> {
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (series..)
            .zip(MIXTURE)
            .map(|(series, habit)| {
                let (over, sent) = (&over, &sent);
                scope.spawn(move || {
                    let followed = habit.follow(address, series, over, sent);
                    // One client that fails ends the run for all: no use in going on for minutes.
                    if followed.is_err() {
                        over.store(true, Ordering::Relaxed);
                    }
                    followed
                })
            })
            .collect();
        let mut samples = Vec::new();
        let mut looked = Ok(());
        while looked.is_ok() && started.elapsed() < span && !over.load(Ordering::Relaxed) {
            thread::sleep(PULSE.min(span.saturating_sub(started.elapsed())));
            looked = gauge::look(id).map(|sample| samples.push((started.elapsed(), sample)));
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().ok().context("a client panicked")??;
        }
        looked?;
        Ok((sent.load(Ordering::Relaxed), samples))
    })
}

/// The process once its clients have gone: as soon as it holds no more than `before`, or after a while.
fn settled(id: u32, before: Option<Sample>) -> Result<Sample> {
    let started = Instant::now();
    let mut last = gauge::look(id)?;
    let mut since = Instant::now();
    loop {
        thread::sleep(PULSE / 4);
        let now = gauge::look(id)?;
        if (now.descriptors, now.threads) != (last.descriptors, last.threads) {
            since = Instant::now();
        }
        last = now;
        let calm = match before {
            Some(before) => now.descriptors <= before.descriptors && now.threads <= before.threads,
            // Idle threads of the pool for blocking work end after ten seconds.
            None => since.elapsed() > Duration::from_secs(2),
        };
        if calm || started.elapsed() > SETTLE {
            return Ok(now);
        }
    }
}
