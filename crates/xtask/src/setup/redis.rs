//! A Redis server for the tests of the cache's second tier: the machine's own, or the one in Debian's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{process::capture, workspace::Workspace};

/// What a server may be called. Debian's `redis-tools` holds it under the last name, by which it checks dumps, and
/// under the first it serves. Unlike Debian's `redis-server` it starts nothing by itself.
const NAMES: [&str; 3] = ["redis-server", "valkey-server", "redis-check-rdb"];

/// Makes sure that `.runtime/redis/redis-server` runs.
///
/// # Errors
/// There is none, and none can be installed.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let folder = workspace.runtime().join("redis");
    let link = folder.join("redis-server");
    if runs(&link) {
        return Ok(());
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    if !link_any(&link)? {
        println!("installing Debian's redis-tools for the tests …");
        apt(&["update"])?;
        apt(&["install", "--yes", "--no-install-recommends", "redis-tools"])?;
        if !link_any(&link)? {
            bail!("no Redis server: install redis-server or valkey-server");
        }
    }
    Ok(())
}

/// Links the first server in the path that runs; tells whether there is one.
fn link_any(link: &Path) -> Result<bool> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for candidate in NAMES.iter().flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)))
    {
        if candidate.is_file() {
            relink(&candidate, link)?;
            if runs(link) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(unix)]
fn relink(to: &PathBuf, link: &Path) -> Result<()> {
    // What is there does not run.
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(to, link).with_context(|| format!("cannot link {}", link.display()))
}

#[cfg(not(unix))]
fn relink(to: &PathBuf, _: &Path) -> Result<()> {
    bail!("the tests of the second tier need a Unix socket; found {}", to.display())
}

fn runs(server: &Path) -> bool {
    capture(Command::new(server).arg("--version")).is_ok_and(|said| said.contains("server v="))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let plain = || Command::new("apt-get");
    let sudo = || {
        let mut command = Command::new("sudo");
        command.args(["--non-interactive", "apt-get"]);
        command
    };
    let attempt = |mut command: Command| {
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet"]).args(arguments);
        capture(&mut command)
    };
    let attempted = attempt(plain()).or_else(|_| attempt(sudo()));
    attempted.map(|_| ()).context("no Redis server for the tests: install redis-server or valkey-server")
}
