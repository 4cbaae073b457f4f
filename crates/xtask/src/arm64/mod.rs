//! `cargo xtask arm64`: embedgate for arm64, built on a machine for amd64 and tested in an emulator.
//!
//! It is no part of `cargo xtask test`: it fetches some 400 MB, builds everything for a second platform, and an emulated
//! processor takes some twenty times as long. What it cannot show is speed.

mod packages;
mod served;
mod toolchain;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use self::toolchain::Toolchain;
use crate::dist::{self, Platform};
use crate::image::{self, Place};
use crate::test::report::{Report, Suite};
use crate::workspace::Workspace;
use crate::{process, serve, setup, test};

/// What is tested in the emulator, and the arguments that leave out examples in the documentation, and OpenVINO.
const TESTED: [(&str, &[&str]); 3] =
    [("bert-cpu", &["--lib"]), ("openai-schema", &["--tests"]), ("inference", &["--lib", "--test=it"])];

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
    report.suites.push(image(workspace, &toolchain, &library)?);
    print!("{report}");
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As the program is built, so that most of it is built once, and an emulator has no more to do than it must.
fn tests(toolchain: &Toolchain, library: &Path, package: &str, which: &[&str]) -> Command {
    let mut cargo = toolchain.cargo("test");
    cargo.args(["--release", "--no-fail-fast", "--package", package]).args(which);
    cargo.env("ORT_DYLIB_PATH", library).stdin(Stdio::null());
    cargo
}

/// The image as it is shipped, with a Debian and a program for arm64.
fn image(workspace: &Workspace, toolchain: &Toolchain, library: &Path) -> Result<Suite> {
    let folder = toolchain.folder().join("image");
    let context = folder.join("context");
    let onnxruntime = library.parent().unwrap_or(library).to_path_buf();
    let platform = Platform { arch: "aarch64", binary: toolchain.release_binary(), onnxruntime };
    dist::lay_out_for(&platform, workspace, &context.join("opt/embedgate"))?;
    let place = Place { folder, arch: "arm64", emulator: Some(toolchain.emulator_file()) };
    let mut suite = Suite::new("image for arm64, built and run");
    image::run_at(place, workspace, &context, &mut suite)?;
    Ok(suite)
}
