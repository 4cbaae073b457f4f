//! Ten times as many requests as the server can answer: admitted ones are answered in time, the others are rejected at
//! once, and after that the server is as fast as before.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::client::{Client, request};
use bench::stats::{median, percentile};
use bench::texts::{TextKind, text};
use testkit::process_stats::{self, Sample};
use testkit::{Server, http, wait};

use crate::open_loop::{OpenLoopLoad, RequestOutcome};
use crate::{Run, millis};

/// Texts per request.
const TEXTS: usize = 8;
/// Arrival rate as a multiple of the capacity.
const OVERLOAD: f64 = 10.0;
/// Deadline of each request.
const DEADLINE: Duration = Duration::from_secs(2);
/// The first bucket of the server's histogram above the deadline.
const DEADLINE_BUCKET: &str = "2.56";
/// Maximum time from the server's response to the client's last read on a busy machine.
const MAX_DELIVERY_MS: f64 = 500.0;
/// Time of a rejection on an idle client machine: printed, not judged.
const REJECTION_GOAL_MS: f64 = 50.0;
/// Maximum p99 of the rejections' times.
const MAX_REJECTION_P99_MS: f64 = 500.0;
/// Maximum growth of memory from the middle to the end of the overload, in megabytes.
const MAX_GROWTH_MB: f64 = 16.0;
/// Maximum time to the first response after the overload.
const MAX_RECOVERY_MS: f64 = 1000.0;
/// Limit of the wait for the first response after the overload.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of the samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Gauges that are 0 on an idle server.
const IDLE_GAUGES: [&str; 4] = [
    "embedgate_requests_waiting",
    "embedgate_requests_running",
    "embedgate_queue_tokens",
    "embedgate_tokens_in_flight",
];

/// Measures the capacity, sends ten times as many requests, and judges the results.
pub(crate) fn run(run: &mut Run<'_>, duration: Duration) -> Result<()> {
    let server = run.start_server(&["--request-timeout", &format!("{}s", DEADLINE.as_secs())])?;
    let address = server.address();
    let mut probe = Probe::open(address)?;
    let idle = probe.idle_latency()?;

    let cores = thread::available_parallelism().map_or(1, usize::from);
    let closed_loop = OpenLoopLoad {
        address,
        rate: f64::INFINITY,
        clients: (2 * cores).max(4),
        texts: TEXTS,
        series: 1,
        duration: Duration::from_secs(3),
    };
    let calibration = closed_loop.run()?;
    let answered = calibration.iter().filter(|outcome| outcome.status == 200).count();
    ensure!(answered > 0, "nothing was answered while the capacity was measured");
    let capacity = answered as f64 / closed_loop.duration.as_secs_f64();
    println!(
        "  capacity {capacity:.0} requests of {TEXTS} texts per second, {idle:.1} ms for one text when idle"
    );

    let rate = OVERLOAD * capacity;
    // Enough clients, if an admitted request occupies one for up to the deadline and a rejected one for 50 ms.
    let clients = (capacity * DEADLINE.as_secs_f64() * 1.25 + rate * 0.05) as usize + 16;
    let load = OpenLoopLoad { rate, clients: clients.clamp(64, 1024), series: 2, duration, ..closed_loop };
    let (outcomes, samples, recovery) = overload(&server, load, &mut probe)?;
    let sent = calibration.len() + outcomes.len() + probe.sent;
    OverloadResult { outcomes, samples, recovery, load, capacity, idle }.judge(run);
    judge_counters(run, address, sent)?;
    let after = probe.idle_latency()?;
    run.judge_time(
        after < 4.0 * idle + 20.0,
        format!("one text takes {after:.1} ms again ({idle:.1} ms before)"),
    );
    server.stop()
}

/// Checks by the server's metrics that no request is lost, that no answer is late, and that the gauges return to 0.
fn judge_counters(run: &mut Run<'_>, address: SocketAddr, sent: usize) -> Result<()> {
    let gauges = || -> Option<String> {
        let metrics = http::get(address, "/metrics").ok()?;
        let is_zero = |name: &&str| sum(metrics.text(), name, "") == 0.0;
        IDLE_GAUGES.iter().all(is_zero).then(|| metrics.text().to_owned())
    };
    let Some(metrics) = wait::poll(RECOVERY_TIMEOUT, gauges) else {
        run.judge(false, format!("{IDLE_GAUGES:?} were not 0 within {RECOVERY_TIMEOUT:?}"));
        return Ok(());
    };
    run.judge(true, format!("{} are 0 again", IDLE_GAUGES.join(", ")));
    const DURATION: &str = "embedgate_request_duration_seconds";
    let counted = sum(&metrics, &format!("{DURATION}_count"), "");
    run.judge(counted == sent as f64, format!("the server counted {counted} of {sent} requests"));
    let success = "outcome=\"success\"";
    let answered = sum(&metrics, &format!("{DURATION}_count"), success);
    let in_time =
        sum(&metrics, &format!("{DURATION}_bucket"), &format!("{success},le=\"{DEADLINE_BUCKET}\""));
    run.judge(
        answered > 0.0 && in_time == answered,
        format!("by the server's clock, {in_time} of {answered} answers took at most {DEADLINE_BUCKET} s"),
    );
    Ok(())
}

