//! `cargo xtask survive`: what the server does when it is asked for too much, for too long, or when something breaks
//! beneath it.
//!
//! Each promise is checked against the release binary and printed with its figure. `cargo xtask test` runs the same
//! in shorter forms, with bounds that a busy machine keeps, too.

mod faults;
mod gauge;
mod mixture;
mod overload;
mod program;
mod soak;
mod storm;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

pub(crate) use self::program::Scratch;
use crate::test::report::{Report, Suite};
use crate::workspace::Workspace;
use crate::{serve, setup};

/// How long the suite overloads the server.
const SHORT_STORM: Duration = Duration::from_secs(15);
/// How long the suite's soak takes, warm-up included.
const SHORT_SOAK: Duration = Duration::from_secs(120);
/// How often the suite kills an import.
const FEW_KILLS: u32 = 8;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    trial: Trial,
    /// Try the release binary and the imported model as they lie there, without building first
    #[arg(long, global = true)]
    no_build: bool,
}

/// What is to be survived.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Trial {
    /// Ten times as many requests as the server can answer
    Overload {
        /// Seconds of it
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Mixed load for a long time: memory, descriptors and threads must not grow
    Soak {
        /// Minutes of it
        #[arg(long, default_value_t = 20)]
        minutes: u64,
    },
    /// Damaged files, full disks, signals at bad moments, a second cache tier that goes away
    Faults {
        /// How often an import is killed
        #[arg(long, default_value_t = 40)]
        kills: u32,
    },
}

/// Sets up, builds, and puts the release binary on trial.
///
/// # Errors
/// Set-up or the build fails, or the trial cannot be held. A promise that is not kept is the exit code.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if !options.no_build {
        setup::run(workspace)?;
        serve::build_and_import(workspace)?;
    }
    let mut suite = Suite::new("survive");
    match options.trial {
        Trial::Overload { seconds } => {
            overload::run(workspace, Duration::from_secs(seconds), &mut suite)?;
        }
        Trial::Soak { minutes } => soak::run(workspace, Duration::from_secs(60 * minutes), &mut suite)?,
        Trial::Faults { kills } => faults::run(workspace, kills, &mut suite)?,
    }
    let mut report = Report::default();
    report.suites.push(suite);
    print!("{report}");
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The part of `cargo xtask test`: every trial in its short form.
///
/// # Errors
/// None of its own: what cannot be tried is a failed suite.
pub(crate) fn short(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let mut trial = |name: &str, run: &dyn Fn(&mut Suite) -> Result<()>| {
        println!("\n{name}");
        let mut suite = Suite::new(name);
        if let Err(error) = run(&mut suite) {
            suite.fail(format!("{error:#}"));
        }
        report.suites.push(suite);
    };
    trial("survive · overload", &|suite| overload::run(workspace, SHORT_STORM, suite));
    trial("survive · soak", &|suite| soak::run(workspace, SHORT_SOAK, suite));
    trial("survive · faults", &|suite| faults::run(workspace, FEW_KILLS, suite));
    Ok(())
}

/// Prints what a promise came to, and counts it.
fn judge(suite: &mut Suite, kept: bool, said: impl Into<String>) {
    let said = said.into();
    println!("  {} {said}", if kept { "ok    " } else { "BROKEN" });
    if kept {
        suite.passed += 1;
    } else {
        suite.fail(said);
    }
}
