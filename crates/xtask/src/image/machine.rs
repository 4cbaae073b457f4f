//! What this machine needs to build and run images: rights, programs, and a Debian to build from.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::Place;
use crate::process::capture;

/// Programs, by the names of their Debian packages too.
const PROGRAMS: [&str; 4] = ["buildah", "crun", "mmdebstrap", "podman"];
/// The Debian that Dockerfile and archive name.
const SUITE: &str = "bookworm";
/// What the Dockerfile takes from it, and what programs of C and C++ find on the barest machine.
const PACKAGES: &str = "base-files,libc6,libgcc-s1,libstdc++6";

/// Installs what is missing; the error is the reason why images cannot be built or run here.
///
/// # Errors
/// Without root, without namespaces, or where the programs cannot be had.
pub(super) fn prepare() -> std::result::Result<(), String> {
    let root = capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root {
        return Err("only root can build and run images here".to_owned());
    }
    capture(Command::new("unshare").args(["--mount", "--propagation", "private", "true"]))
        .map_err(|error| format!("this machine allows no namespaces: {error:#}"))?;
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| !is_there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing Debian's {} …", missing.join(", "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet").args(arguments).args(&missing);
        capture(&mut command)
    };
    capture(Command::new("apt-get").args(["update", "--quiet"]))
        .and_then(|_| apt(&["install", "--yes", "--no-install-recommends"]))
        .map_err(|error| format!("{} cannot be installed: {error:#}", missing.join(", ")))?;
    Ok(())
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A Debian 12 with little more than the C and C++ libraries, as an archive; made once, from Debian's packages. Its
/// folders are laid out as those of Debian's own image.
///
/// # Errors
/// The packages cannot be fetched or unpacked.
pub(super) fn debian(Place { folder, arch, .. }: &Place) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let archive = folder.join(format!("{SUITE}.tar"));
    if archive.is_file() {
        return Ok(archive);
    }
    let begun = Instant::now();
    println!("making a bare Debian 12 for {arch} from its packages …");
    let part = folder.join(format!("{SUITE}.part.tar"));
    capture(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=extract", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"])
            .args([&format!("--architectures={arch}"), &format!("--include={PACKAGES}"), SUITE])
            .arg(&part),
    )?;
    fs::rename(&part, &archive).with_context(|| format!("cannot write {}", archive.display()))?;
    println!("made a bare Debian 12 in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(archive)
}

/// Unpacks a tar archive into a folder that is made for it.
///
/// # Errors
/// `tar` says why not.
pub(super) fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    capture(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(folder))
        .map(drop)
}
