//! Clients that cost a connection and bring nothing: thousands that are idle, some that never finish a head, and more
//! than there are places for.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::client::{Connection, request};
use crate::bench::texts::{Kind, text};
use crate::server::Server;
use crate::survive::{gauge, judge};
use crate::test::report::Suite;
use crate::workspace::Workspace;

/// Idle connections.
const IDLE: usize = 10_000;
/// Places of the server for them, and for those who ask.
const PLACES: usize = 11_000;
/// Descriptors that this process and the server need for other things.
const OTHERS: usize = 300;
/// What an idle connection may cost the server, in bytes of its own: buffers and a task.
const LARGEST: f64 = 64e3;
/// Clients that never finish the head of a request.
const SLOW: usize = 200;
/// How long the server waits for a head here.
const HEAD: Duration = Duration::from_secs(2);
/// Places of the server that has few.
const FEW: usize = 20;
/// A machine with other work may be slow; a hang must end.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs all three.
///
/// # Errors
/// A server cannot be started, or the system has no `/proc`.
pub(super) fn run(workspace: &Workspace, suite: &mut Suite) -> Result<()> {
    if !cfg!(target_os = "linux") {
        suite.skip("idle connections: only Linux tells what a process holds");
        return Ok(());
    }
    let seconds = format!("{}s", HEAD.as_secs());
    let flags =
        ["--client-header-timeout", &seconds, "--max-connections", &PLACES.to_string()].map(str::to_owned);
    let server = Server::start(workspace, &flags)?;
    idle(&server, suite)?;
    slow(&server, suite)?;
    server.stop()?;
    crowded(workspace, suite)
}

/// Thousands of kept connections; then they all hang up at once.
fn idle(server: &Server, suite: &mut Suite) -> Result<()> {
    let address = server.address()?;
    let mut asking = Connection::open(address)?;
    answer(&mut asking, 0)?;
    let before = gauge::look(server.id())?;
    let count = IDLE.min(descriptors()?.saturating_sub(OTHERS));
    let begun = Instant::now();
    let held: Vec<TcpStream> = (0..count).map(|_| kept(address)).collect::<Result<_>>()?;
    let opened = begun.elapsed();
    let during = gauge::look(server.id())?;
    let each = (during.allocated - before.allocated) * 1e6 / count as f64;
    let took = answer(&mut asking, 1)?;
    judge(
        suite,
        count > 0 && each < LARGEST,
        format!(
            "{count} idle connections, opened in {:.1} s, cost {:.1} kB each; a text was answered in {:.0} ms",
            opened.as_secs_f64(),
            each / 1e3,
            took.as_secs_f64() * 1e3
        ),
    );
    drop(held);
    let deadline = Instant::now() + LIMIT;
    let mut after = gauge::look(server.id())?;
    while after.descriptors > before.descriptors + 10 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
        after = gauge::look(server.id())?;
    }
    judge(
        suite,
        after.descriptors <= before.descriptors + 10,
        format!(
            "when all had hung up, {} descriptors of {} were left",
            after.descriptors, during.descriptors
        ),
    );
    Ok(())
}

/// Clients that send a head byte by byte: each is cut off, and nobody else waits for them.
fn slow(server: &Server, suite: &mut Suite) -> Result<()> {
    let address = server.address()?;
    let mut asking = Connection::open(address)?;
    let mut clients: Vec<Option<TcpStream>> = (0..SLOW)
        .map(|_| TcpStream::connect(address).map(Some).context("cannot connect"))
        .collect::<Result<_>>()?;
    let head = b"GET /v1/models HTTP/1.1\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    for (turn, byte) in head.iter().enumerate() {
        for client in &mut clients {
            if client.as_mut().is_some_and(|stream| stream.write_all(&[*byte]).is_err()) {
                *client = None;
            }
        }
        slowest = slowest.max(answer(&mut asking, 100 + turn as u32)?);
        if clients.iter().all(Option::is_none) || begun.elapsed() > HEAD * 4 {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let left = clients.iter().flatten().count();
    judge(
        suite,
        left == 0,
        format!(
            "{} of {SLOW} that sent a head byte by byte were cut off within {:.1} s; others were answered in {:.0} ms \
             at most",
            SLOW - left,
            begun.elapsed().as_secs_f64(),
            slowest.as_secs_f64() * 1e3
        ),
    );
    Ok(())
}

/// More clients than places: those beyond wait, and come in when others leave.
fn crowded(workspace: &Workspace, suite: &mut Suite) -> Result<()> {
    let flags = ["--max-connections", &FEW.to_string(), "--http-workers", "1"].map(str::to_owned);
    let server = Server::start(workspace, &flags)?;
    let address = server.address()?;
    let held: Vec<TcpStream> = (0..FEW).map(|_| kept(address)).collect::<Result<_>>()?;
    let mut waiting = TcpStream::connect(address).context("cannot connect")?;
    waiting.set_read_timeout(Some(Duration::from_millis(500)))?;
    waiting.write_all(LIVEZ)?;
    let answered_at_once = waiting.read(&mut [0; 16]).is_ok_and(|count| count > 0);
    drop(held);
    waiting.set_read_timeout(Some(LIMIT))?;
    let answered_then = waiting.read(&mut [0; 16]).is_ok_and(|count| count > 0);
    judge(
        suite,
        !answered_at_once && answered_then,
        format!("with all {FEW} places taken, the next one waited, and was answered when they were free"),
    );
    server.stop()
}

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";

/// A connection that was used once and is kept.
fn kept(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("cannot connect")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(LIVEZ)?;
    let (mut answer, mut read) = ([0; 512], 0);
    while !answer[..read].ends_with(b"ok\n") {
        let count = stream.read(&mut answer[read..])?;
        ensure!(count > 0, "the server closed a connection: {:?}", String::from_utf8_lossy(&answer[..read]));
        read += count;
    }
    Ok(stream)
}

/// How long one short text takes.
fn answer(connection: &mut Connection, number: u32) -> Result<Duration> {
    let begun = Instant::now();
    connection.embed(&request(&[text(Kind::Short, 31, number)]), 1)?;
    Ok(begun.elapsed())
}

/// Descriptors that this process, and so its children, may have.
fn descriptors() -> Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits").context("cannot read /proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).context("/proc/self/limits has no soft limit of open files")
}
