//! `cargo xtask bench`: the figures of the documentation, measured again on this machine.
//!
//! Servers and libraries run one after the other within one run, on the same texts and bodies, round after
//! round, so that the ratios hold when the machine's speed drifts; absolute figures are this machine's of this
//! moment. Nothing is left out silently: what cannot be run is listed with its reason.

mod chart;
pub(crate) mod client;
mod document;
mod engine;
mod in_process;
mod load;
mod machine;
mod measure;
mod number;
mod profile;
mod results;
mod rivals;
mod running;
pub(crate) mod stats;
pub(crate) mod texts;
mod usage;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};

use self::{
    machine::Machine,
    measure::Plan,
    profile::PROFILES,
    results::{Entry, Results},
    rivals::{Binaries, Name, Rival},
    usage::Size,
};
use crate::{serve, setup, workspace::Workspace};

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench                                     everything, three rounds; leave the machine alone
  cargo xtask bench --write                             the same, and write docs/benchmarks.md
  cargo xtask bench --rivals embedgate,infinity         two of them
  cargo xtask bench --rivals embedgate --profiles one,together
  cargo xtask bench --quick --rivals embedgate          does it run at all?
  cargo xtask bench --tei text-embeddings-router --llama llama-server --gguf model.gguf
  cargo xtask bench --rivals embedgate -- --onnx-sessions 2   with settings of `embedgate serve`
  cargo xtask bench engine                              the encoders alone

Rivals are installed into .runtime/bench when they are first run: torch brings about 3 GB of packages. The
record is kept in .runtime/bench/results.json; `--from` prints and writes it again without measuring.";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct Options {
    #[command(subcommand)]
    mode: Option<Mode>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Subcommand)]
enum Mode {
    /// The encoders alone, without server or tokenizer: tokens a second by shape
    Engine(engine::Options),
}

#[derive(Args)]
struct Compare {
    /// Who is measured, separated by commas; without it, everybody
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    rivals: Vec<Name>,
    /// What is measured, by the profiles' names, separated by commas; without it, everything
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = profile_name)]
    profiles: Vec<String>,
    /// Rounds, of which medians are taken; the rivals take turns in each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds of each profile
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    seconds: f64,
    /// One round of 0.2 s a profile: shows that everything runs; its figures mean nothing
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "write"])]
    quick: bool,
    /// Measure the release binary and the imported model as they lie there, without building first
    #[arg(long)]
    no_build: bool,
    /// Write the page and its charts below this folder
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true, default_missing_value = "docs")]
    write: Option<PathBuf>,
    /// Measure nothing; take an earlier run's record
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    binaries: Binaries,
    /// Passed on to `embedgate serve`, to compare settings
    #[arg(last = true, value_name = "SERVE FLAGS")]
    serve: Vec<String>,
}

/// Sets up, builds, measures and prints.
///
/// # Errors
/// Set-up or the build fails, or a file cannot be written. A rival that fails is part of the result.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if let Some(Mode::Engine(options)) = &options.mode {
        return engine::run(workspace, options);
    }
    let options = &options.compare;
    let record = workspace.runtime().join("bench/results.json");
    let results = match &options.from {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?
        }
        None => {
            let results = compare(workspace, options)?;
            write(&record, &serde_json::to_string_pretty(&results)?)?;
            results
        }
    };
    println!("{}{}", document::machine(&results), document::tables(&results));
    if let Some(folder) = &options.write {
        let mut ours = results.rivals.iter().filter(|rival| rival.name.is_ours());
        if let Some(reason) = ours.find_map(|rival| rival.not_run.as_deref()) {
            bail!("nothing is written, for embedgate itself did not run to the end: {reason}");
        }
        for (path, text) in document::files(&results) {
            write(&workspace.root().join(folder).join(path), &text)?;
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
    let names = if options.rivals.is_empty() { Name::value_variants() } else { &options.rivals };
    let rivals: Vec<Rival> = names
        .iter()
        .map(|&name| rivals::prepare(workspace, name, &options.binaries, &options.serve))
        .collect();

    let (rounds, seconds) = if options.quick { (1, 0.2) } else { (options.rounds, options.seconds) };
    let mut entries: Vec<Entry> = rivals
        .iter()
        .map(|rival| {
            let mut entry = Entry::new(rival.name, rival.versions.clone(), rival.size);
            entry.not_run = rival.ready.as_ref().err().cloned();
            entry
        })
        .collect();
    let machine = Machine::read(workspace);
    let plan = Plan { workspace, seconds, profiles: &options.profiles };
    for round in 1..=rounds {
        for (rival, entry) in rivals.iter().zip(&mut entries).filter(|(rival, _)| rival.ready.is_ok()) {
            let load = machine::load().map_or_else(|| "unknown".into(), |load| format!("{load:.2}"));
            eprintln!("round {round} of {rounds}: {} (load average {load})", rival.name.label());
            plan.round(rival, entry);
        }
    }
    Ok(Results {
        machine,
        seconds,
        rounds: rounds.into(),
        model_megabytes: model_megabytes(workspace),
        rivals: entries,
    })
}

/// The texts' numbers of tokens hold for the vocabulary of the very model that is served.
fn check_texts(workspace: &Workspace) -> Result<()> {
    let path = rivals::model(workspace).join("tokenizer.json");
    let tokenizer = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    texts::check(&tokenizer).with_context(|| format!("of {}", path.display()))
}

/// One copy of the weights and what else a server reads.
fn model_megabytes(workspace: &Workspace) -> f64 {
    let mut size = Size::default();
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        size.add(&rivals::model(workspace).join(file));
    }
    size.megabytes
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.options)
    }

    #[test]
    fn the_command_line_selects_rivals_profiles_and_modes() {
        let options =
            parse("bench --rivals embedgate,tei --profiles one,together --write -- --onnx-sessions 2");
        let Compare { rivals, profiles, write, serve, .. } = options.unwrap().compare;
        assert_eq!(rivals, [Name::Embedgate, Name::Tei]);
        assert_eq!(profiles, ["one", "together"]);
        assert_eq!(write.as_deref(), Some(Path::new("docs")));
        assert_eq!(serve, ["--onnx-sessions", "2"]);
        assert!(matches!(parse("bench engine --isa avx2,avx512").unwrap().mode, Some(Mode::Engine(_))));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for line in [
            "bench --profiles none",
            "bench --rivals none",
            "bench --seconds 0",
            "bench --rounds 0",
            "bench --quick --write",
            "bench --llama llama-server",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
