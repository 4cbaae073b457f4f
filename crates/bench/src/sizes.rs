//! `cargo xtask bench sizes`: our kernels and ONNX Runtime on the same synthetic models, from bge-base to Qwen3, in
//! turn, with the cosine between their vectors.

use std::{fmt::Write as _, path::Path, process::Command};

use anyhow::{Context, Result};
use bert_cpu::{Isa, Precision};
use clap::Args;
use testkit::{process, workspace::Workspace};
use xtask::{serve, setup};

use super::{
    accuracy::Cosines,
    engine::SHAPES,
    in_process::{self, LibraryResults},
    number::shown,
    report,
    results::{Figure, Results},
    running::log_of,
    stats::{median, ratio},
    synthetic::{MODELS, SyntheticModel},
    sysinfo,
};

#[derive(Args)]
pub(crate) struct SizesArgs {
    /// Models to measure, separated by commas; all by default
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = model_name)]
    models: Vec<String>,
    /// Instruction sets of embedgate's encoder, one after the other, in their precisions; by default the best one for
    /// fp32
    #[arg(long, value_name = "ISA", value_delimiter = ',')]
    isa: Vec<Isa>,
    /// Rounds; the figures are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds of each shape
    #[arg(long, default_value_t = 5.0, value_parser = super::positive)]
    seconds: f64,
    /// Measure the release binary as it is, without building first
    #[arg(long)]
    no_build: bool,
}

fn model_name(text: &str) -> Result<String> {
    let known: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
    anyhow::ensure!(known.contains(&text), "one of {}", known.join(", "));
    Ok(text.to_owned())
}

/// A backend of embedgate.
struct Variant {
    name: String,
    /// Value of the setting `isa`.
    isa: Option<String>,
    precision: &'static str,
}

impl Variant {
    fn all(options: &SizesArgs) -> Vec<Self> {
        let named = options.isa.iter().map(|isa| Self {
            name: format!("embedgate, {isa}"),
            isa: Some(isa.to_string()),
            precision: match isa.precision() {
                Precision::Fp32 => "fp32",
                Precision::Bf16 => "bf16",
                Precision::Int8 => "int8",
            },
        });
        let mut variants: Vec<_> = named.collect();
        if variants.is_empty() {
            variants.push(Self { name: "embedgate".into(), isa: None, precision: "fp32" });
        }
        variants.push(Self { name: "ONNX Runtime".into(), isa: Some("none".into()), precision: "fp32" });
        variants
    }

    fn command(&self, workspace: &Workspace, model: &Path, seconds: f64) -> Command {
        let mut command = Command::new(workspace.release_binary());
        command.args(["model", "bench", "--json"]).arg(format!("--seconds={seconds}"));
        command.arg(format!("--precision={}", self.precision));
        command.args(self.isa.as_ref().map(|isa| format!("--isa={isa}"))).arg(model);
        // Random weights say nothing about the accuracy of trained ones; the table shows it.
        command.env("EMBEDGATE_INT8_MIN_COSINE", "0.01").current_dir(workspace.root());
        command
    }
}

/// Measures and prints.
///
/// # Errors
/// Set-up, the build or a backend fails.
pub(crate) fn run(workspace: &Workspace, options: &SizesArgs) -> Result<()> {
    setup::run(workspace)?;
    if !options.no_build {
        serve::build_and_import(workspace)?;
    }
    let variants = Variant::all(options);
    let mut table = format!("{}\n|---|---|{}---:|\n", header(), "---:|".repeat(SHAPES.len()));
    let is_chosen = |model: &&SyntheticModel| {
        options.models.is_empty() || options.models.iter().any(|name| name == model.name)
    };
    for model in MODELS.iter().filter(is_chosen) {
        let folder = workspace.runtime().join("bench/synthetic").join(model.name);
        eprintln!("{}: writing the model …", model.name);
        model.write(&folder)?;
        let mut import = Command::new(workspace.release_binary());
        process::run(import.args(["model", "import"]).arg(&folder).current_dir(workspace.root()))?;
        let mut rounds: Vec<Vec<LibraryResults>> = variants.iter().map(|_| Vec::new()).collect();
        for round in 1..=options.rounds {
            for (variant, results) in variants.iter().zip(&mut rounds) {
                eprintln!("{}: round {round} of {}: {} …", model.name, options.rounds, variant.name);
                let log = log_of(&workspace.runtime(), "sizes");
                let command = variant.command(workspace, &folder, options.seconds);
                let done = in_process::follow(command, options.seconds, &log);
                results.push(done.with_context(|| format!("{}: {}", model.name, variant.name))?);
            }
        }
        table += &rows(model.name, &variants, &rounds);
    }
    let results = Results {
        machine: sysinfo::Machine::read(workspace),
        seconds: options.seconds,
        rounds: options.rounds.into(),
        ..Default::default()
    };
    println!("{}{table}", report::machine(&results));
    Ok(())
}

