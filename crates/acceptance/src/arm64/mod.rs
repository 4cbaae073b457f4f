//! `cargo xtask arm64`: embedgate for arm64, built on amd64 and tested in an emulator.
//!
//! It is not a part of `cargo xtask test`: it fetches about 400 MB, builds everything for a second platform, and the
//! emulator is about twenty times slower than a CPU.

mod served;
mod toolchain;

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use self::toolchain::Toolchain;
use crate::image::{self, Place};
use testkit::report::{Report, Suite};
use testkit::workspace::Workspace;
use xtask::dist::{self, Platform};
use xtask::test::cargo_test;
use xtask::{serve, setup};

/// Packages tested in the emulator; the arguments exclude documentation examples and OpenVINO.
const TESTED: [(&str, &[&str]); 3] =
    [("bert-cpu", &["--lib"]), ("openai-schema", &["--tests"]), ("inference", &["--lib", "--test=it"])];

/// Sets up, builds for both platforms, tests, and compares. Needs Debian for amd64.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let toolchain = Toolchain::install(workspace)?;
    print!("{}", toolchain.version()?);
    setup::run(workspace)?;
    let library = setup::onnxruntime_for_arm64(workspace)?;
    serve::build_and_import(workspace)?;
    testkit::process::run(toolchain.cargo("build").args(["--release", "--package", "gateway"]))?;

    for (package, which) in TESTED {
        for mut suite in cargo_test(|| tests(&toolchain, &library, package, which))? {
            suite.name += " · arm64";
            report.suites.push(suite);
        }
    }
    report.suites.push(served::run(workspace, &toolchain, &library));
    report.suites.push(image(workspace, &toolchain, &library)?);
    Ok(())
}

/// In the release profile, so that most crates are built once and the emulator runs optimized code.
fn tests(toolchain: &Toolchain, library: &Path, package: &str, which: &[&str]) -> Command {
    let mut cargo = toolchain.cargo("test");
    cargo.args(["--release", "--no-fail-fast", "--package", package]).args(which);
    cargo.env("ORT_DYLIB_PATH", library);
    cargo
}

/// The shipped image with a Debian and a program for arm64.
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
