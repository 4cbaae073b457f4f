//! The project's own commands: set up, serve, test, and hold the house rules.
//!
//! `cargo xtask serve` and `cargo xtask test` are the two that a newcomer needs; both set up first.
//! The crate depends on no other crate of the workspace, so that it builds before any of them does.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

mod arm64;
mod bench;
mod chart;
mod clients;
mod digest;
mod dist;
mod image;
mod monitoring;
mod process;
mod sbom;
mod serve;
mod server;
mod setup;
mod survive;
mod tap;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "embedgate's own commands")]
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
    /// Set up, then run every test: Rust's, and real clients against the release binary
    Test(test::Options),
    /// Measure the server beside others, on this machine, in one run
    Bench(Box<bench::Options>),
    /// Pack everything that a machine without this checkout needs into one archive
    Dist(dist::Options),
    /// Put the release binary on trial: overload, long load, faults
    Survive(survive::Options),
    /// Build embedgate for arm64 and test it in an emulator; on Debian for amd64
    Arm64,
    /// List what is inside the binary, as a CycloneDX document
    Sbom(sbom::Options),
    /// Check the house rules: crate arrows, file names, docs links
    Tidy,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    match command {
        Command::Setup(extras) => setup::run_with(&workspace, &extras).map(|()| ExitCode::SUCCESS),
        Command::Serve { args } => serve::run(&workspace, &args),
        Command::Test(options) => test::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options).map(|()| ExitCode::SUCCESS),
        Command::Dist(options) => dist::run(&workspace, &options).map(|()| ExitCode::SUCCESS),
        Command::Survive(options) => survive::run(&workspace, &options),
        Command::Arm64 => arm64::run(&workspace),
        Command::Sbom(options) => sbom::run(&workspace, &options).map(|()| ExitCode::SUCCESS),
        Command::Tidy => tidy::run(&workspace),
    }
}