/// Sum of a metric's series whose labels contain `labels`.
fn sum(metrics: &str, name: &str, labels: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (series, value) = rest.rsplit_once(' ')?;
        let is_wanted = (series.is_empty() || series.starts_with('{')) && series.contains(labels);
        is_wanted.then(|| value.parse::<f64>().ok())?
    };
    metrics.lines().filter_map(value).sum()
}

/// Runs the load and samples the server; then measures the time in milliseconds until the first response after it.
fn overload(
    server: &Server,
    load: OpenLoopLoad,
    probe: &mut Probe,
) -> Result<(Vec<RequestOutcome>, ServerSamples, f64)> {
    let stop = AtomicBool::new(false);
    let (id, mut readiness_probe) = (server.id(), Probe::open(server.address())?);
    thread::scope(|scope| {
        let stop = StopGuard(&stop);
        let samples = scope.spawn(|| ServerSamples::record(id, &mut readiness_probe, stop.0));
        let outcomes = scope.spawn(move || load.run());
        thread::sleep(load.duration);
        let ended = Instant::now();
        let first = wait::poll(RECOVERY_TIMEOUT, || probe.embed().ok());
        let recovery = millis(ended.elapsed());
        first.with_context(|| {
            format!("nothing was answered within {RECOVERY_TIMEOUT:?} after the overload")
        })?;
        let outcomes = outcomes.join().ok().context("the load panicked")??;
        drop(stop);
        Ok((outcomes, samples.join().ok().context("the sampling thread panicked")??, recovery))
    })
}

/// Stops the sampling when dropped, also after an error.
struct StopGuard<'a>(&'a AtomicBool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection for single requests.
struct Probe {
    client: Client,
    /// Embeddings requests so far, which also makes each text new.
    sent: usize,
}

impl Probe {
    fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self { client: Client::open(address)?, sent: 0 })
    }

    /// Milliseconds until a new text is answered.
    fn embed(&mut self) -> Result<f64> {
        self.sent += 1;
        let request = request(&[text(TextKind::Short, 3, self.sent as u32)]);
        let sent = Instant::now();
        self.client.embed(&request, 1)?;
        Ok(millis(sent.elapsed()))
    }

    /// Median latency of one text in milliseconds, without other clients.
    fn idle_latency(&mut self) -> Result<f64> {
        let times = (0..20).map(|_| self.embed()).collect::<Result<Vec<_>>>();
        Ok(median(&times.context("one text without other clients")?))
    }

    /// Milliseconds until `/readyz` answers 200; infinite for another status.
    fn readyz(&mut self) -> Result<f64> {
        let sent = Instant::now();
        let status = self.client.ask(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")?;
        Ok(if status == 200 { millis(sent.elapsed()) } else { f64::INFINITY })
    }
}

/// Samples of the server during the overload.
struct ServerSamples {
    resources: Vec<Sample>,
    /// Milliseconds of each `/readyz`; infinite for a status other than 200.
    readyz: Vec<f64>,
}

impl ServerSamples {
    fn record(id: u32, probe: &mut Probe, stop: &AtomicBool) -> Result<Self> {
        let mut samples = Self { resources: Vec::new(), readyz: Vec::new() };
        while !stop.load(Ordering::Relaxed) {
            samples.resources.push(process_stats::sample(id)?);
            samples.readyz.push(probe.readyz()?);
            thread::sleep(SAMPLE_INTERVAL);
        }
        Ok(samples)
    }
}

struct OverloadResult {
    outcomes: Vec<RequestOutcome>,
    samples: ServerSamples,
    /// Milliseconds until the first response after the overload.
    recovery: f64,
    load: OpenLoopLoad,
    /// Answered requests per second at the full closed-loop load.
    capacity: f64,
    /// Median latency of one text on the idle server, in milliseconds.
    idle: f64,
}

