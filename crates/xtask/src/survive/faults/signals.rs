//! Signals at bad moments: SIGTERM while the server starts, SIGKILL while it works.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::model::millis;
use crate::bench::client::{Connection, request};
use crate::bench::texts::{Kind, text};
use crate::server::Server;
use crate::survive::program::{Program, Scratch, embedgate};
use crate::survive::{gauge, judge};
use crate::test::report::Suite;
use crate::workspace::Workspace;

const LIMIT: Duration = Duration::from_secs(60);
/// Moments between the first in which the signal is caught and the one in which the server is ready.
const MOMENTS: u32 = 16;
/// A start that is called off ends within this time, or as long as the start itself would have taken.
const PROMPT: Duration = Duration::from_secs(2);

/// Until the program catches the signal, which is once its settings are read and its address is bound, the system
/// ends it; from then on the exit code is 0.
pub(super) fn terminate(workspace: &Workspace, suite: &mut Suite) -> Result<()> {
    if !cfg!(target_os = "linux") {
        suite.skip("SIGTERM at every stage: only Linux tells which signals a process catches");
        return Ok(());
    }
    let scratch = Scratch::new("signals")?;
    let start =
        || Program::start(embedgate(workspace, &["serve", "--listen", "127.0.0.1:0"]), scratch.path());
    let catches = |program: &Program| gauge::catches_sigterm(program.id()).unwrap_or(false);

    let mut program = start()?;
    program.until(LIMIT, catches)?;
    let caught = program.age();
    program.until(LIMIT, |program| program.said().contains("listening on"))?;
    let ready = program.age();
    program.terminate()?;
    let ended = program.wait(LIMIT)?;
    ensure!(ended.status.success(), "SIGTERM when ready: {}:\n{}", ended.status, ended.log);

    let (mut slowest, mut loading, mut bad) = (ended.took, 0, Vec::new());
    for moment in 0..MOMENTS {
        let mut program = start()?;
        program.until(LIMIT, catches)?;
        let wait = ready.saturating_sub(caught).mul_f64(f64::from(moment) / f64::from(MOMENTS));
        thread::sleep(wait);
        program.terminate()?;
        let ended = program.wait(LIMIT)?;
        slowest = slowest.max(ended.took);
        loading += usize::from(ended.log.contains("stopped while loading"));
        if ended.status.code() != Some(0) || ended.log.contains("panicked") {
            bad.push(format!("{:.0} ms: {}:\n{}", millis(wait), ended.status, ended.log));
        }
    }
    judge(
        suite,
        bad.is_empty() && loading > 0,
        format!(
            "caught {:.0} ms after the start, ready after {:.0} ms; at {MOMENTS} moments between, {loading} of them \
             while loading, the exit code was 0{}",
            millis(caught),
            millis(ready),
            bad.iter().map(|bad| format!(", but {bad}")).collect::<String>()
        ),
    );
    judge(
        suite,
        slowest <= PROMPT.max(ready * 2),
        format!("the slowest of them took {:.0} ms to end", millis(slowest)),
    );
    Ok(())
}

/// A server that is killed leaves nothing that keeps the next from the same address.
pub(super) fn kill(workspace: &Workspace, suite: &mut Suite) -> Result<()> {
    let first = Server::start(workspace, &[])?;
    let address = first.address()?;
    let mut busy: Vec<Connection> = (0..8).map(|_| Connection::open(address)).collect::<Result<_>>()?;
    for (connection, series) in busy.iter_mut().zip(0..) {
        let texts: Vec<_> = (0..64).map(|n| text(Kind::Mixed, series, n)).collect();
        connection.send(&request(&texts))?;
    }
    thread::sleep(Duration::from_millis(20));
    drop(first); // SIGKILL
    let begun = Instant::now();
    let scratch = Scratch::new("killed")?;
    let serve = embedgate(workspace, &["serve", "--listen", &address.to_string()]);
    let mut second = Program::start(serve, scratch.path())?;
    second.until(LIMIT, |program| program.said().contains("listening on"))?;
    Connection::open(address)?.embed(&request(&[text(Kind::Short, 0, 0)]), 1)?;
    let took = begun.elapsed();
    second.terminate()?;
    let ended = second.wait(LIMIT)?;
    judge(
        suite,
        ended.status.success(),
        format!("a new server on the same address answered {:.0} ms after SIGKILL", millis(took)),
    );
    Ok(())
}
