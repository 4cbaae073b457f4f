//! Debian packages, installed where that needs no question.

use std::process::Command;

use anyhow::{Context, Result};
use testkit::process::capture;

/// Installs packages with apt-get, as root or by a sudo that asks nothing.
///
/// # Errors
/// There is no apt-get, no right to install, or no such package.
pub fn install(packages: &[&str]) -> Result<()> {
    println!("installing {} with apt-get …", packages.join(", "));
    apt_get(&["update"])?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], packages].concat())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let attempt = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
        capture(command.args(["--quiet"]).args(arguments))
    };
    let done = attempt(&["apt-get"])
        .or_else(|error| attempt(&["sudo", "--non-interactive", "apt-get"]).map_err(|_| error));
    done.map(drop).context("apt-get failed")
}
