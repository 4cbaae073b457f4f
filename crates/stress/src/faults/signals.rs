//! Signals at bad moments: SIGTERM while the server starts, SIGKILL while it works.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bench::client::{Client, request};
use bench::texts::{TextKind, text};
use testkit::wait::TIMEOUT;
use testkit::{ExitReport, Program, embedgate, process_stats};

use crate::{Run, millis};

/// Number of signals between the moment in which the signal is handled and the one in which the server is ready.
const MOMENTS: u32 = 16;
/// Maximum time from SIGTERM to the end of a starting server; twice the time of a start is allowed, too.
const MAX_END: Duration = Duration::from_secs(2);

/// Sends SIGTERM at moments from the installation of the handler, which follows reading the settings and binding the
/// address, until the server is ready: the exit code must be 0.
pub(super) fn terminate(run: &mut Run<'_>) -> Result<()> {
    if !cfg!(target_os = "linux") {
        run.suite.skip("SIGTERM at every stage: the handled signals are read from /proc");
        return Ok(());
    }
    let workspace = run.workspace;
    let start = || {
        let arguments = ["serve", "--listen", "127.0.0.1:0"];
        Program::start(embedgate(&workspace.release_binary(), workspace.root(), &arguments))
    };
    let handles_sigterm =
        |program: &Program| process_stats::catches_sigterm(program.id()).unwrap_or(false).then_some(());
    let listens = |program: &Program| program.log().contains("listening on").then_some(());

    let mut program = start()?;
    program.poll(TIMEOUT, handles_sigterm)?;
    let handled = program.elapsed();
    program.poll(TIMEOUT, listens)?;
    let ready = program.elapsed();
    let (ended, time) = end(program)?;
    ensure!(ended.status.success(), "SIGTERM when ready: {}:\n{}", ended.status, ended.log);

    let (mut slowest, mut loading, mut failures) = (time, 0, Vec::new());
    for moment in 0..MOMENTS {
        let mut program = start()?;
        program.poll(TIMEOUT, handles_sigterm)?;
        let delay = ready.saturating_sub(handled).mul_f64(f64::from(moment) / f64::from(MOMENTS));
        thread::sleep(delay);
        let (ended, time) = end(program)?;
        slowest = slowest.max(time);
        loading += usize::from(ended.log.contains("stopped while loading"));
        if ended.status.code() != Some(0) || ended.log.contains("panicked") {
            failures.push(format!("{:.0} ms: {}:\n{}", millis(delay), ended.status, ended.log));
        }
    }
    run.judge(
        failures.is_empty() && loading > 0,
        format!(
            "SIGTERM is handled {:.0} ms after the start, the server is ready after {:.0} ms; at {MOMENTS} moments \
             between, {loading} of them while loading, the exit code was 0{}",
            millis(handled),
            millis(ready),
            failures.iter().map(|failure| format!(", except {failure}")).collect::<String>()
        ),
    );
    run.judge_time(
        slowest <= MAX_END.max(ready * 2),
        format!("the slowest of them took {:.0} ms to end", millis(slowest)),
    );
    Ok(())
}

/// Sends SIGTERM; returns the end and the time until then.
fn end(program: Program) -> Result<(ExitReport, Duration)> {
    let signaled = Instant::now();
    program.signal("TERM")?;
    Ok((program.wait(TIMEOUT)?, signaled.elapsed()))
}

/// A killed server leaves nothing that keeps the next one from the same address.
pub(super) fn kill(run: &mut Run<'_>) -> Result<()> {
    let first = run.start_server(&[])?;
    let address = first.address();
    let mut clients: Vec<Client> = (0..8).map(|_| Client::open(address)).collect::<Result<_>>()?;
    for (client, series) in clients.iter_mut().zip(0..) {
        let texts: Vec<_> = (0..64).map(|n| text(TextKind::Mixed, series, n)).collect();
        client.send(&request(&texts))?;
    }
    thread::sleep(Duration::from_millis(20)); // Some requests are computed by now, others are queued.
    drop(first); // SIGKILL
    let started = Instant::now();
    let arguments = ["serve", "--listen", &address.to_string()];
    let second =
        testkit::Server::start(embedgate(&run.workspace.release_binary(), run.workspace.root(), &arguments))?;
    Client::open(address)?.embed(&request(&[text(TextKind::Short, 0, 0)]), 1)?;
    let time = started.elapsed();
    second.stop()?;
    run.judge(
        true,
        format!("a new server on the same address answered {:.0} ms after SIGKILL", millis(time)),
    );
    Ok(())
}
