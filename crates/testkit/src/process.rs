//! Child processes whose errors carry the command line and the output.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The Cargo that runs this program, so that a toolchain override also holds for nested builds.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from));
    // Cargo sets these variables for the package that it runs. A build script that watches one runs again if the value
    // differs, so a nested build and a build from a shell would each invalidate the other's results.
    remove_env_if(&mut cargo, |name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
    cargo
}

/// Removes the environment variables that `unwanted` selects from `command`.
pub fn remove_env_if(command: &mut Command, unwanted: impl Fn(&str) -> bool) -> &mut Command {
    for (name, _) in env::vars_os().filter(|(name, _)| unwanted(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// Removes embedgate's settings in the developer's environment from `command`.
pub fn remove_embedgate_env(command: &mut Command) -> &mut Command {
    remove_env_if(command, |name| name.starts_with("EMBEDGATE_"))
}

/// Sends a signal, such as `TERM`, to a process.
///
/// # Errors
/// There is no such process.
pub fn signal(id: u32, name: &str) -> Result<()> {
    // Uses the shell's built-in `kill`, because a minimal system may lack the program.
    let script = format!("kill -{name} {id}");
    capture(Command::new("sh").args(["-c", &script])).map(drop)
}

/// Runs `command` with this process's standard streams.
///
/// # Errors
/// The command cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` and returns its standard output.
///
/// # Errors
/// As [`run`]; the message ends with the output.
pub fn capture(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    stdout_of(&line, &output)
}

/// Standard output of a finished command.
///
/// # Errors
/// The command failed; the message ends with its output.
pub fn stdout_of(line: &str, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}\n{}{}", output.status, stdout, stderr.trim_end());
    }
    Ok(stdout.into_owned())
}

/// Prints the error, if there is one. Returns success only for `Ok(true)`.
pub fn exit_code(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line for messages.
pub fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// A word of a shell's command line that stands for `text`.
pub fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
