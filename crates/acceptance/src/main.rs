//! The program behind the groups of `cargo xtask test` that check the release: clients, chart, image, archive,
//! monitoring; and behind `cargo xtask arm64`.
#![allow(clippy::print_stdout, reason = "a command line tool talks to its terminal")]

mod arm64;
mod chart;
mod clients;
mod image;
mod monitoring;
mod tap;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use testkit::process;
use testkit::report::Report;
use testkit::workspace::Workspace;
use testkit::{Server, embedgate};

#[derive(Parser)]
#[command(about = "Checks the release binary as users and operators meet it; run by `cargo xtask test`")]
struct Options {
    #[arg(value_enum)]
    group: Group,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Group {
    /// OpenAI's and other SDKs
    Clients,
    /// The Helm chart: rendered, checked, and run
    Chart,
    /// The container image and the archive: built, inspected, and run
    Image,
    /// Metrics, rules, alerts and dashboard, with a real Prometheus
    Monitoring,
    /// Build for arm64 and test in an emulator; on Debian for amd64
    Arm64,
}

fn main() -> ExitCode {
    process::exit_code(run(&Options::parse()))
}

fn run(options: &Options) -> Result<bool> {
    let workspace = Workspace::locate()?;
    let mut report = Report::default();
    let result = match options.group {
        Group::Clients => clients::run(&workspace, &mut report),
        Group::Chart => chart::run(&workspace, &mut report),
        Group::Image => image::run(&workspace, &mut report),
        Group::Monitoring => monitoring::run(&workspace, &mut report),
        Group::Arm64 => arm64::run(&workspace, &mut report),
    };
    report.run("acceptance", |_| result);
    report.publish(options.report.as_deref())
}

/// Starts `embedgate serve` of the release binary on a free port.
fn start_server(workspace: &Workspace, flags: &[&str]) -> Result<Server> {
    let arguments = [&["serve", "--listen", "127.0.0.1:0"], flags].concat();
    Server::start(embedgate(&workspace.release_binary(), workspace.root(), &arguments))
}
