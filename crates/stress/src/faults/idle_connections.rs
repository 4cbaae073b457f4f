//! Connections without requests: thousands that are idle, some that never finish a request head, and more than the
//! server accepts.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::client::{Client, request};
use bench::texts::{TextKind, text};
use testkit::{Server, process_stats, wait};

use crate::{Run, millis};

/// Idle connections.
const IDLE: usize = 10_000;
/// The server's limit of connections.
const MAX_CONNECTIONS: usize = 11_000;
/// Descriptors that this process and the server need for other purposes.
const OTHER_DESCRIPTORS: usize = 300;
/// Maximum memory of an idle connection: buffers and a task.
const MAX_CONNECTION_BYTES: f64 = 64e3;
/// Clients that never finish the head of a request.
const SLOW: usize = 200;
/// The server's limit for a head.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval between two bytes of such a head.
const BYTE_INTERVAL: Duration = Duration::from_millis(100);
/// Connections of the server that accepts few.
const FEW: usize = 20;
/// Descriptors that may differ after all clients have disconnected.
const DESCRIPTOR_TOLERANCE: usize = 10;
/// A busy machine may be slow; a hang must end.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn run(run: &mut Run<'_>) -> Result<()> {
    if !cfg!(target_os = "linux") {
        run.suite.skip("idle connections: the statistics need /proc");
        return Ok(());
    }
    let timeout = format!("{}s", CLIENT_TIMEOUT.as_secs());
    let limit = MAX_CONNECTIONS.to_string();
    let server = run.start_server(&["--client-header-timeout", &timeout, "--max-connections", &limit])?;
    idle(&server, run)?;
    slow(&server, run)?;
    server.stop()?;
    too_many(run)
}

/// Opens thousands of idle connections, then closes them together.
fn idle(server: &Server, run: &mut Run<'_>) -> Result<()> {
    let mut client = Client::open(server.address())?;
    latency(&mut client, 0)?;
    let before = process_stats::sample(server.id())?;
    let count = IDLE.min(max_descriptors()?.saturating_sub(OTHER_DESCRIPTORS));
    let started = Instant::now();
    let held: Vec<TcpStream> =
        (0..count).map(|_| used_connection(server.address())).collect::<Result<_>>()?;
    let opened = started.elapsed();
    let during = process_stats::sample(server.id())?;
    let each = (during.allocated - before.allocated) * 1e6 / count as f64;
    let latency = latency(&mut client, 1)?;
    run.judge(
        count > 0 && each < MAX_CONNECTION_BYTES,
        format!(
            "{count} idle connections, opened in {:.1} s, take {:.1} kB each; a text was answered in {:.0} ms",
            opened.as_secs_f64(),
            each / 1e3,
            millis(latency)
        ),
    );
    drop(held);
    let is_released = || {
        let after = process_stats::sample(server.id()).ok()?;
        (after.descriptors <= before.descriptors + DESCRIPTOR_TOLERANCE).then_some(())
    };
    let released = wait::poll(TIMEOUT, is_released).is_some();
    let after = process_stats::sample(server.id())?;
    run.judge(
        released,
        format!("after all disconnected, {} of {} descriptors remain", after.descriptors, during.descriptors),
    );
    Ok(())
}

/// Clients that send a head byte by byte: each is disconnected, and no other client waits for them.
fn slow(server: &Server, run: &mut Run<'_>) -> Result<()> {
    let mut other = Client::open(server.address())?;
    let mut clients: Vec<Option<TcpStream>> = (0..SLOW)
        .map(|_| TcpStream::connect(server.address()).map(Some).context("cannot connect"))
        .collect::<Result<_>>()?;
    let head = b"GET /v1/models HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'y'));
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    for (number, byte) in (100..).zip(head) {
        for client in &mut clients {
            if client.as_mut().is_some_and(|stream| stream.write_all(&[*byte]).is_err()) {
                *client = None;
            }
        }
        slowest = slowest.max(latency(&mut other, number)?);
        if clients.iter().all(Option::is_none) || started.elapsed() > TIMEOUT {
            break;
        }
        thread::sleep(BYTE_INTERVAL);
    }
    let left = clients.iter().flatten().count();
    run.judge(
        left == 0,
        format!(
            "{} of {SLOW} clients that sent a head byte by byte were disconnected within {:.1} s; others were answered \
             in {:.0} ms at most",
            SLOW - left,
            started.elapsed().as_secs_f64(),
            millis(slowest)
        ),
    );
    Ok(())
}

/// More clients than connections: those beyond the limit wait until others leave.
fn too_many(run: &mut Run<'_>) -> Result<()> {
    let server = run.start_server(&["--max-connections", &FEW.to_string(), "--http-workers", "1"])?;
    let mut held: Vec<TcpStream> =
        (0..FEW).map(|_| used_connection(server.address())).collect::<Result<_>>()?;
    let mut waiting = TcpStream::connect(server.address()).context("cannot connect")?;
    waiting.write_all(LIVEZ)?;
    // Each held connection is answered once more, after the waiting client's request.
    held.iter_mut().try_for_each(ask)?;
    waiting.set_nonblocking(true)?;
    let waited = waiting.read(&mut [0; 16]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    drop(held);
    waiting.set_nonblocking(false)?;
    waiting.set_read_timeout(Some(TIMEOUT))?;
    let answered = waiting.read(&mut [0; 16]).is_ok_and(|count| count > 0);
    run.judge(
        waited && answered,
        format!(
            "with {FEW} of {FEW} connections open, the next client waited, and was answered when they closed"
        ),
    );
    server.stop()
}

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";

/// A kept connection after one request.
fn used_connection(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("cannot connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    ask(&mut stream)?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(LIVEZ)?;
    let (mut response, mut read) = ([0; 512], 0);
    while !response[..read].ends_with(b"ok\n") {
        let count = stream.read(&mut response[read..])?;
        ensure!(
            count > 0,
            "the server closed a connection: {:?}",
            String::from_utf8_lossy(&response[..read])
        );
        read += count;
    }
    Ok(())
}

/// Latency of one short text.
fn latency(client: &mut Client, number: u32) -> Result<Duration> {
    let started = Instant::now();
    client.embed(&request(&[text(TextKind::Short, 31, number)]), 1)?;
    Ok(started.elapsed())
}

/// Descriptors that this process, and so its children, may open.
fn max_descriptors() -> Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits").context("cannot read /proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).context("/proc/self/limits has no soft limit of open files")
}
