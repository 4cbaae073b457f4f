//! `cargo xtask serve`: from a fresh clone to a listening server.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::workspace::{DEFAULT_MODEL, Workspace};
use crate::{process, setup};

/// Sets up, builds, imports, then becomes `embedgate serve ARGS`.
///
/// # Errors
/// Any step before the server fails. The server's own failure is its exit status.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    setup::run(workspace)?;
    build_and_import(workspace)?;
    let mut server = Command::new(workspace.release_binary());
    server.arg("serve").args(args.iter().map(OsStr::new)).current_dir(workspace.root());
    become_child(&mut server)
}

/// Builds the release binary and lets it turn the model's folder into a graph; quick when both are up to date.
///
/// # Errors
/// The build or the import fails.
pub(crate) fn build_and_import(workspace: &Workspace) -> Result<()> {
    process::run(
        process::cargo()
            .args(["build", "--release", "--locked", "--package", "gateway"])
            .current_dir(workspace.root()),
    )?;
    process::run(
        Command::new(workspace.release_binary())
            .args(["model", "import"])
            .arg(Path::new("models").join(DEFAULT_MODEL))
            .current_dir(workspace.root()),
    )
}

/// Replaces this process, so that signals and the exit status are the server's own.
#[cfg(unix)]
fn become_child(server: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let error = server.exec();
    Err(anyhow::Error::new(error).context(format!("cannot start `{}`", process::line(server))))
}

#[cfg(not(unix))]
fn become_child(server: &mut Command) -> Result<ExitCode> {
    process::run(server).map(|()| ExitCode::SUCCESS)
}
