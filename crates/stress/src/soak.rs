//! Mixed load for a long time: memory, descriptors and threads must not grow.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use testkit::process_stats::{self, Sample};

use crate::Run;
use crate::workload::WORKLOAD;

/// Small, so that it is full before the measurement begins and evicts during it.
const CACHE: &str = "1MiB";
/// Limit of the warm-up, in which buffers, stacks and the allocator's arenas reach their size; at most a quarter of the
/// run.
const MAX_WARM_UP: Duration = Duration::from_secs(60);
/// Interval of the samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Limit for closed connections and idle threads to end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle threads of the pool for blocking work end after ten seconds; before that, the numbers change.
const STABLE_TIME: Duration = Duration::from_secs(2);
/// Maximum slope of allocated memory in a run of two minutes, in megabytes per minute: the noise of a short run.
const MAX_SHORT_SLOPE: f64 = 3.0;
/// Maximum slope in a run of at least [`LONG`].
const MAX_LONG_SLOPE: f64 = 0.2;
const LONG: Duration = Duration::from_secs(15 * 60);

/// Loads a server for `duration`, warm-up included, and judges its resources.
pub(crate) fn run(run: &mut Run<'_>, duration: Duration) -> Result<()> {
    let server = run.start_server(&["--cache-memory", CACHE])?;
    let (id, address) = (server.id(), server.address());
    let warm_up = MAX_WARM_UP.min(duration / 4);
    let (warm, _) = load(id, address, warm_up, 8)?;
    let before = settled(id, None)?;
    println!(
        "  after {:.0} s of warm-up and {warm} requests: {:.0} MB, of which {:.0} allocated; {} descriptors, \
         {} threads",
        warm_up.as_secs_f64(),
        before.resident,
        before.allocated,
        before.descriptors,
        before.threads
    );

    let (sent, samples) = load(id, address, duration.saturating_sub(warm_up), 16)?;
    let slope = |of: fn(&Sample) -> f64| {
        let point = |(at, sample): &(Duration, Sample)| (at.as_secs_f64() / 60.0, of(sample));
        process_stats::slope(&samples.iter().map(point).collect::<Vec<_>>())
    };
    let range = |of: fn(&Sample) -> f64| {
        let values = samples.iter().map(|(_, sample)| of(sample));
        let (low, high) =
            values.fold((f64::INFINITY, 0.0), |(low, high), value| (value.min(low), value.max(high)));
        format!("{low:.1} to {high:.1} MB")
    };
    let max_slope = if duration >= LONG { MAX_LONG_SLOPE } else { MAX_SHORT_SLOPE };
    run.judge(sent > 0, format!("{sent} requests, each with the expected status"));
    let allocated = slope(|sample| sample.allocated);
    run.judge(
        allocated <= max_slope,
        format!(
            "{} allocated, slope {allocated:+.2} MB per minute (at most {max_slope}); with the pages of the model's \
             files {}, slope {:+.2}",
            range(|sample| sample.allocated),
            range(|sample| sample.resident),
            slope(|sample| sample.resident)
        ),
    );
    let max = |of: fn(&Sample) -> usize| samples.iter().map(|(_, sample)| of(sample)).max().unwrap_or(0);
    let after = settled(id, Some(before))?;
    for (what, count) in [
        ("descriptors", (|sample| sample.descriptors) as fn(&Sample) -> usize),
        ("threads", |sample| sample.threads),
    ] {
        let (before, after) = (count(&before), count(&after));
        run.judge(after <= before, format!("{before} {what} before, {after} after, at most {}", max(count)));
    }
    server.stop()
}

/// Runs every client of the workload for `duration`; returns the number of requests, and a sample per second. The
/// clients' texts are of `series` and the following ones.
fn load(
    id: u32,
    address: SocketAddr,
    duration: Duration,
    series: u32,
) -> Result<(u64, Vec<(Duration, Sample)>)> {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (series..)
            .zip(WORKLOAD)
            .map(|(series, behavior)| {
                let (stop, sent) = (&stop, &sent);
                scope.spawn(move || {
                    let result = behavior.run(address, series, stop, sent);
                    // A failed client ends the run, instead of minutes later.
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        let mut samples = Vec::new();
        let mut sampled = Ok(());
        while sampled.is_ok() && started.elapsed() < duration && !stop.load(Ordering::Relaxed) {
            thread::sleep(SAMPLE_INTERVAL.min(duration.saturating_sub(started.elapsed())));
            sampled = process_stats::sample(id).map(|sample| samples.push((started.elapsed(), sample)));
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().ok().context("a client panicked")??;
        }
        sampled?;
        Ok((sent.load(Ordering::Relaxed), samples))
    })
}

/// A sample after the clients have left: as soon as it is not above `before`, or stable, or after the limit.
fn settled(id: u32, before: Option<Sample>) -> Result<Sample> {
    let started = Instant::now();
    let mut last = process_stats::sample(id)?;
    let mut changed = Instant::now();
    loop {
        thread::sleep(SAMPLE_INTERVAL / 4);
        let now = process_stats::sample(id)?;
        if (now.descriptors, now.threads) != (last.descriptors, last.threads) {
            changed = Instant::now();
        }
        last = now;
        let is_settled = match before {
            Some(before) => now.descriptors <= before.descriptors && now.threads <= before.threads,
            None => changed.elapsed() > STABLE_TIME,
        };
        if is_settled || started.elapsed() > SETTLE_TIMEOUT {
            return Ok(now);
        }
    }
}
