//! `cargo xtask bench`: the figures of the documentation, measured again on this machine.
//!
//! Servers and libraries run one after the other, on the same texts and bodies, round after round, so that the ratios
//! hold when the machine's speed drifts. Competitors that cannot run are listed with the reason.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

mod accuracy;
mod bar_chart;
pub mod client;
mod competitors;
mod engine;
mod in_process;
mod load;
mod measure;
mod number;
mod profile;
mod report;
mod rerank;
mod resource_usage;
mod results;
mod running;
mod sizes;
pub mod stats;
mod synthetic;
mod sysinfo;
pub mod texts;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use self::{
    competitors::{Binaries, Competitor, Name},
    measure::Plan,
    profile::PROFILES,
    resource_usage::Size,
    results::{Entry, Results},
    sysinfo::Machine,
};
use testkit::files;
use testkit::workspace::Workspace;
use xtask::{serve, setup};

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench                                     everything, three rounds; needs an idle machine
  cargo xtask bench --write                             the same, and write docs/benchmarks.md
  cargo xtask bench --competitors embedgate,infinity    two of them
  cargo xtask bench --competitors embedgate --profiles one,together
  cargo xtask bench --quick --competitors embedgate     check that it runs
  cargo xtask bench --competitors embedgate-int8,onnxruntime-int8,openvino-int8,openvino-int8-weights
                                                        int8 against int8, with the cosines to fp32
  cargo xtask bench --tei text-embeddings-router --llama llama-server --gguf model.gguf
  cargo xtask bench --competitors embedgate -- --onnx-sessions 2   with settings of `embedgate serve`
  cargo xtask bench engine                              the encoders alone
  cargo xtask bench sizes --models bge-base,qwen3-0.6b  our kernels and ONNX Runtime on larger models
  cargo xtask bench rerank --tei text-embeddings-router  one query with 100 passages, a cross-encoder

Competitors are installed into .runtime/bench when they are first run: torch brings about 3 GB of packages. The
record is kept in .runtime/bench/results.json; `--from` prints and writes it again without measuring.";

#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", about = "Measures the server and other servers on this machine")]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Subcommand)]
enum Mode {
    /// The encoders alone, without server or tokenizer: tokens a second by shape
    Engine(engine::EngineArgs),
    /// Our kernels and ONNX Runtime on models of many sizes with random weights, from bge-base to Qwen3
    Sizes(sizes::SizesArgs),
    /// Servers and libraries that rerank: one query with 100 passages of 128 tokens, a cross-encoder of MiniLM's size
    Rerank(rerank::RerankArgs),
}

#[derive(Args)]
struct Compare {
    /// Servers and libraries to measure, separated by commas; all by default
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    competitors: Vec<Name>,
    /// Profiles to measure, separated by commas; all by default
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = profile_name)]
    profiles: Vec<String>,
    /// Rounds; the figures are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds of each profile
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    seconds: f64,
    /// One round of 0.2 s per profile: checks that everything runs; the figures are meaningless
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "write"])]
    quick: bool,
    /// Measure the release binary and the imported model as they are, without building first
    #[arg(long)]
    no_build: bool,
    /// Write the page and its charts below this folder
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true, default_missing_value = "docs")]
    write: Option<PathBuf>,
    /// Use an earlier run's record instead of measuring
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    binaries: Binaries,
    /// Passed on to `embedgate serve`, to compare settings
    #[arg(last = true, value_name = "SERVE FLAGS")]
    serve: Vec<String>,
}

/// Runs the command of this process's arguments: sets up, builds, measures and prints.
///
/// # Errors
/// Set-up or the build fails, or a file cannot be written. A competitor that fails is part of the result.
pub fn main() -> Result<()> {
    run(&Workspace::locate()?, &Cli::parse())
}

