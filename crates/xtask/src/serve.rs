//! `cargo xtask serve`: from a fresh clone to a listening server.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use testkit::process;
use testkit::workspace::{DEFAULT_MODEL, Workspace};

use crate::setup;

/// Sets up, builds, imports, then replaces itself with `embedgate serve ARGS`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    setup::run(workspace)?;
    build_and_import(workspace)?;
    let mut server = Command::new(workspace.release_binary());
    replace_process(server.arg("serve").args(args).current_dir(workspace.root()))
}

/// Builds the release binary and imports the default model; quick when both are up to date.
///
/// # Errors
/// The build or the import fails.
pub fn build_and_import(workspace: &Workspace) -> Result<()> {
    let mut build = process::cargo();
    build.args(["build", "--release", "--locked", "--package", "gateway"]);
    process::run(build.current_dir(workspace.root()))?;
    let mut import = Command::new(workspace.release_binary());
    import.args(["model", "import"]).arg(Path::new("models").join(DEFAULT_MODEL));
    process::run(import.current_dir(workspace.root()))
}

/// Replaces this process, so that signals and the exit status are the server's.
#[cfg(unix)]
fn replace_process(server: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let error = server.exec();
    Err(anyhow::Error::new(error).context(format!("cannot start `{}`", process::line(server))))
}

#[cfg(not(unix))]
fn replace_process(server: &mut Command) -> Result<ExitCode> {
    process::run(server).map(|()| ExitCode::SUCCESS)
}
