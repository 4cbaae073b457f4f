//! `cargo xtask serve`: from a fresh clone to a listening server.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Error, Result};
use testkit::process;
use testkit::workspace::{DEFAULT_MODEL, Workspace};

use crate::setup;

/// Sets up, builds, imports, then replaces itself with `embedgate serve ARGS`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    setup::run(workspace)?;
    build_and_import(workspace)?;
    let mut server = Command::new(workspace.release_binary());
    // Replaces this process, so that signals and the exit status are the server's.
    let error = server.arg("serve").args(args).current_dir(workspace.root()).exec();
    Err(Error::new(error).context(format!("cannot start `{}`", process::command_line(&server))))
}

/// Builds the release binary and imports the default model, unless both are up to date.
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
