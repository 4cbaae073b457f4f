//! `cargo xtask avx512`: tests of kernels for instruction sets that this machine may lack, in an emulated machine.
//!
//! It is not a part of `cargo xtask test`: it fetches about 100 MB, builds the kernels once more, and the emulator is
//! hundreds of times slower than a CPU.

mod emulator;
mod initramfs;

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use testkit::process;
use testkit::report::Report;
use testkit::workspace::Workspace;
use xtask::test::cargo_test;

use self::emulator::Emulator;

/// Target triple. Naming it keeps the flags below away from build scripts and procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Packages tested in the emulated machine, and which of their test binaries.
const TESTED: [(&str, &str); 1] = [("bert-cpu", "--lib")];
/// Instruction sets of the emulated machine, in the names of `bert-cpu`, whose build script reads them.
const ISAS: &str = "avx2,avx2-int8,avx-vnni,avx512,avx512-vnni,avx512-bf16";
/// Tests that run by default. The last one fails if the emulated machine has other instruction sets than [`ISAS`].
const TESTS: [&str; 3] = ["avx512", "avx_vnni", "the_build_script_detected_this_cpu"];

/// Sets up, builds and tests. `tests` are parts of names; if there are none, [`TESTS`]. Needs Debian for amd64.
pub(crate) fn run(workspace: &Workspace, tests: &[String], report: &mut Report) -> Result<()> {
    Emulator::install(workspace)?;
    let program = env::current_exe().context("cannot find this program's file")?;
    let tests = if tests.is_empty() { TESTS.join(",") } else { tests.join(",") };
    let runner = format!("{} boot --tests {tests}", program.display());
    for (package, which) in TESTED {
        for mut suite in cargo_test(|| cargo(workspace, &runner, package, which))? {
            suite.name += " · emulated";
            report.suites.push(suite);
        }
    }
    Ok(())
}

/// `cargo test` for the emulated machine, in the release profile and into a target folder of its own. Static programs
/// need no libraries there.
fn cargo(workspace: &Workspace, runner: &str, package: &str, which: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--locked", "--release", "--no-fail-fast", "--target", TARGET]);
    cargo.args(["--package", package, which]).current_dir(workspace.root());
    cargo.env("CARGO_TARGET_DIR", workspace.root().join("target/avx512"));
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("BERT_CPU_TEST_ISAS", ISAS);
    cargo
}

/// Runs tests of a static test binary in the emulated machine and prints their output; returns true if they passed.
pub(crate) fn boot(workspace: &Workspace, binary: &Path, tests: &[String]) -> Result<bool> {
    let status = Emulator::install(workspace)?.run(binary, tests, |line| println!("{line}"))?;
    Ok(status == 0)
}
