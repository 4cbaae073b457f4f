//! A Redis server for the tests of the remote cache: the machine's own, or the one in Debian's packages.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use testkit::files;
use testkit::process::capture;
use testkit::workspace::Workspace;

use super::apt;

/// Names of the program. Debian's `redis-tools` installs it as `redis-check-rdb`, which serves when it is called
/// `redis-server`; unlike Debian's `redis-server`, the package starts no service.
const NAMES: [&str; 3] = ["redis-server", "valkey-server", "redis-check-rdb"];
const HINT: &str = "no Redis server for the tests: install redis-server or valkey-server";

/// Makes sure that `.runtime/redis/redis-server` runs.
///
/// # Errors
/// There is no server, and none can be installed.
pub fn install(workspace: &Workspace) -> Result<()> {
    let folder = workspace.runtime().join("redis");
    let link = folder.join("redis-server");
    if runs(&link) {
        return Ok(());
    }
    files::create_folder(&folder)?;
    if !link_any(&link)? {
        apt::install(&["redis-tools"]).context(HINT)?;
        if !link_any(&link)? {
            bail!(HINT);
        }
    }
    Ok(())
}

/// Links the first server in the search path that runs; returns true if there is one.
fn link_any(link: &Path) -> Result<bool> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates =
        NAMES.iter().flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)));
    for candidate in candidates.filter(|candidate| candidate.is_file()) {
        // A link of an earlier run whose program no longer runs.
        files::remove(link)?;
        symlink(&candidate, link).with_context(|| format!("cannot link {}", link.display()))?;
        if runs(link) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn runs(server: &Path) -> bool {
    capture(Command::new(server).arg("--version")).is_ok_and(|said| said.contains("server v="))
}
