//! What breaks beneath the server, one fault after the other, each against the release binary.
//!
//! A batch that panics and a session that fails need an encoder that does so on demand; they are tested where there
//! is one (`crates/inference/tests/it/engine.rs`, `crates/gateway/tests/it/overload.rs`).

#[cfg(unix)]
mod connections;
#[cfg(unix)]
mod import;
#[cfg(unix)]
mod model;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod tier;

use anyhow::Result;

use crate::test::report::Suite;
use crate::workspace::Workspace;

/// Runs every fault; an import is killed `kills` times.
///
/// # Errors
/// None of its own: a fault that cannot be brought about is a failure of the suite.
#[cfg(unix)]
pub(super) fn run(workspace: &Workspace, kills: u32, suite: &mut Suite) -> Result<()> {
    type Fault<'a> = (&'a str, &'a dyn Fn(&mut Suite) -> Result<()>);
    let faults: [Fault<'_>; 6] = [
        ("damaged model files", &|suite| model::run(workspace, suite)),
        ("a full disk, and SIGKILL, during an import", &|suite| import::run(workspace, kills, suite)),
        ("SIGTERM at every stage of the start", &|suite| signals::terminate(workspace, suite)),
        ("SIGKILL under load, and a new start", &|suite| signals::kill(workspace, suite)),
        ("clients that cost a connection and bring nothing", &|suite| connections::run(workspace, suite)),
        ("a second cache tier that goes away under load", &|suite| tier::run(workspace, suite)),
    ];
    for (name, fault) in faults {
        println!("  {name}");
        if let Err(error) = fault(suite) {
            suite.fail(format!("{name}: {error:#}"));
        }
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn run(_: &Workspace, _: u32, suite: &mut Suite) -> Result<()> {
    suite.skip("the faults need signals and links");
    Ok(())
}
