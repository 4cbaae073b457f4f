//! Ten times as many requests as the server can answer: who is let in is answered in time, the others are told at
//! once, and when it is over it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::gauge::{self, Sample};
use super::judge;
use super::storm::{Fate, Storm};
use crate::bench::client::{Connection, request};
use crate::bench::stats::{median, percentile};
use crate::bench::texts::{Kind, text};
use crate::server::Server;
use crate::test::report::Suite;
use crate::workspace::Workspace;

/// Texts of one request.
const TEXTS: usize = 8;
/// How much more than its capacity the server is asked for.
const TIMES: f64 = 10.0;
/// What each request is given.
const DEADLINE: Duration = Duration::from_secs(2);
/// An answer is on its way when the deadline passes; on a busy machine its client may read it later.
const DELIVERY: Duration = Duration::from_millis(500);
/// What is promised of a refusal on a machine that is not also the clients': printed, not tested.
const PROMPT: f64 = 50.0;
/// What is tested: 99 of 100 refusals come within this many milliseconds, on any machine that runs tests.
const PROMPT_ANYWHERE: f64 = 500.0;
/// Memory may grow by this many megabytes from the middle of the storm to its end.
const FLAT: f64 = 16.0;
/// When the first request after the storm is answered, in milliseconds.
const RECOVERED: f64 = 1000.0;
/// How often the server is looked at.
const PULSE: Duration = Duration::from_millis(100);

/// Finds out what the server can do, asks for ten times that, and judges.
///
/// # Errors
/// The server does not start, or a connection to it fails.
pub(super) fn run(workspace: &Workspace, span: Duration, suite: &mut Suite) -> Result<()> {
    let seconds = format!("{}s", DEADLINE.as_secs());
    let server = Server::start(workspace, &["--request-timeout".to_owned(), seconds])?;
    let address = server.address()?;
    let mut probe = Probe::open(&server)?;
    let idle = probe.alone()?;

    let cores = thread::available_parallelism().map_or(1, usize::from);
    let calm = Storm {
        address,
        rate: f64::INFINITY,
        clients: (2 * cores).max(4),
        texts: TEXTS,
        series: 1,
        span: Duration::from_secs(3),
    };
    let answered = calm.run()?.iter().filter(|fate| fate.status == 200).count();
    ensure!(answered > 0, "nothing was answered at the server's own pace");
    let capacity = answered as f64 / calm.span.as_secs_f64();
    println!(
        "  capacity {capacity:.0} requests of {TEXTS} texts a second, {idle:.1} ms for one text when idle"
    );

    let rate = TIMES * capacity;
    // Who is let in waits for up to the deadline, who is not for a moment.
    let clients = (capacity * DEADLINE.as_secs_f64() * 1.25 + rate * 0.05) as usize + 16;
    let storm = Storm { rate, clients: clients.clamp(64, 1024), series: 2, span, ..calm };
    let (fates, watch, recovered) = weather(&server, storm, &mut probe)?;
    Verdict { fates, watch, recovered, storm, capacity, idle }.judge(suite);
    let back = probe.alone()?;
    judge(suite, back < 4.0 * idle + 20.0, format!("one text takes {back:.1} ms again, as before the storm"));
    server.stop()
}

/// Lets the storm loose and looks at the server meanwhile; then how long, in milliseconds, until the first request
/// after it is answered.
fn weather(server: &Server, storm: Storm, probe: &mut Probe) -> Result<(Vec<Fate>, Watch, f64)> {
    let over = AtomicBool::new(false);
    let (id, mut watcher) = (server.id(), Probe::open(server)?);
    thread::scope(|scope| {
        let over = Over(&over);
        let watch = scope.spawn(|| Watch::keep(id, &mut watcher, over.0));
        let fates = scope.spawn(move || storm.run());
        thread::sleep(storm.span);
        let ended = Instant::now();
        let mut recovered = probe.embed();
        while recovered.is_err() && ended.elapsed() < Duration::from_secs(30) {
            thread::sleep(Duration::from_millis(10));
            recovered = probe.embed();
        }
        recovered.context("nothing was answered within 30 s of the storm's end")?;
        let recovered = ended.elapsed().as_secs_f64() * 1e3;
        let fates = fates.join().ok().context("the storm panicked")??;
        drop(over);
        Ok((fates, watch.join().ok().context("the watch panicked")??, recovered))
    })
}

/// Ends the watch when it is dropped, however the storm went.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection of its own for single questions.
struct Probe {
    connection: Connection,
    next: u32,
}

impl Probe {
    fn open(server: &Server) -> Result<Self> {
        Ok(Self { connection: Connection::open(server.address()?)?, next: 0 })
    }

    /// Milliseconds until a text that nobody sent before is answered.
    fn embed(&mut self) -> Result<f64> {
        self.next += 1;
        let request = request(&[text(Kind::Short, 3, self.next)]);
        let sent = Instant::now();
        self.connection.embed(&request, 1)?;
        Ok(sent.elapsed().as_secs_f64() * 1e3)
    }

    /// Median of the milliseconds for one text, asked again and again by nobody else.
    fn alone(&mut self) -> Result<f64> {
        let asked = (0..20).map(|_| self.embed()).collect::<Result<Vec<_>>>();
        Ok(median(&asked.context("one text alone")?))
    }

