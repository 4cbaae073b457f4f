//! Requirements on the host for building and running images: root, programs, and a Debian root file system.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::Place;
use testkit::files;
use testkit::process::capture;
use xtask::setup::apt;

/// Programs, which are also the names of their Debian packages.
const PROGRAMS: [&str; 4] = ["buildah", "crun", "mmdebstrap", "podman"];
/// The Debian release of Dockerfile and archive.
const SUITE: &str = "bookworm";
/// The C and C++ libraries, which the Dockerfile copies.
const PACKAGES: &str = "base-files,libc6,libgcc-s1,libstdc++6";

/// Installs what is missing; the error is the reason why images cannot be built or run here.
pub(super) fn prepare() -> std::result::Result<(), String> {
    let root = capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root {
        return Err("only root can build and run images here".to_owned());
    }
    capture(Command::new("unshare").args(["--mount", "--propagation", "private", "true"]))
        .map_err(|error| format!("this machine does not allow namespaces: {error:#}"))?;
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt::install(&missing).map_err(|error| format!("{} cannot be installed: {error:#}", missing.join(", ")))
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A Debian 12 with little more than the C and C++ libraries, as an archive; made once from Debian's packages, with the
/// folders of Debian's own image.
pub(super) fn debian(Place { folder, arch, .. }: &Place) -> Result<PathBuf> {
    files::create_folder(folder)?;
    let archive = folder.join(format!("{SUITE}.tar"));
    if archive.is_file() {
        return Ok(archive);
    }
    let started = Instant::now();
    println!("making a minimal Debian 12 for {arch} from its packages …");
    let part = folder.join(format!("{SUITE}.part.tar"));
    capture(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=extract", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"])
            .args([&format!("--architectures={arch}"), &format!("--include={PACKAGES}"), SUITE])
            .arg(&part),
    )?;
    fs::rename(&part, &archive).with_context(|| format!("cannot write {}", archive.display()))?;
    println!("made a minimal Debian 12 in {:.0} s", started.elapsed().as_secs_f64());
    Ok(archive)
}

/// Unpacks a tar archive into a new folder.
pub(super) fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    files::create_folder(folder)?;
    capture(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(folder))
        .map(drop)
}
