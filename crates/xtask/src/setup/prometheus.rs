//! A Prometheus for the tests: Debian's package, unpacked without being installed, so that no service starts and no
//! root is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::files;
use testkit::process::capture;
use testkit::workspace::Workspace;

/// Server and tool, both in one folder.
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];
const HINT: &str = "no Prometheus for the tests: install prometheus and promtool";

/// Makes sure that there is a Prometheus, and returns the folder of `prometheus` and `promtool`: one of the search
/// path, or `.runtime/prometheus/usr/bin`.
///
/// # Errors
/// There is none, and Debian's package cannot be downloaded.
pub fn install(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.runtime().join("prometheus");
    let own = root.join("usr/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(folder) =
        std::env::split_paths(&path).chain([own.clone()]).find(|folder| has_programs(folder))
    {
        return Ok(folder);
    }
    println!("unpacking Debian's prometheus for the tests …");
    files::create_empty_folder(&root)?;
    let apt = |arguments: &[&str]| {
        capture(Command::new("apt-get").arg("--quiet").args(arguments).current_dir(&root))
    };
    if apt(&["download", "prometheus"]).is_err() {
        // The package lists may be missing or older than the mirror.
        apt(&["update"]).and_then(|_| apt(&["download", "prometheus"])).context(HINT)?;
    }
    for package in files::list(&root)? {
        if package.extension().is_some_and(|extension| extension == "deb") {
            capture(Command::new("dpkg").arg("--extract").arg(&package).arg(&root))?;
            files::remove(&package)?;
        }
    }
    ensure!(has_programs(&own), HINT);
    Ok(own)
}

fn has_programs(folder: &Path) -> bool {
    PROGRAMS.iter().all(|name| {
        let program = folder.join(name);
        program.is_file() && capture(Command::new(program).arg("--version")).is_ok()
    })
}