    /// Milliseconds until `/readyz` says yes; infinite when it says no.
    fn ready(&mut self) -> Result<f64> {
        let sent = Instant::now();
        let head = self.connection.ask(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")?;
        Ok(if head.status == 200 { sent.elapsed().as_secs_f64() * 1e3 } else { f64::INFINITY })
    }
}

/// The server as it looked during the storm.
struct Watch {
    samples: Vec<Sample>,
    /// Milliseconds that each probe took.
    ready: Vec<f64>,
}

impl Watch {
    fn keep(id: u32, probe: &mut Probe, over: &AtomicBool) -> Result<Self> {
        let mut watch = Self { samples: Vec::new(), ready: Vec::new() };
        while !over.load(Ordering::Relaxed) {
            watch.samples.push(gauge::look(id)?);
            watch.ready.push(probe.ready()?);
            thread::sleep(PULSE);
        }
        Ok(watch)
    }
}

struct Verdict {
    fates: Vec<Fate>,
    watch: Watch,
    /// Milliseconds until the first answer after the storm.
    recovered: f64,
    storm: Storm,
    capacity: f64,
    idle: f64,
}

impl Verdict {
    fn judge(&self, suite: &mut Suite) {
        let late = DEADLINE.as_secs_f64() * 1e3;
        let span = self.storm.span.as_secs_f64();
        let (answered, rest): (Vec<Fate>, Vec<Fate>) = self.fates.iter().partition(|fate| fate.status == 200);
        // Who was let in and not answered is told when the deadline passes; who was not is told at once.
        let (missed, refused): (Vec<Fate>, Vec<Fate>) =
            rest.iter().partition(|fate| fate.status == 503 && fate.milliseconds > 0.9 * late);
        let milliseconds = |fates: &[Fate]| fates.iter().map(|fate| fate.milliseconds).collect::<Vec<_>>();
        let times = self.fates.len() as f64 / span / self.capacity;
        let lag = percentile(&self.fates.iter().map(|fate| fate.late).collect::<Vec<_>>(), 0.99);
        println!(
            "  {} requests in {span:.0} s from {} clients; 99 % were sent within {lag:.0} ms of their turn",
            self.fates.len(),
            self.storm.clients
        );
        // The clients share the processor with the server, and slow it down.
        judge(suite, times > TIMES / 2.0, format!("the storm was {times:.1} times the capacity"));

        let took = milliseconds(&answered);
        let slowest = percentile(&took, 1.0);
        judge(
            suite,
            !took.is_empty() && slowest <= late + DELIVERY.as_secs_f64() * 1e3,
            format!(
                "{} were answered, {:.0} % of the capacity, within {late:.0} ms: p50 {:.0} ms, p99 {:.0} ms, slowest {slowest:.0} ms",
                took.len(),
                took.len() as f64 / span / self.capacity * 100.0,
                percentile(&took, 0.5),
                percentile(&took, 0.99)
            ),
        );
        let admitted = (answered.len() + missed.len()).max(1);
        judge(
            suite,
            missed.len() * 100 <= admitted,
            format!("{} of {admitted} that were let in missed their deadline", missed.len()),
        );
        let polite = refused.iter().filter(|fate| fate.status == 503 && fate.retry_after.is_some()).count();
        judge(
            suite,
            polite == refused.len() && !refused.is_empty(),
            format!("{polite} of {} refusals were 503 with retry-after", refused.len()),
        );
        let took = milliseconds(&refused);
        let prompt = took.iter().filter(|&&took| took <= PROMPT).count() as f64 / took.len() as f64;
        judge(
            suite,
            percentile(&took, 0.99) <= PROMPT_ANYWHERE,
            format!(
                "refusals took p50 {:.1} ms, p99 {:.1} ms, at most {:.0} ms; {:.2} % within {PROMPT:.0} ms",
                percentile(&took, 0.5),
                percentile(&took, 0.99),
                percentile(&took, 1.0),
                prompt * 100.0
            ),
        );
        self.judge_server(suite);
    }

    fn judge_server(&self, suite: &mut Suite) {
        let Watch { samples, ready } = &self.watch;
        let third = samples.len() / 3;
        let peak = |samples: &[Sample]| samples.iter().map(|sample| sample.allocated).fold(0.0, f64::max);
        let (middle, end) = (peak(&samples[third..2 * third]), peak(&samples[2 * third..]));
        judge(
            suite,
            end - middle <= FLAT,
            format!(
                "{:.0} MB allocated at the start, at most {middle:.0} MB in the middle third and {end:.0} MB in the last",
                samples.first().map_or(f64::NAN, |sample| sample.allocated)
            ),
        );
        let slowest = percentile(ready, 1.0);
        judge(suite, slowest.is_finite(), format!("/readyz said yes throughout, within {slowest:.0} ms"));
        judge(
            suite,
            self.recovered <= RECOVERED,
            format!(
                "the first request after the storm was answered {:.0} ms after its end ({:.1} ms when idle)",
                self.recovered, self.idle
            ),
        );
    }
}
