//! `cargo xtask bench`: the figures of the documentation, measured again on this machine.
//!
//! Rivals run in turn within one run, on the same texts, so that the ratios hold when the machine's speed
//! drifts; absolute figures are this machine's of this moment. Medians over the rounds are quoted.

mod client;
mod plain;
mod table;
mod texts;

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use clap::Args;

use self::{
    client::{Measured, Target},
    plain::Plain,
    table::{Row, Table},
};
use crate::{serve, server::Server, setup, workspace::Workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; the rivals take turns within each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests of one client in one round
    #[arg(long, default_value_t = 300)]
    requests: usize,
    /// Write the table to docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// Passed on to `embedgate serve`, to compare settings
    #[arg(last = true)]
    serve: Vec<String>,
}

/// Requests after which resident memory is read again.
const SOAK: usize = 10_000;

/// Sets up, builds, measures and prints.
///
/// # Errors
/// Something could not be built, started or reached; a figure is never made up.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace)?;
    serve::build_and_import(workspace)?;
    let plain = Plain::prepare(workspace)?;

    let mut table = Table::default();
    let (mut cold, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let server = Server::start(workspace, &options.serve)?;
        let target = Target::new(server.origin())?;
        target.wait_until_ready(Duration::from_secs(120))?;
        target.embed(&texts::short(0))?;
        cold.push(server.age().as_secs_f64() * 1e3);
        idle.push(server.resident_megabytes()?);
        server.stop()?;
    }
    table.figure("cold start to the first answer, ms", &cold);
    table.figure("resident memory at idle, MB", &idle);

    let server = Server::start(workspace, &options.serve)?;
    let target = Target::new(server.origin())?;
    target.wait_until_ready(Duration::from_secs(120))?;
    measure_rounds(options, &target, &plain, &mut table)?;
    target.load(32, SOAK / 32 + 1, 0)?;
    table.figure("resident memory after 10,000 requests, MB", &[server.resident_megabytes()?]);
    server.stop()?;

    println!("{table}");
    if options.write {
        let path = workspace.root().join("docs/benchmarks.md");
        fs::write(&path, table.document()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn measure_rounds(options: &Options, target: &Target, plain: &Plain<'_>, table: &mut Table) -> Result<()> {
    let (mut one, mut many, mut loop_one, mut loop_batch) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    target.load(1, 50, 0)?; // Warm, as the loop in Python is before it measures.
    for round in 0..options.rounds {
        one.push(target.load(1, options.requests, round)?);
        loop_one.push(plain.measure(1, options.requests, round)?);
        many.push(target.load(32, options.requests.div_ceil(4), round)?);
        loop_batch.push(plain.measure(32, options.requests.div_ceil(4), round)?);
        eprintln!("round {} of {} done", round + 1, options.rounds);
    }
    table.row(Row::new("embedgate, 1 client over HTTP", &one));
    table.row(Row::new("plain onnxruntime in Python, 1 text at a time", &loop_one));
    table.row(Row::new("embedgate, 32 clients over HTTP", &many));
    table.row(Row::new("plain onnxruntime in Python, padded batches of 32", &loop_batch));
    table.ratio("texts a second, 1 client against the Python loop", &one, &loop_one);
    table.ratio("texts a second, 32 clients against Python's batches of 32", &many, &loop_batch);
    Ok(())
}

/// The middle of `values`; of an even number, the mean of the middle two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// The value below which `share` (0 to 1) of the sorted `values` lie, by the nearest-rank method.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Texts a second, and the latencies in milliseconds.
impl Measured {
    fn throughput(&self) -> f64 {
        self.texts as f64 / self.seconds
    }

    fn latency(&self, share: f64) -> f64 {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        percentile(&sorted, share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_by_hand() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&hundred, 0.5), percentile(&hundred, 0.99)), (50.0, 99.0));
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
