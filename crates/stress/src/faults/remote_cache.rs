//! A Redis that is killed and returns while clients send requests: no request fails.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::client::{Client, request};
use bench::stats::percentile;
use bench::texts::{TextKind, text};
use testkit::workspace::Workspace;
use testkit::{Program, http, wait};
use xtask::setup;

use crate::{Run, millis};

const CLIENTS: u32 = 8;
/// Duration of each phase: Redis is up, down, and up again.
const PHASE: Duration = Duration::from_secs(2);
const UP: &str = "embedgate_cache_remote_up";

/// Starts a Redis whose socket is in `folder`.
fn start_redis(workspace: &Workspace, folder: &Path) -> Result<Program> {
    let socket = folder.join("redis.sock");
    // A socket of a killed server; there is none the first time.
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(workspace.runtime().join("redis/redis-server"));
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
    command.arg("--dir").arg(folder);
    Program::start(command)
}

pub(super) fn run(run: &mut Run<'_>) -> Result<()> {
    let workspace = run.workspace;
    setup::redis::install(workspace)?;
    let scratch = tempfile::tempdir().context("cannot create a folder")?;
    let redis = start_redis(workspace, scratch.path())?;
    let url = format!("redis+unix://{}", scratch.path().join("redis.sock").display());
    // Without a local cache, the server asks Redis for every text.
    let server = run.start_server(&["--cache-redis-url", &url, "--cache-memory", "0"])?;
    let address = server.address();
    wait_until_up(address, true)?;

    let stop = AtomicBool::new(false);
    let (times, [down, up]) = thread::scope(|scope| -> Result<_> {
        let stop = &stop;
        let clients: Vec<_> =
            (0..CLIENTS).map(|series| scope.spawn(move || run_client(address, series, stop))).collect();
        let phases = || -> Result<[Instant; 2]> {
            thread::sleep(PHASE);
            drop(redis);
            let down = Instant::now();
            wait_until_up(address, false)?;
            thread::sleep(PHASE);
            let _redis = start_redis(workspace, scratch.path())?;
            wait_until_up(address, true)?;
            let up = Instant::now();
            thread::sleep(PHASE);
            Ok([down, up])
        };
        let phases = phases();
        stop.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.join().ok().context("a client panicked")??);
        }
        Ok((times, phases?))
    })?;
    let phase = |from: Option<Instant>, to: Option<Instant>| {
        let is_inside = |at: Instant| from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to);
        let times: Vec<f64> = times.iter().filter(|(at, _)| is_inside(*at)).map(|(_, time)| *time).collect();
        format!("{} (p99 {:.0} ms)", times.len(), percentile(&times, 0.99))
    };
    run.judge(
        !times.is_empty(),
        format!(
            "every request was answered: {} with Redis, {} without, {} when it was back",
            phase(None, Some(down)),
            phase(Some(down), Some(up)),
            phase(Some(up), None)
        ),
    );
    server.stop()
}

/// Sends new and repeated texts until `stop` is set; returns the start of each request, and its milliseconds.
fn run_client(address: SocketAddr, series: u32, stop: &AtomicBool) -> Result<Vec<(Instant, f64)>> {
    let mut client = Client::open(address)?;
    let mut times = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let index = if number % 2 == 0 { number } else { number % 64 };
        let request = request(&[text(TextKind::Short, series, index)]);
        let sent = Instant::now();
        client.embed(&request, 1)?;
        times.push((sent, millis(sent.elapsed())));
    }
    Ok(times)
}

/// Waits until the metrics report Redis as up or down.
fn wait_until_up(address: SocketAddr, up: bool) -> Result<()> {
    let line = format!("{UP} {}", u8::from(up));
    let is_reported = || {
        let metrics = http::get(address, "/metrics").ok()?;
        metrics.text().lines().any(|found| found == line).then_some(())
    };
    wait::poll(wait::TIMEOUT, is_reported).with_context(|| format!("the metrics never reported `{line}`"))
}
