//! What was measured, as a table for the terminal and for the documentation.

use std::{fmt, fs, thread};

use super::{client::Measured, median};

/// A rival's medians over the rounds.
pub(super) struct Row {
    name: &'static str,
    throughput: f64,
    p50: f64,
    p99: f64,
}

impl Row {
    pub(super) fn new(name: &'static str, rounds: &[Measured]) -> Self {
        let over = |figure: &dyn Fn(&Measured) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
        Self {
            name,
            throughput: over(&Measured::throughput),
            p50: over(&|round| round.latency(0.5)),
            p99: over(&|round| round.latency(0.99)),
        }
    }
}

/// All of a run's figures.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    figures: Vec<(&'static str, String)>,
}

impl Table {
    pub(super) fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// A figure of its own: the median of `values`.
    pub(super) fn figure(&mut self, name: &'static str, values: &[f64]) {
        self.figures.push((name, format!("{:.0}", median(values))));
    }

    /// Throughput of `ours` over that of `theirs`, round by round; the median.
    pub(super) fn ratio(&mut self, name: &'static str, ours: &[Measured], theirs: &[Measured]) {
        let ratios: Vec<f64> =
            ours.iter().zip(theirs).map(|(ours, theirs)| ours.throughput() / theirs.throughput()).collect();
        self.figures.push((name, format!("{:.2}×", median(&ratios))));
    }

    /// The page for the documentation.
    pub(super) fn document(&self) -> String {
        format!(
            "# Benchmarks\n\nWritten by `cargo xtask bench --write`. Rivals take turns within one run, on the same \
             short texts\n(12 to 17 tokens); medians over the rounds. Compare ratios: absolute figures are one \
             machine's of one\nmoment.\n\n{self}"
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Machine: {}\n", machine())?;
        writeln!(f, "| | texts/s | p50, ms | p99, ms |\n|---|---:|---:|---:|")?;
        for Row { name, throughput, p50, p99 } in &self.rows {
            writeln!(f, "| {name} | {throughput:.0} | {p50:.2} | {p99:.2} |")?;
        }
        writeln!(f, "\n| | |\n|---|---:|")?;
        for (name, figure) in &self.figures {
            writeln!(f, "| {name} | {figure} |")?;
        }
        Ok(())
    }
}

/// The processor as Linux names it, its vector extensions, and the cores that we may use.
fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    };
    let flags: Vec<&str> = field("flags").split(' ').collect();
    let has: Vec<&str> = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]
        .into_iter()
        .filter(|flag| flags.contains(flag))
        .collect();
    format!("{} · {cores} cores · {}", field("model name"), has.join(" "))
}
