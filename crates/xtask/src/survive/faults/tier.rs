//! A Redis that is killed and comes back while clients ask: not one request fails.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::client::{Connection, request};
use crate::bench::stats::percentile;
use crate::bench::texts::{Kind, text};
use crate::server::Server;
use crate::setup;
use crate::survive::judge;
use crate::survive::program::Scratch;
use crate::test::report::Suite;
use crate::workspace::Workspace;

const CLIENTS: u32 = 8;
/// How long Redis is there, away, and there again.
const PHASE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);
const UP: &str = "embedgate_cache_tier_up";

/// A server that is ended at once when it goes out of scope.
struct Redis(Child);

impl Redis {
    fn start(workspace: &Workspace, folder: &Path) -> Result<Self> {
        let socket = folder.join("redis.sock");
        // What is left of one that was killed; there is none the first time.
        let _ = std::fs::remove_file(&socket);
        let child = Command::new(workspace.runtime().join("redis/redis-server"))
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start Redis")?;
        Ok(Self(child))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Ending what has ended is no harm.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn run(workspace: &Workspace, suite: &mut Suite) -> Result<()> {
    setup::redis::install(workspace)?;
    let scratch = Scratch::new("tier")?;
    let redis = Redis::start(workspace, scratch.path())?;
    let url = format!("redis+unix://{}", scratch.path().join("redis.sock").display());
    // Without memory of its own the server asks Redis for every text.
    let server =
        Server::start(workspace, &["--cache-redis-url", &url, "--cache-memory", "0"].map(str::to_owned))?;
    let address = server.address()?;
    wait_until(address, 1)?;

    let over = AtomicBool::new(false);
    let (times, phases) = thread::scope(|scope| -> Result<_> {
        let over = &over;
        let clients: Vec<_> =
            (0..CLIENTS).map(|series| scope.spawn(move || client(address, series, over))).collect();
        let drama = || -> Result<[Instant; 2]> {
            thread::sleep(PHASE);
            drop(redis);
            let gone = Instant::now();
            wait_until(address, 0)?;
            thread::sleep(PHASE);
            let _back = Redis::start(workspace, scratch.path())?;
            wait_until(address, 1)?;
            let back = Instant::now();
            thread::sleep(PHASE);
            Ok([gone, back])
        };
        let phases = drama();
        over.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.join().ok().context("a client panicked")??);
        }
        Ok((times, phases?))
    })?;
    let [gone, back] = phases;
    let during = |from: Option<Instant>, to: Option<Instant>| {
        let inside = |at: Instant| from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to);
        let times: Vec<f64> = times.iter().filter(|(at, _)| inside(*at)).map(|(_, time)| *time).collect();
        format!("{} (p99 {:.0} ms)", times.len(), percentile(&times, 0.99))
    };
    judge(
        suite,
        !times.is_empty(),
        format!(
            "every request was answered: {} with Redis, {} without, {} when it was back",
            during(None, Some(gone)),
            during(Some(gone), Some(back)),
            during(Some(back), None)
        ),
    );
    server.stop()
}

/// Asks for texts old and new until it is `over`; yields when each request was sent, and its milliseconds.
fn client(address: SocketAddr, series: u32, over: &AtomicBool) -> Result<Vec<(Instant, f64)>> {
    let mut connection = Connection::open(address)?;
    let mut times = Vec::new();
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let index = if number % 2 == 0 { number } else { number % 64 };
        let request = request(&[text(Kind::Short, series, index)]);
        let sent = Instant::now();
        connection.embed(&request, 1)?;
        times.push((sent, sent.elapsed().as_secs_f64() * 1e3));
    }
    Ok(times)
}

/// Waits until the metrics say that Redis is there (1) or away (0).
fn wait_until(address: SocketAddr, up: u8) -> Result<()> {
    let line = format!("{UP} {up}");
    let begun = Instant::now();
    loop {
        let mut connection = Connection::open(address)?;
        connection.ask(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")?;
        if String::from_utf8_lossy(connection.body()).lines().any(|found| found == line) {
            return Ok(());
        }
        ensure!(begun.elapsed() < LIMIT, "the metrics never said `{line}`");
        thread::sleep(Duration::from_millis(20));
    }
}
