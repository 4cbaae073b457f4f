//! The developers' commands: set up, serve, test, pack, and check the project's rules.
//!
//! `cargo xtask serve` and `cargo xtask test` are the two that a newcomer needs; both run the setup first. The crate
//! depends on no shipped crate, so that it builds before them. `bench`, `stress` and `acceptance` are separate programs
//! that use this library; `cargo xtask bench`, `stress`, `test`, `arm64` and `avx512` run them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

mod cargo_metadata;
mod digest;
pub mod dist;
mod sbom;
pub mod serve;
pub mod setup;
pub mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use testkit::process;
use testkit::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "embedgate's developer commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch ONNX Runtime and the model's weights; does nothing, offline, once they are there
    Setup(setup::Extras),
    /// Set up, build the release binary, import the model and serve it
    Serve {
        /// Passed on to `embedgate serve`, for example `--listen 0.0.0.0:8080`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Set up, then run all tests: Rust's, and real clients against the release binary
    Test(test::TestArgs),
    /// Measure the server and other servers on this machine, in one run
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the program `bench`; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Pack everything that a machine without this checkout needs into one archive
    Dist(dist::DistArgs),
    /// Stress the release binary: overload, long load, faults
    Stress {
        /// The scenario
        #[arg(value_enum)]
        scenario: Scenario,
        /// Arguments of the program `stress`, such as `--seconds 60`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build embedgate for arm64 and test it in an emulator; on Debian for amd64
    Arm64,
    /// Test kernels for AVX-512 on any machine, in an emulator; on Debian for amd64
    Avx512 {
        /// Names of tests or parts of them; by default those of AVX-512
        tests: Vec<String>,
    },
    /// List the contents of the binary as a CycloneDX document
    Sbom(sbom::SbomArgs),
    /// Check the project's rules: crate dependencies, file names, links, language
    Tidy,
}

/// A stress scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Ten times as many requests as the server can answer
    Overload,
    /// Mixed load for a long time: memory, descriptors and threads must not grow
    Soak,
    /// Damaged files, full disks, signals at bad moments, a remote cache that disappears
    Faults,
}

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    run(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let done = match command {
        Command::Setup(extras) => setup::run_with(&workspace, &extras),
        Command::Serve { args } => return serve::run(&workspace, &args),
        Command::Test(options) => return test::run(&workspace, &options),
        Command::Bench { args } => forward(&workspace, "bench", &args),
        Command::Dist(options) => dist::run(&workspace, &options),
        Command::Stress { scenario, args } => {
            forward(&workspace, "stress", &[&[scenario.name()], &args[..]].concat())
        }
        Command::Arm64 => forward(&workspace, "acceptance", &["arm64".to_owned()]),
        Command::Avx512 { tests } => {
            forward(&workspace, "acceptance", &[&["avx512".to_owned()], &tests[..]].concat())
        }
        Command::Sbom(options) => sbom::run(&workspace, &options),
        Command::Tidy => return tidy::run(&workspace),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Builds and runs a program of the workspace.
fn forward(workspace: &Workspace, package: &str, args: &[String]) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--locked", "--package", package, "--"]).args(args);
    process::run(cargo.current_dir(workspace.root()))
}
