//! Faults around the server, one after the other, each against the release binary.
//!
//! A batch that panics and a session that fails need an encoder that does so on demand; they are tested with fake
//! encoders (`crates/inference/tests/it`, `crates/gateway/tests/it/overload.rs`).

mod damaged_model;
mod idle_connections;
mod import;
mod remote_cache;
mod signals;

use anyhow::Result;

use crate::Run;

/// Runs every fault; an import is killed `kills` times.
pub(crate) fn run(run: &mut Run<'_>, kills: u32) -> Result<()> {
    type Fault<'a> = (&'a str, &'a dyn Fn(&mut Run<'_>) -> Result<()>);
    let faults: [Fault<'_>; 6] = [
        ("damaged model files", &damaged_model::run),
        ("a full disk, and SIGKILL, during an import", &|run| import::run(run, kills)),
        ("SIGTERM at every stage of the start", &signals::terminate),
        ("SIGKILL under load, and a new start", &signals::kill),
        ("idle, slow and too many connections", &idle_connections::run),
        ("a remote cache that disappears under load", &remote_cache::run),
    ];
    for (name, fault) in faults {
        println!("  {name}");
        if let Err(error) = fault(run) {
            run.suite.fail(format!("{name}: {error:#}"));
        }
    }
    Ok(())
}
