//! `cargo xtask test`: every test there is, one table, one last line that counts them all.

mod libtest;
pub(crate) mod report;
mod standstill;

use std::env;
use std::io::{BufRead, BufReader, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use self::libtest::{Binaries, Parser};
use self::report::{Report, Suite};
use self::standstill::Watch;
use crate::workspace::Workspace;
use crate::{chart, clients, image, monitoring, process, serve, setup, survive};

/// The setting that names the English STS benchmark's test set.
const STSB: &str = "EMBEDGATE_STSB";
/// The one test that needs it, in `crates/gateway/tests/e2e`.
const STSB_TEST: &str = "stsb_spearman_over_http";
/// How often a part is tried on a machine that stands still.
const ATTEMPTS: usize = 3;

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
    /// The crate with `unsafe` once more, under AddressSanitizer
    Sanitizer,
    /// OpenAI's and other SDKs against the release binary
    Clients,
    /// The Helm chart: rendered, checked, and run
    Chart,
    /// The container image and the archive: built, looked at, and run
    Image,
    /// Metrics, rules, alerts and dashboard, with a real Prometheus
    Monitoring,
    /// Overload, long load and faults against the release binary
    Survival,
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
    let parts = [
        (Part::Rust, rust as Run),
        (Part::Sanitizer, sanitizer),
        (Part::Clients, clients::run),
        (Part::Chart, chart::run),
        (Part::Image, image::run),
        (Part::Monitoring, monitoring::run),
        (Part::Survival, survive::short),
    ];
    for (part, run) in parts {
        if options.only.is_none_or(|only| only == part) {
            report.suites.extend(watched(part, |report| run(workspace, report)));
        }
    }
    print!("{report}");
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a part, and again where it failed while the machine stood still.
fn watched(part: Part, run: impl Fn(&mut Report) -> Result<()>) -> Vec<Suite> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let watch = Watch::start();
        let mut report = Report::default();
        // What one part could not do must not hide what the other found.
        if let Err(error) = run(&mut report) {
            let mut suite = Suite::new(format!("{part:?}"));
            suite.fail(format!("{error:#}"));
            report.suites.push(suite);
        }
        let standstill = watch.end();
        let Some(broken) = report.suites.iter_mut().find(|suite| suite.failed > 0) else {
            return report.suites;
        };
        let said = format!("the machine stood still for {standstill:.1?} at most while it was tested");
        if attempts == ATTEMPTS || !standstill::excuses(standstill) {
            broken.notes.push(said);
            return report.suites;
        }
        println!("\n{report}{said}; once more");
    }
}

/// Runs `cargo test`, showing its output as it comes and reading the counts out of it.
fn rust(workspace: &Workspace, report: &mut Report) -> Result<()> {
    if cfg!(unix) {
        setup::redis::install(workspace)?;
    }
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

    let mut suites = count(cargo, build(cargo_test(workspace))?)?;
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

/// Runs the kernels' tests with every access to memory checked. The sanitizer is an unstable flag of the compiler,
/// which `RUSTC_BOOTSTRAP` opens on a stable one; what it builds lies apart, so that nothing else is built again.
fn sanitizer(workspace: &Workspace, report: &mut Report) -> Result<()> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    if !cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
        let mut suite = Suite::new("bert-cpu · AddressSanitizer");
        suite.skip(format!("only set up for {TARGET}"));
        report.suites.push(suite);
        return Ok(());
    }
    let command = || {
        let mut cargo = process::cargo();
        cargo.args(["test", "--package=bert-cpu", "--lib", "--locked", "--target", TARGET]);
        // A target of its own keeps the flag away from build scripts and procedural macros.
        cargo.env("RUSTFLAGS", "-Zsanitizer=address").env("RUSTC_BOOTSTRAP", "1");
        cargo.env("CARGO_TARGET_DIR", workspace.root().join("target/sanitizer"));
        cargo.current_dir(workspace.root()).stdin(Stdio::null());
        cargo
    };
    for mut suite in counted(command)? {
        suite.name += " · AddressSanitizer";
        report.suites.push(suite);
    }
    Ok(())
}

/// Compiles and runs the tests that `command` asks Cargo for.
///
/// # Errors
/// They do not compile, or Cargo cannot be run. What fails is in the suites instead.
pub(crate) fn counted(command: impl Fn() -> Command) -> Result<Vec<Suite>> {
    let mut cargo = command();
    cargo.args(["--", "--show-output"]);
    count(cargo, build(command())?)
}

/// Runs `cargo test`, showing its output as it comes, and reads the counts out of it.
fn count(mut cargo: Command, binaries: Binaries) -> Result<Vec<Suite>> {
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
    Ok(suites)
}

/// Compiles the tests, and learns which package each binary belongs to: running, Cargo names the binary alone.
fn build(mut cargo: Command) -> Result<Binaries> {
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