fn header() -> String {
    let titles: Vec<&str> = SHAPES.iter().map(|shape| shape.title).collect();
    format!("| model | backend | {} | worst cosine to ONNX Runtime |", titles.join(" | "))
}

/// A row for each variant; those of the others hold their ratio to the last one, ONNX Runtime.
fn rows(model: &str, variants: &[Variant], rounds: &[Vec<LibraryResults>]) -> String {
    let mut rows = String::new();
    let Some((baseline, _)) = rounds.split_last() else { return rows };
    for (variant, results) in variants.iter().zip(rounds) {
        let note = results.first().map_or("", |done| done.note.as_str());
        _ = write!(rows, "| {model} | {}: {note} |", variant.name);
        for shape in &SHAPES {
            let values = |results: &[LibraryResults]| -> Vec<Option<f64>> {
                results.iter().map(|done| figure(done, shape.id, shape.single)).collect()
            };
            let (own, baseline) = (values(results), values(baseline));
            let factor = if shape.single { ratio(&baseline, &own) } else { ratio(&own, &baseline) };
            let known: Vec<f64> = own.into_iter().flatten().collect();
            _ = write!(rows, " {} ({}×) |", shown(Some(median(&known))), shown(factor));
        }
        let cosine = results
            .first()
            .zip(baseline.first())
            .map(|(own, baseline)| Cosines::between(&own.vectors, &baseline.vectors).worst);
        _ = writeln!(rows, " {} |", cosine.map_or_else(|| "–".into(), |cosine| format!("{cosine:.7}")));
    }
    rows
}

fn figure(done: &LibraryResults, id: &str, single: bool) -> Option<f64> {
    let (_, measured, cpu) = done.jobs.iter().find(|(job, ..)| job == id)?;
    let figure = Figure::new(measured, Some(*cpu));
    if single { figure.p50 } else { Some(figure.tokens_per_second) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Measured;

    fn results(tokens: usize, vector: &[f32]) -> LibraryResults {
        let measured =
            |milliseconds| Measured { texts: 1, tokens, seconds: 2.0, milliseconds, ..Measured::default() };
        let jobs = vec![
            ("32x32".to_owned(), measured(vec![]), 1.0),
            ("one".to_owned(), measured(vec![tokens as f64]), 1.0),
        ];
        LibraryResults { note: "fp32".into(), jobs, vectors: vec![vector.to_vec()], ..Default::default() }
    }

    #[test]
    fn rows_hold_ratios_to_onnx_runtime_and_the_worst_cosine() {
        let options = SizesArgs { models: vec![], isa: vec![], rounds: 1, seconds: 1.0, no_build: true };
        let variants = Variant::all(&options);
        let rounds = [vec![results(3000, &[3.0, 4.0])], vec![results(2000, &[4.0, 3.0])]];
        let expected = "| m | embedgate: fp32 | 1,500 (1.50×) | – (–×) | – (–×) | 3,000 (0.67×) | 0.9600000 |\n\
                        | m | ONNX Runtime: fp32 | 1,000 (1.00×) | – (–×) | – (–×) | 2,000 (1.00×) | 1.0000000 |\n";
        assert_eq!(rows("m", &variants, &rounds), expected);
    }
}