fn run(workspace: &Workspace, options: &Cli) -> Result<()> {
    match &options.mode {
        Some(Mode::Engine(options)) => return engine::run(workspace, options),
        Some(Mode::Sizes(options)) => return sizes::run(workspace, options),
        Some(Mode::Rerank(options)) => return rerank::run(workspace, options),
        None => (),
    }
    let options = &options.compare;
    let record = workspace.runtime().join("bench/results.json");
    let results = match &options.from {
        Some(path) => serde_json::from_str(&files::read_text(path)?)
            .with_context(|| format!("in {}", path.display()))?,
        None => {
            let results = compare(workspace, options)?;
            files::write(&record, serde_json::to_string_pretty(&results)?)?;
            results
        }
    };
    println!("{}{}", report::machine(&results), report::tables(&results));
    if let Some(folder) = &options.write {
        // int8 needs AVX2; the page is complete without it.
        let needed = |entry: &&Entry| entry.name.is_ours() && entry.name != Name::EmbedgateInt8;
        let mut ours = results.competitors.iter().filter(needed);
        if let Some(reason) = ours.find_map(|competitor| competitor.not_run.as_deref()) {
            bail!("the page is not written, because embedgate itself did not finish: {reason}");
        }
        for (path, text) in report::files(&results) {
            files::write(&workspace.root().join(folder).join(path), text)?;
        }
    }
    Ok(())
}

fn compare(workspace: &Workspace, options: &Compare) -> Result<Results> {
    setup::run(workspace)?;
    if !options.no_build {
        serve::build_and_import(workspace)?;
    }
    check_texts(workspace)?;
    let names = if options.competitors.is_empty() { Name::value_variants() } else { &options.competitors };
    let competitors: Vec<Competitor> = names
        .iter()
        .map(|&name| competitors::prepare(workspace, name, &options.binaries, &options.serve))
        .collect();

    let (rounds, seconds) = if options.quick { (1, 0.2) } else { (options.rounds, options.seconds) };
    let mut entries: Vec<Entry> = competitors
        .iter()
        .map(|competitor| {
            let mut entry = Entry::new(competitor.name, competitor.versions.clone(), competitor.size);
            entry.not_run = competitor.ready.as_ref().err().cloned();
            entry
        })
        .collect();
    let machine = Machine::read(workspace);
    let reference =
        accuracy::reference(workspace).inspect_err(|error| eprintln!("no cosines to fp32: {error:#}")).ok();
    let plan = Plan { workspace, seconds, profiles: &options.profiles, reference };
    for round in 1..=rounds {
        for (competitor, entry) in
            competitors.iter().zip(&mut entries).filter(|(competitor, _)| competitor.ready.is_ok())
        {
            let load = sysinfo::load().map_or_else(|| "unknown".into(), |load| format!("{load:.2}"));
            eprintln!("round {round} of {rounds}: {} (load average {load})", competitor.name.label());
            plan.round(competitor, entry);
        }
    }
    Ok(Results {
        machine,
        seconds,
        rounds: rounds.into(),
        model_megabytes: model_megabytes(workspace),
        competitors: entries,
    })
}

/// Checks that the texts' numbers of tokens hold for the vocabulary of the served model.
fn check_texts(workspace: &Workspace) -> Result<()> {
    let path = competitors::model(workspace).join("tokenizer.json");
    texts::check(&files::read(&path)?).with_context(|| format!("of {}", path.display()))
}

/// Megabytes of the weights and the other files that a server reads.
fn model_megabytes(workspace: &Workspace) -> f64 {
    let mut size = Size::default();
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        size.add(&competitors::model(workspace).join(file));
    }
    size.megabytes
}

fn positive(text: &str) -> Result<f64> {
    let seconds: f64 = text.parse().context("not a number")?;
    ensure!(seconds.is_finite() && seconds > 0.0, "must be above 0");
    Ok(seconds)
}

fn profile_name(text: &str) -> Result<String> {
    if PROFILES.iter().any(|profile| profile.id == text) {
        return Ok(text.to_owned());
    }
    let known: Vec<&str> = PROFILES.iter().map(|profile| profile.id).collect();
    bail!("one of {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_selects_competitors_profiles_and_modes() {
        let options =
            parse("bench --competitors embedgate,tei --profiles one,together --write -- --onnx-sessions 2");
        let Compare { competitors, profiles, write, serve, .. } = options.unwrap().compare;
        assert_eq!(competitors, [Name::Embedgate, Name::Tei]);
        assert_eq!(profiles, ["one", "together"]);
        assert_eq!(write.as_deref(), Some(Path::new("docs")));
        assert_eq!(serve, ["--onnx-sessions", "2"]);
        assert!(matches!(parse("bench engine --isa avx2,avx512").unwrap().mode, Some(Mode::Engine(_))));
    }

    #[test]
    fn invalid_command_lines_are_rejected() {
        for line in [
            "bench --profiles none",
            "bench --competitors none",
            "bench --seconds 0",
            "bench --rounds 0",
            "bench --quick --write",
            "bench --llama llama-server",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
