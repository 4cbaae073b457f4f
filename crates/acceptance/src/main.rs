//! The program behind the groups of `cargo xtask test` that check the release: clients, chart, image, archive,
//! monitoring, page; and behind `cargo xtask arm64` and `avx512`.
#![allow(clippy::print_stdout, reason = "a command line tool talks to its terminal")]

mod arm64;
mod avx512;
mod chart;
mod clients;
mod image;
mod monitoring;
mod packages;
mod page;
mod tap;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use testkit::process;
use testkit::report::Report;
use testkit::workspace::Workspace;
use testkit::{Server, embedgate};

#[derive(Parser)]
#[command(about = "Checks the release binary as users and operators meet it; run by `cargo xtask test`")]
struct Options {
    #[command(subcommand)]
    group: Group,
    /// Write the report to this file, as JSON
    #[arg(long, global = true, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Group {
    /// OpenAI's and other SDKs
    Clients,
    /// The Helm chart: rendered, checked, and run
    Chart,
    /// The container image and the archive: built, inspected, and run
    Image,
    /// Metrics, rules, alerts and dashboard, with a real Prometheus
    Monitoring,
    /// The page at `/`, in a headless Chromium
    Page,
    /// Build for arm64 and test in an emulator; on Debian for amd64
    Arm64,
    /// Test kernels for AVX-512 in an emulated machine; on Debian for amd64
    Avx512 {
        /// Names of tests or parts of them; by default those of AVX-512
        tests: Vec<String>,
    },
    /// Run a test binary in the emulated machine: Cargo's runner for `avx512`
    #[command(hide = true)]
    Boot {
        /// Names of tests or parts of them
        #[arg(long, value_delimiter = ',')]
        tests: Vec<String>,
        binary: PathBuf,
    },
}

fn main() -> ExitCode {
    process::exit_code(run(&Options::parse()))
}

fn run(options: &Options) -> Result<bool> {
    let workspace = Workspace::locate()?;
    let mut report = Report::default();
    let result = match &options.group {
        Group::Clients => clients::run(&workspace, &mut report),
        Group::Chart => chart::run(&workspace, &mut report),
        Group::Image => image::run(&workspace, &mut report),
        Group::Monitoring => monitoring::run(&workspace, &mut report),
        Group::Page => page::run(&workspace, &mut report),
        Group::Arm64 => arm64::run(&workspace, &mut report),
        Group::Avx512 { tests } => avx512::run(&workspace, tests, &mut report),
        Group::Boot { tests, binary } => return avx512::boot(&workspace, binary, tests),
    };
    report.run("acceptance", |_| result);
    report.publish(options.report.as_deref())
}

/// Starts `embedgate serve` of the release binary on a free port.
fn start_server(workspace: &Workspace, flags: &[&str]) -> Result<Server> {
    let arguments = [&["serve", "--listen", "127.0.0.1:0"], flags].concat();
    Server::start(embedgate(&workspace.release_binary(), workspace.root(), &arguments))
}