impl OverloadResult {
    fn judge(&self, run: &mut Run<'_>) {
        let deadline = millis(DEADLINE);
        let duration = self.load.duration.as_secs_f64();
        let (answered, rest): (Vec<RequestOutcome>, Vec<RequestOutcome>) =
            self.outcomes.iter().partition(|outcome| outcome.status == 200);
        // An admitted request that misses its deadline is answered when the deadline passes, a rejected one at once.
        let (missed, rejected): (Vec<RequestOutcome>, Vec<RequestOutcome>) =
            rest.iter().partition(|outcome| outcome.status == 503 && outcome.milliseconds > 0.9 * deadline);
        let milliseconds = |outcomes: &[RequestOutcome]| {
            outcomes.iter().map(|outcome| outcome.milliseconds).collect::<Vec<_>>()
        };
        let factor = self.outcomes.len() as f64 / duration / self.capacity;
        let delays: Vec<f64> = self.outcomes.iter().map(|outcome| outcome.schedule_delay).collect();
        println!(
            "  {} requests in {duration:.0} s from {} clients; 99 % were sent at most {:.0} ms behind the schedule",
            self.outcomes.len(),
            self.load.clients,
            percentile(&delays, 0.99)
        );
        // The clients share the cores with the server, and slow it down.
        run.judge_time(factor > OVERLOAD / 2.0, format!("the load was {factor:.1} times the capacity"));

        let times = milliseconds(&answered);
        let slowest = percentile(&times, 1.0);
        run.judge_time(
            slowest <= deadline + MAX_DELIVERY_MS,
            format!(
                "{} were answered, {:.0} % of the capacity, within {deadline:.0} ms: p50 {:.0} ms, p99 {:.0} ms, \
                 slowest {slowest:.0} ms",
                times.len(),
                times.len() as f64 / duration / self.capacity * 100.0,
                percentile(&times, 0.5),
                percentile(&times, 0.99)
            ),
        );
        let admitted = (answered.len() + missed.len()).max(1);
        run.judge_time(
            missed.len() * 100 <= admitted,
            format!("{} of {admitted} admitted requests missed their deadline", missed.len()),
        );
        let correct =
            rejected.iter().filter(|outcome| outcome.status == 503 && outcome.has_retry_after).count();
        run.judge(
            correct == rejected.len() && !rejected.is_empty() && !answered.is_empty(),
            format!("{correct} of {} rejections were 503 with retry-after", rejected.len()),
        );
        let times = milliseconds(&rejected);
        let prompt =
            times.iter().filter(|&&time| time <= REJECTION_GOAL_MS).count() as f64 / times.len() as f64;
        run.judge_time(
            percentile(&times, 0.99) <= MAX_REJECTION_P99_MS,
            format!(
                "rejections took p50 {:.1} ms, p99 {:.1} ms, at most {:.0} ms; {:.2} % within \
                 {REJECTION_GOAL_MS:.0} ms",
                percentile(&times, 0.5),
                percentile(&times, 0.99),
                percentile(&times, 1.0),
                prompt * 100.0
            ),
        );
        self.judge_server(run);
    }

    fn judge_server(&self, run: &mut Run<'_>) {
        let ServerSamples { resources: samples, readyz } = &self.samples;
        let third = samples.len() / 3;
        let peak = |samples: &[Sample]| samples.iter().map(|sample| sample.allocated).fold(0.0, f64::max);
        let (middle, end) = (peak(&samples[third..2 * third]), peak(&samples[2 * third..]));
        run.judge(
            end - middle <= MAX_GROWTH_MB,
            format!(
                "{:.0} MB allocated at the start, at most {middle:.0} MB in the middle third and {end:.0} MB in the \
                 last",
                samples.first().map_or(f64::NAN, |sample| sample.allocated)
            ),
        );
        let slowest = percentile(readyz, 1.0);
        run.judge(slowest.is_finite(), format!("/readyz answered 200 throughout, within {slowest:.0} ms"));
        run.judge_time(
            self.recovery <= MAX_RECOVERY_MS,
            format!(
                "the first request after the overload was answered after {:.0} ms ({:.1} ms when idle)",
                self.recovery, self.idle
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let metrics = "a{m=\"x\",le=\"1\"} 2\na{m=\"y\",le=\"1\"} 3\na_count 7\na 1\n";
        assert_eq!((sum(metrics, "a", ""), sum(metrics, "a", "m=\"y\"")), (6.0, 3.0));
        assert_eq!((sum(metrics, "a_count", ""), sum(metrics, "b", "")), (7.0, 0.0));
    }
}
