//! `cargo xtask test`: all tests, one table, and one last line that counts them.

mod libtest;

use std::env;
use std::io::{BufRead, BufReader, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use testkit::files;
use testkit::process;
use testkit::report::{Report, Suite};
use testkit::workspace::Workspace;

use self::libtest::{Binaries, Parser};
use crate::{forward, serve, setup};

/// Variable that names the English STS benchmark's test set.
const STSB: &str = "EMBEDGATE_STSB";

/// Arguments of the command.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Run one group alone
    #[arg(long, value_enum)]
    only: Option<Group>,
}

/// A group of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// `cargo test --workspace`: unit, integration and end-to-end tests
    Rust,
    /// The kernels' unit tests under AddressSanitizer
    Sanitizer,
    /// OpenAI's and other SDKs against the release binary
    Clients,
    /// The Helm chart: rendered, checked, and run
    Chart,
    /// The container image and the archive: built, inspected, and run
    Image,
    /// Metrics, rules, alerts and dashboard, with a real Prometheus
    Monitoring,
    /// The page at `/`, in a headless Chromium
    Page,
    /// Overload, long load and faults against the release binary, without judging times
    Stress,
}

/// Sets up, runs the groups and prints the report; the exit code is 0 if all passed.
pub(crate) fn run(workspace: &Workspace, options: &TestArgs) -> Result<ExitCode> {
    setup::run(workspace)?;
    // The end-to-end tests read the imported graph; the other groups test the release binary.
    serve::build_and_import(workspace)?;
    let mut report = Report::default();
    for group in Group::value_variants() {
        if options.only.is_some_and(|only| only != *group) {
            continue;
        }
        let name = group.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        report.run(&name, |report| match group {
            Group::Rust => rust(workspace, report),
            Group::Sanitizer => sanitizer(workspace, report),
            Group::Stress => program(workspace, "stress", "suite", report),
            Group::Clients | Group::Chart | Group::Image | Group::Monitoring | Group::Page => {
                program(workspace, "acceptance", &name, report)
            }
        });
    }
    Ok(if report.publish(None)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a program of the workspace that writes its report to a file, and adds its suites.
fn program(workspace: &Workspace, package: &str, name: &str, report: &mut Report) -> Result<()> {
    let file = tempfile::NamedTempFile::new().context("cannot create a file for a report")?;
    let arguments = [name, "--report", &file.path().to_string_lossy()].map(str::to_owned);
    // A failed check is part of the report; without a report the program itself failed.
    let status = forward(workspace, package, &arguments);
    let text = files::read_text(file.path())?;
    match serde_json::from_str::<Report>(&text) {
        Ok(found) => report.suites.extend(found.suites),
        Err(error) => bail!("no report: {}", status.err().unwrap_or_else(|| error.into())),
    }
    Ok(())
}

/// Runs `cargo test --workspace`.
fn rust(workspace: &Workspace, report: &mut Report) -> Result<()> {
    setup::redis::install(workspace)?;
    report.suites.extend(cargo_test(|| {
        let mut cargo = process::cargo();
        cargo.args(["test", "--workspace", "--locked", "--no-fail-fast"]).current_dir(workspace.root());
        if let Some(path) = stsb(workspace) {
            cargo.env(STSB, path);
        }
        cargo
    })?);
    Ok(())
}

/// Runs the kernels' tests with every memory access checked. The sanitizer is an unstable compiler flag, which
/// `RUSTC_BOOTSTRAP` enables on a stable compiler; a target folder of its own avoids rebuilding everything else.
fn sanitizer(workspace: &Workspace, report: &mut Report) -> Result<()> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    if !cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
        let mut suite = Suite::new("bert-cpu · AddressSanitizer");
        suite.skip(format!("only set up for {TARGET}"));
        report.suites.push(suite);
        return Ok(());
    }
    for mut suite in cargo_test(|| {
        let mut cargo = process::cargo();
        cargo.args(["test", "--package=bert-cpu", "--lib", "--locked", "--target", TARGET]);
        // An explicit target keeps the flag away from build scripts and procedural macros.
        cargo.env("RUSTFLAGS", "-Zsanitizer=address").env("RUSTC_BOOTSTRAP", "1");
        cargo
            .env("CARGO_TARGET_DIR", workspace.root().join("target/sanitizer"))
            .current_dir(workspace.root());
        cargo
    })? {
        suite.name += " · AddressSanitizer";
        report.suites.push(suite);
    }
    Ok(())
}

/// Compiles and runs the tests of a `cargo test` command, shows its output and counts the results.
///
/// # Errors
/// The tests do not compile, or Cargo cannot be run. Failed tests are in the suites instead.
pub fn cargo_test(command: impl Fn() -> Command) -> Result<Vec<Suite>> {
    let binaries = build(command())?;
    let mut cargo = command();
    // Cargo names a test binary on standard error, the binary counts on standard output: one pipe keeps the order.
    let (reader, writer) = pipe().context("cannot create a pipe")?;
    cargo.stdout(writer.try_clone().context("cannot clone a pipe")?).stderr(writer).stdin(Stdio::null());
    let mut child = cargo.spawn().context("cannot start cargo test")?;
    drop(cargo); // It holds the pipe's write end, and the loop below ends when all are closed.

    let mut parser = Parser::new(binaries);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read cargo test's output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        parser.line(&line);
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    let mut suites = parser.finish();
    if !status.success() && suites.iter().all(|suite| suite.failed == 0) {
        let mut suite = Suite::new("cargo test");
        suite.fail(format!("`cargo test` ended with {status} without a failed test"));
        suites.push(suite);
    }
    Ok(suites)
}

/// Compiles the tests, and returns the package of each binary: `cargo test` prints only the binary's name.
fn build(mut cargo: Command) -> Result<Binaries> {
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot start cargo test")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let mut binaries = Binaries::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Message = serde_json::from_str(line).context("cannot read Cargo's messages")?;
        if let (Some(executable), Some(manifest)) = (message.executable, message.manifest_path) {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            binaries.insert(name(&executable), name(manifest.parent().unwrap_or(&manifest)));
        }
    }
    Ok(binaries)
}

/// The part of Cargo's messages that is read here; a package's folder has its name.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
}

/// Path of the English STS benchmark, whose license does not allow a copy in the project: the variable's path, or that
/// of a folder next to the checkout.
fn stsb(workspace: &Workspace) -> Option<PathBuf> {
    let path = env::var_os(STSB)
        .map_or_else(|| workspace.root().join("../shared/data/stsb-en-test.csv"), PathBuf::from);
    path.is_file().then_some(path)
}
