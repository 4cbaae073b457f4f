//! Child processes that fail with their command line and what they said.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The Cargo that runs us, so that a toolchain override holds for what we build too.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from));
    // It told us about our own package. Build scripts that watch these variables would take that for a change, and a
    // build from here and one by hand would undo each other.
    without(&mut cargo, |name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
    cargo
}

/// Keeps from `command` the variables whose names are `unwanted`.
pub(crate) fn without(command: &mut Command, unwanted: impl Fn(&str) -> bool) -> &mut Command {
    for (name, _) in env::vars_os().filter(|(name, _)| unwanted(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// Keeps the user's own settings of embedgate from `command`.
pub(crate) fn without_settings(command: &mut Command) -> &mut Command {
    without(command, |name| name.starts_with("EMBEDGATE_"))
}

/// Sends SIGTERM to a process.
///
/// # Errors
/// There is no such process any more.
pub(crate) fn terminate(id: u32) -> Result<()> {
    // The shell's own `kill`: a slim machine may lack the program of that name.
    capture(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id.to_string()])).map(drop)
}

/// Runs `command` with the terminal as it is.
///
/// # Errors
/// The command cannot be started, or exits other than with success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` unseen and yields what it printed.
///
/// # Errors
/// As [`run`]; the message ends with what the command printed.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    said(&line, &output)
}

/// What a finished command printed to standard output.
///
/// # Errors
/// It did not exit with success; the message ends with what it printed.
pub(crate) fn said(line: &str, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}\n{}{}", output.status, stdout, stderr.trim_end());
    }
    Ok(stdout.into_owned())
}

/// A command as one would type it, for messages.
pub(crate) fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
