//! `cargo xtask test`: every test there is, one table, one last line that counts them all.

mod libtest;
pub(crate) mod report;

use std::env;
use std::io::{BufRead, BufReader, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use self::libtest::{Binaries, Parser};
use self::report::{Report, Suite};
use crate::workspace::Workspace;
use crate::{clients, process, serve, setup};

/// The setting that names the English STS benchmark's test set.
const STSB: &str = "EMBEDGATE_STSB";
/// The one test that needs it, in `crates/gateway/tests/e2e`.
const STSB_TEST: &str = "stsb_spearman_over_http";

#[derive(Args)]
pub(crate) struct Options {
    /// Run one part alone
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// `cargo test --workspace`: unit, integration and end-to-end tests
    Rust,
    /// OpenAI's and other SDKs against the release binary
    Clients,
}

/// Sets up, runs the parts and prints the report; the exit code says whether all passed.
///
/// # Errors
/// Nothing could be run: set-up or the build failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    setup::run(workspace)?;
    // The end-to-end tests read the imported graph; the clients drive this very binary.
    serve::build_and_import(workspace)?;

    let mut report = Report::default();
    type Run = fn(&Workspace, &mut Report) -> Result<()>;
    for (part, run) in [(Part::Rust, rust as Run), (Part::Clients, clients::run)] {
        if options.only.is_some_and(|only| only != part) {
            continue;
        }
        // What one part could not do must not hide what the other found.
        if let Err(error) = run(workspace, &mut report) {
            let mut suite = Suite::new(format!("{part:?}"));
            suite.fail(format!("{error:#}"));
            report.suites.push(suite);
        }
    }
    print!("{report}");
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `cargo test`, showing its output as it comes and reading the counts out of it.
fn rust(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let binaries = build(workspace)?;
    let mut cargo = cargo_test(workspace);
    cargo.arg("--no-fail-fast");
    let mut without_stsb = None;
    match stsb(workspace) {
        Some(path) => {
            cargo.env(STSB, path).args(["--", "--show-output"]);
        }
        None => {
            cargo.args(["--", "--show-output", "--skip", STSB_TEST]);
            without_stsb =
                Some(format!("{STSB_TEST}: {STSB} does not name the STS benchmark's English test set"));
        }
    }

    // Cargo names a test binary on standard error, the binary counts on standard output: one pipe keeps the order.
    let (reader, writer) = pipe().context("cannot make a pipe")?;
    cargo.stdout(writer.try_clone().context("cannot clone a pipe")?).stderr(writer);
    let mut child = cargo.spawn().context("cannot start cargo test")?;
    drop(cargo); // It holds the pipe's other end, and the loop below ends when nobody does.

    let mut parser = Parser::new(binaries);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read cargo test's output")?;
        let line = String::from_utf8_lossy(&line);
        if parser.line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    let mut suites = parser.finish();
    if !status.success() && suites.iter().all(|suite| suite.failed == 0) {
        let mut suite = Suite::new("cargo test");
        suite.fail(format!("`cargo test` ended with {status}, and no test said why"));
        suites.push(suite);
    }
    // libtest says how many it left out, never which; only one is left out on purpose.
    for suite in &mut suites {
        let said = |note: &&String| note.starts_with("skipped ") && !note.starts_with("skipped parts of ");
        if suite.skipped > suite.notes.iter().filter(said).count() {
            let reason = without_stsb.take().unwrap_or_else(|| "left out by libtest".into());
            suite.notes.push(format!("skipped {reason}"));
        }
    }
    report.suites.extend(suites);
    Ok(())
}

/// Compiles the tests, and learns which package each binary belongs to: running, Cargo names the binary alone.
fn build(workspace: &Workspace) -> Result<Binaries> {
    let mut cargo = cargo_test(workspace);
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot start cargo test")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let mut binaries = Binaries::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Message = serde_json::from_str(line).context("cannot read what Cargo built")?;
        if let (Some(executable), Some(manifest)) = (message.executable, message.manifest_path) {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            binaries.insert(name(&executable), name(manifest.parent().unwrap_or(&manifest)));
        }
    }
    Ok(binaries)
}

/// The part that we read of Cargo's messages; the folder of a package has its name.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
}

fn cargo_test(workspace: &Workspace) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--workspace", "--locked"]).current_dir(workspace.root()).stdin(Stdio::null());
    cargo
}

/// The benchmark may not be copied into the project, so it is looked for: first where the setting says.
fn stsb(workspace: &Workspace) -> Option<PathBuf> {
    let path = env::var_os(STSB)
        .map_or_else(|| workspace.root().join("../shared/data/stsb-en-test.csv"), PathBuf::from);
    path.is_file().then_some(path)
}
