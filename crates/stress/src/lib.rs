//! `cargo xtask stress`: the release binary under overload, under long load, and with faults around it.
//!
//! Each guarantee is checked and printed with its figure. `cargo xtask test` runs all scenarios in a short form that
//! does not judge times, since these depend on the machine; `.ci/nightly` runs the long form.
#![allow(clippy::print_stdout, reason = "a command line tool talks to its terminal")]

mod faults;
mod open_loop;
mod overload;
mod soak;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use testkit::report::{Report, Suite};
use testkit::workspace::Workspace;
use testkit::{Server, embedgate};
use xtask::{serve, setup};

/// Duration of the overload in `cargo xtask test`.
const SUITE_OVERLOAD: Duration = Duration::from_secs(15);
/// Duration of the soak in `cargo xtask test`, warm-up included.
const SUITE_SOAK: Duration = Duration::from_secs(120);
/// Killed imports in `cargo xtask test`.
const SUITE_KILLS: u32 = 8;

#[derive(Parser)]
#[command(bin_name = "cargo xtask stress", about = "Stresses the release binary")]
struct Options {
    #[command(subcommand)]
    scenario: Scenario,
    /// Take the release binary and the imported model as they are, without building first
    #[arg(long, global = true)]
    no_build: bool,
    /// Write the report to this file, as JSON
    #[arg(long, global = true, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Scenario {
    /// Ten times as many requests as the server can answer
    Overload {
        /// Duration in seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Mixed load for a long time: memory, descriptors and threads must not grow
    Soak {
        /// Duration in minutes
        #[arg(long, default_value_t = 20)]
        minutes: u64,
    },
    /// Damaged files, full disks, signals at bad moments, a remote cache that disappears
    Faults {
        /// Number of killed imports
        #[arg(long, default_value_t = 40)]
        kills: u32,
    },
    /// All of them in short form, without judging times: a part of `cargo xtask test`
    Suite,
}

/// Runs the command of this process's arguments; returns true if every guarantee held.
///
/// # Errors
/// Set-up or the build fails, or the report cannot be written.
pub fn main() -> Result<bool> {
    let options = Options::parse();
    let workspace = Workspace::locate()?;
    if !options.no_build {
        setup::run(&workspace)?;
        serve::build_and_import(&workspace)?;
    }
    let mut report = Report::default();
    let mut run = |name: &str, judge_times: bool, scenario: &dyn Fn(&mut Run<'_>) -> Result<()>| {
        let mut run =
            Run { workspace: &workspace, suite: Suite::begin(format!("stress · {name}")), judge_times };
        if let Err(error) = scenario(&mut run) {
            run.suite.fail(format!("{error:#}"));
        }
        report.suites.push(run.suite);
    };
    match options.scenario {
        Scenario::Overload { seconds } => {
            run("overload", true, &|run| overload::run(run, Duration::from_secs(seconds)));
        }
        Scenario::Soak { minutes } => {
            run("soak", true, &|run| soak::run(run, Duration::from_secs(60 * minutes)));
        }
        Scenario::Faults { kills } => run("faults", true, &|run| faults::run(run, kills)),
        Scenario::Suite => {
            run("overload", false, &|run| overload::run(run, SUITE_OVERLOAD));
            run("soak", false, &|run| soak::run(run, SUITE_SOAK));
            run("faults", false, &|run| faults::run(run, SUITE_KILLS));
        }
    }
    report.publish(options.report.as_deref())
}

/// Context of a running scenario.
struct Run<'a> {
    workspace: &'a Workspace,
    suite: Suite,
    /// If false, times are printed and not judged.
    judge_times: bool,
}

impl Run<'_> {
    /// Counts and prints a check.
    fn judge(&mut self, passed: bool, text: impl Into<String>) {
        self.suite.judge(passed, text);
    }

    /// As [`Run::judge`], for a check that depends on the machine's speed.
    fn judge_time(&mut self, passed: bool, text: impl Into<String>) {
        if self.judge_times {
            self.suite.judge(passed, text);
        } else {
            println!("  (not judged) {}", text.into());
        }
    }

    /// Starts `embedgate serve` of the release binary on a free port.
    fn start_server(&self, flags: &[&str]) -> Result<Server> {
        let arguments = [&["serve", "--listen", "127.0.0.1:0"], flags].concat();
        Server::start(embedgate(&self.workspace.release_binary(), self.workspace.root(), &arguments))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
