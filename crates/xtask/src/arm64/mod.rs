//! `cargo xtask arm64`: embedgate for arm64, built on a machine for amd64 and tested in an emulator.
//!
//! It is no part of `cargo xtask test`: it fetches 300 MB, builds everything for a second platform, and an emulated
//! processor takes some twenty times as long. What it cannot show is speed.

mod packages;
mod served;
mod toolchain;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use self::toolchain::Toolchain;
use crate::test::report::Report;
use crate::workspace::Workspace;
use crate::{process, serve, setup, test};

/// What is tested in the emulator, and the arguments that leave out what only tests the documentation's examples.
const TESTED: [(&str, &str); 3] =
    [("bert-cpu", "--lib"), ("openai-schema", "--tests"), ("inference", "--tests")];

/// Sets up, builds for both platforms, tests, compares, and prints the report; the exit code says whether all passed.
///
/// # Errors
/// Nothing could be run: this is no Debian for amd64, something cannot be fetched, or a build failed.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let toolchain = Toolchain::install(workspace)?;
    print!("{}", toolchain.version()?);
    setup::run(workspace)?;
    let library = setup::onnxruntime_for_arm64(workspace)?;
    serve::build_and_import(workspace)?;
    process::run(toolchain.cargo("build").args(["--release", "--package", "gateway"]))?;

    let mut report = Report::default();
    for (package, which) in TESTED {
        for mut suite in test::counted(|| tests(&toolchain, &library, package, which))? {
            suite.name += " · arm64";
            report.suites.push(suite);
        }
    }
    report.suites.push(served::run(workspace, &toolchain, &library));
    print!("{report}");
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tests(toolchain: &Toolchain, library: &Path, package: &str, which: &str) -> Command {
    let mut cargo = toolchain.cargo("test");
    cargo.args(["--no-fail-fast", "--package", package, which]);
    cargo.env("ORT_DYLIB_PATH", library).stdin(Stdio::null());
    cargo
}
