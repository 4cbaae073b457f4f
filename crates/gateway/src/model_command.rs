//! `embedgate model …`: preparing, listing and verifying model folders at the command line.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inference::{GoldenError, GoldenText};
use model_import::{Card, Golden, ImportError, ModelFolder, Progress, Stage, State};
use thiserror::Error;

use crate::cli::{BenchArgs, ModelAction, VerifyArgs};
use crate::config::{Config, ConfigError, Flags, List, ModelSettings, Settings, Surroundings};
use crate::load::{
    Cache, Choice, Choices, Common, Encoders, ModelFault, PER_TEXT, Runtime, choices, encoders,
    golden_cosine, no_folder, start, tokenizer, window,
};
use crate::model_bench::{self, BenchError, Drive};
use crate::registry::Served;

/// Whether what was to be checked is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, and nothing is wrong.
    Pass,
    /// A model does not do what its card says.
    Fail,
}

/// A command on model folders could not be carried out.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The folder cannot be used.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// There is no such folder.
    #[error("cannot open the model folder {}: {advice}", folder.display())]
    NoFolder {
        /// The path.
        folder: PathBuf,
        /// Says what to name instead.
        advice: String,
    },
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model cannot be started.
    #[error("cannot run the model in {}", folder.display())]
    Model {
        /// The model's folder.
        folder: PathBuf,
        /// Why.
        #[source]
        fault: Box<ModelFault>,
    },
    /// There is nothing to compare with.
    #[error(
        "{} has no golden vectors to verify against: its card {} is missing or holds none",
        folder.display(),
        Card::FILE
    )]
    NoGolden {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The engine refused or failed on a text.
    #[error(transparent)]
    Golden(Box<GoldenError>),
    /// The model could not be measured.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The result cannot be printed.
    #[error("cannot write the result to standard output")]
    Print(#[from] io::Error),
}

/// Carries out `action`; the result goes to `out`, progress to standard error if that is a terminal.
///
/// # Errors
/// When the action cannot be carried out; a model that is found wrong is [`Verdict::Fail`].
pub fn run(
    action: &ModelAction,
    surroundings: &Surroundings,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    match action {
        ModelAction::Import { folder, onnx_file } => import(folder, onnx_file.as_deref(), out),
        ModelAction::List { folder } => list(folder, out),
        ModelAction::Verify(args) => verify(args, surroundings, out),
        ModelAction::Bench(args) => bench(args, surroundings, out),
    }
}

/// Opens a model's folder, with `onnx_file` as its graph if given.
fn open(folder: &Path, onnx_file: Option<&Path>) -> Result<ModelFolder, CommandError> {
    if !folder.is_dir() {
        return Err(CommandError::NoFolder { folder: folder.to_owned(), advice: no_folder(folder) });
    }
    Ok(ModelFolder::open_with_graph(folder, onnx_file)?)
}

fn import(folder: &Path, onnx_file: Option<&Path>, out: &mut dyn Write) -> Result<Verdict, CommandError> {
    let model = open(folder, onnx_file)?;
    let mut meter = Meter::new();
    let graph = model_import::import(&model, &mut |progress| meter.show(progress));
    meter.clear();
    let graph = graph?;
    let done = if meter.wrote { "written" } else { "is up to date" };
    writeln!(out, "{} {done}", graph.path.display())?;
    writeln!(
        out,
        "{} · {} dimensions · window {} tokens · fingerprint {}",
        model.family(),
        model.dimensions(),
        model.window(),
        graph.fingerprint
    )?;
    if !graph.dynamic_quantization.is_empty() {
        let operators = graph.dynamic_quantization.join(", ");
        writeln!(out, "{PER_TEXT} ({operators})")?;
    }
    Ok(Verdict::Pass)
}

fn list(models: &Path, out: &mut dyn Write) -> Result<Verdict, CommandError> {
    let listed = model_import::list(models)?;
    let width = listed.iter().map(|model| model.id.chars().count()).max().unwrap_or(0);
    for model in &listed {
        let number =
            |number: Option<usize>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let (folder, card) = (ModelFolder::open(&model.path).ok(), model.card.as_ref());
        let said = card.map_or((None, None), |card| (card.dimensions, card.window));
        let (dimensions, window) =
            folder.map_or(said, |folder| (Some(folder.dimensions()), Some(folder.window())));
        let (dimensions, window) = (number(dimensions), number(window));
        let state = match &model.state {
            State::Ready { is_per_text: false } => "ready".to_owned(),
            State::Ready { is_per_text: true } => format!("ready · {PER_TEXT}"),
            State::NotImported => {
                format!("ready; for ONNX Runtime first: embedgate model import {}", model.path.display())
            }
            State::Incomplete(error) => format!("incomplete: {error}"),
        };
        let id = &model.id;
        writeln!(out, "{id:width$}  {dimensions:>5} dimensions  window {window:>5}  {state}")?;
    }
    if listed.is_empty() {
        writeln!(out, "no model folders in {}", models.display())?;
    }
    Ok(Verdict::Pass)
}

/// Starts the model as the server would, then compares text by text, so that a difference can be placed.
fn verify(
    args: &VerifyArgs,
    surroundings: &Surroundings,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let config = Config::resolve(&flags(args), surroundings)?.config;
    let folder = open(&args.folder, args.onnx_file.as_deref())?;
    let no_golden = || CommandError::NoGolden { folder: args.folder.clone() };
    let card = folder.card().filter(|card| !card.golden.is_empty()).ok_or_else(no_golden)?;
    card.verify_files(&args.folder)?;
    let runtime = Runtime::new(config.onnxruntime_path.as_deref(), None);
    let common = Common { runtime, cache: Cache::default() };
    let model = config.models.first().ok_or_else(no_golden)?;
    let fault = |fault| CommandError::Model { folder: args.folder.clone(), fault: Box::new(fault) };
    let Choices { first, otherwise } = choices(model, &folder).map_err(fault)?;
    let mut verdict = Verdict::Fail;
    for choice in std::iter::once(first).chain(otherwise) {
        let served = start(model, &folder, choice, &common, Arc::new(())).map_err(fault)?;
        let (provider, precision) = (served.provider, served.precision.name());
        let version = common.runtime.version().map_or_else(String::new, |version| format!(" {version}"));
        let Choice { kernels, why } = choice;
        let folder = args.folder.display();
        let batching = if served.per_text { format!(" · {PER_TEXT}") } else { String::new() };
        writeln!(out, "{folder} · {provider} {precision} · {kernels}{version} ({}){batching}", why.words())?;
        verdict = compare(&served, &card.golden, out)?;
        if verdict == Verdict::Pass {
            break;
        }
    }
    Ok(verdict)
}

/// Measures the kernels that the server would take, or those that the flags ask for.
fn bench(
    args: &BenchArgs,
    surroundings: &Surroundings,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let config = Config::resolve(&flags(&args.on), surroundings)?.config;
    let folder = open(&args.on.folder, args.on.onnx_file.as_deref())?;
    let Some(model) = config.models.first() else { return Ok(Verdict::Fail) };
    let fault = |fault| CommandError::Model { folder: args.on.folder.clone(), fault: Box::new(fault) };
    let Choice { kernels, why } = choices(model, &folder).map_err(fault)?.first;
    let runtime = Runtime::new(config.onnxruntime_path.as_deref(), None);
    let encoders = encoders(model, &folder, kernels, &runtime).map_err(fault)?;
    let tokenizer = tokenizer(model, &folder).map_err(|error| fault(error.into()))?;
    let Encoders { factory, precision, workers, batch_tokens, per_text } = encoders;
    let (precision, threads) = (precision.name(), model.threads);
    let batching = if per_text { format!(" · {PER_TEXT}") } else { String::new() };
    let title = format!("{precision} · {kernels} ({}) · {threads} threads{batching}", why.words());
    let window = window(model, &folder);
    let drive = Drive { workers, batch_tokens, window, time: Duration::from_secs_f64(args.seconds) };
    model_bench::run(&factory, &tokenizer, drive, (&title, args.json), out)?;
    Ok(Verdict::Pass)
}

/// The settings that a command needs, the rest from where the server would have it.
fn flags(args: &VerifyArgs) -> Flags {
    let VerifyArgs { provider, precision, isa, threads, .. } = *args;
    let onnx_file = args.onnx_file.clone();
    let model = ModelSettings { provider, precision, isa, onnx_file, threads, ..ModelSettings::default() };
    let settings = Settings {
        models: Some(vec![List(vec![args.folder.clone()])]),
        onnxruntime_path: args.onnxruntime_path.clone(),
        model,
        ..Settings::default()
    };
    Flags { settings, ..Flags::default() }
}

fn compare(served: &Served, golden: &[Golden], out: &mut dyn Write) -> Result<Verdict, CommandError> {
    let needed = golden_cosine(served.precision);
    let mut worst: f64 = 1.0;
    let mut wrong = 0;
    writeln!(out, "tokens     cosine  text")?;
    for golden in golden {
        let text = GoldenText { text: &golden.text, tokens: golden.tokens, vector: &golden.vector };
        let shown: String = golden.text.chars().take(50).collect();
        // No vector is refused here: the cosine is what is wanted.
        match served.engine.check_golden(&[text], -1.0) {
            Ok(report) => {
                let cosine = report.worst_cosine;
                worst = worst.min(cosine);
                wrong += usize::from(cosine < needed);
                writeln!(out, "{:>6}  {cosine:.7}  {shown:?}", golden.tokens)?;
            }
            Err(error @ (GoldenError::Tokens { .. } | GoldenError::Dimensions { .. })) => {
                wrong += 1;
                writeln!(out, "{:>6}  {:>9}  {shown:?}: {error}", golden.tokens, "-")?;
            }
            Err(error) => return Err(CommandError::Golden(Box::new(error))),
        }
    }
    let texts = golden.len();
    if wrong == 0 {
        writeln!(out, "PASS: {texts} texts, worst cosine {worst:.7}")?;
        Ok(Verdict::Pass)
    } else {
        writeln!(out, "FAIL: {wrong} of {texts} texts, worst cosine {worst:.7}, needed {needed}")?;
        Ok(Verdict::Fail)
    }
}

/// Progress on standard error, one line rewritten in place, if a person is there to see it.
struct Meter {
    terminal: bool,
    /// What was last shown, so that a line is written once a percent.
    shown: Option<(Stage, u64)>,
    wrote: bool,
}

impl Meter {
    fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), shown: None, wrote: false }
    }

    fn show(&mut self, progress: Progress) {
        self.wrote |= progress.stage == Stage::Writing;
        let percent = (progress.done.saturating_mul(100)) / progress.total.max(1);
        let now = Some((progress.stage, percent));
        if !self.terminal || self.shown == now {
            return;
        }
        self.shown = now;
        let doing = match progress.stage {
            Stage::Checking => "checking the files",
            Stage::Writing => "writing the graph",
        };
        // A terminal that went away is no reason to stop the import.
        let _ = write!(io::stderr(), "\r\x1b[K{doing} … {percent} %");
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
