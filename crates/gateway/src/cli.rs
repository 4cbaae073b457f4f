//! The command line: what can be asked of the program, and its help.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use inference::Provider;

use crate::config::{self, Flags, IsaCap, PrecisionWish, Settings, Shown, Source};

const EXAMPLES: &str = "\
Examples:
  embedgate                                   serve all-MiniLM-L6-v2 on http://127.0.0.1:8080
  embedgate serve --listen 0.0.0.0:80         serve everyone; set EMBEDGATE_API_KEYS first
  embedgate check-config                      show every setting and where it comes from
  embedgate model import models/my-model      prepare a sentence-transformers folder

Then, with any OpenAI client:
  OpenAI(base_url=\"http://127.0.0.1:8080/v1\", api_key=\"any\").embeddings.create(
      model=\"text-embedding-3-small\", input=\"hello\")";

const SERVE_NOTES: &str = "\
Examples:
  embedgate serve --model models/a --model models/b
  embedgate serve --provider cuda --log-format json
  EMBEDGATE_API_KEYS=alice=sk-1,bob=sk-2 embedgate serve --listen 0.0.0.0:8080

A setting is taken from its flag, else from its variable, else from the settings file, else its
default holds. Two variables have no flag: EMBEDGATE_API_KEYS holds the API keys that are let in,
as name=key or key, separated by commas or line breaks; ORT_DYLIB_PATH names ONNX Runtime's
library, as elsewhere. --model, --alias, --cors-origins and --matryoshka-dimensions may be repeated.
TIME is a number with ms, s, m or h; SIZE is a number of bytes, or with KiB, MiB or GiB.";

/// Serves text embeddings over OpenAI's API.
///
/// Without a command, `serve` is meant.
#[derive(Debug, Parser)]
#[command(
    name = "embedgate",
    version,
    override_usage = "embedgate [COMMAND]",
    after_help = EXAMPLES,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

/// What the program is asked to do.
#[derive(Clone, Debug)]
pub enum Request {
    /// Serve until a signal.
    Serve(Flags),
    /// Show the resolved settings.
    CheckConfig(Flags),
    /// Ask a running server whether it is ready.
    Health(Flags),
    /// Work on model folders.
    Model(ModelAction),
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Serve embeddings over HTTP (the default)
    #[command(after_help = SERVE_NOTES)]
    Serve(Settings),
    /// Show every setting with its source, or what is wrong with them
    ///
    /// Takes the flags of `serve`. The output is a settings file; API keys are counted, not shown.
    CheckConfig(Settings),
    /// Ask a running server whether it is ready, for containers
    ///
    /// Takes the flags of `serve` and asks /readyz where they say that it listens. Exit code 0 when it is ready,
    /// 1 when it is loading, draining or not there.
    Health(Settings),
    /// Import, list or verify model folders
    Model {
        #[command(subcommand)]
        action: ModelAction,
    },
}

/// What to do with model folders.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelAction {
    /// Write the ONNX graph of a model folder beside its weights
    ///
    /// Reads a sentence-transformers folder, or inspects a ready-made ONNX file in it. Does nothing when the
    /// graph is up to date. `serve` does the same at start-up.
    Import {
        /// The model's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,

        /// The ready-made ONNX graph to inspect, relative to the folder
        #[arg(long, env = "EMBEDGATE_ONNX_FILE", value_name = "FILE")]
        onnx_file: Option<PathBuf>,
    },
    /// List the models of a folder and whether they can be served
    List {
        /// The folder of model folders
        #[arg(value_name = "DIR", default_value = "models")]
        folder: PathBuf,
    },
    /// Compare a model's vectors on this machine with its manifest's
    ///
    /// Prints each text's tokens and cosine. Exit code 1 when one of them is wrong.
    Verify(VerifyArgs),
    /// Measure how fast this machine computes a model
    ///
    /// The model alone: no server, no tokenizer, no cache. Close what else is running first.
    Bench(BenchArgs),
}

/// What to verify, and on what.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The model's folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,

    /// What runs it: `cpu`, `openvino`, `cuda` or `cuda:1`
    #[arg(long, env = "EMBEDGATE_PROVIDER", value_name = "PROVIDER")]
    pub provider: Option<Provider>,

    /// What it is computed in: `auto`, `fp32` or `bf16`
    #[arg(long, env = "EMBEDGATE_PRECISION", value_name = "PRECISION", hide_possible_values = true)]
    pub precision: Option<PrecisionWish>,

    /// Up to which instructions: `auto`, `amx`, `avx512`, `avx2`, `neon`; `none` for ONNX Runtime
    #[arg(long, env = "EMBEDGATE_ISA", value_name = "ISA")]
    pub isa: Option<IsaCap>,

    /// The ONNX graph to compute it with, relative to the folder
    #[arg(long, env = "EMBEDGATE_ONNX_FILE", value_name = "FILE")]
    pub onnx_file: Option<PathBuf>,

    /// Threads; 0 for one a processor
    #[arg(long, env = "EMBEDGATE_THREADS", value_name = "N")]
    pub threads: Option<usize>,

    /// ONNX Runtime's shared library
    #[arg(long, env = "EMBEDGATE_ONNXRUNTIME_PATH", value_name = "FILE")]
    pub onnxruntime_path: Option<PathBuf>,
}

/// What to measure, on what, and for how long.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What runs, and on what
    #[command(flatten)]
    pub on: VerifyArgs,

    /// Seconds for each measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = parse_seconds)]
    pub seconds: f64,

    /// A JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
}

/// Reads a positive number of seconds, at most an hour.
fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds <= 3600.0);
    seconds.ok_or_else(|| "expected a number of seconds above 0".to_owned())
}

/// Reads the command line, the program's name first. Without a command it is that of `serve`.
///
/// # Errors
/// What clap says: a usage error, or the help or version that was asked for.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, clap::Error> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let about_program = ["-h", "--help", "-V", "--version"];
    let serve_implied = arguments.get(1).is_none_or(|first| {
        first.to_str().is_some_and(|first| first.starts_with('-') && !about_program.contains(&first))
    });
    if serve_implied {
        arguments.insert(arguments.len().min(1), "serve".into());
    }
    let matches = command().try_get_matches_from(arguments).map_err(with_tip)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let flags = |settings| Flags { settings, from_environment: from_environment(&matches) };
    Ok(match cli.action {
        Action::Serve(settings) => Request::Serve(flags(settings)),
        Action::CheckConfig(settings) => Request::CheckConfig(flags(settings)),
        Action::Health(settings) => Request::Health(flags(settings)),
        Action::Model { action } => Request::Model(action),
    })
}

/// Adds a tip to the error about a flag that was renamed, or that only other servers have.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return error };
    let name = flag.trim_start_matches('-');
    let tip = if let Some(new_name) = config::renamed_flag(&name.replace('-', "_")) {
        Some(format!("--{name} is now called --{}", new_name.replace('_', "-")))
    } else {
        config::known_elsewhere(name)
            .map(|known| format!("--{known} takes address and port in one, such as --{known} 127.0.0.1:8080"))
    };
    if let Some(tip) = tip.filter(|_| error.kind() == ErrorKind::UnknownArgument) {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

/// The whole command line, with the default of each setting in its help.
pub fn command() -> Command {
    let defaults = defaults();
    let with_defaults = |command: Command| {
        // A variable's name belongs into the help, not what it holds just now.
        let command = command.mut_args(|arg| arg.hide_env_values(true));
        defaults.iter().fold(command, |command, (arg, default)| {
            command.mut_arg(arg, |arg| {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                arg.help(format!("{help} [default: {default}]"))
            })
        })
    };
    let taking_settings = ["serve", "check-config", "health"];
    taking_settings.into_iter().fold(Cli::command(), |cli, name| cli.mut_subcommand(name, with_defaults))
}

/// The default of each setting that has one, by clap's id, as a flag would be written.
fn defaults() -> Vec<(&'static str, String)> {
    let defaults =
        config::defaults().settings.into_iter().filter(|setting| setting.source == Source::Default);
    let defaults = defaults.filter_map(|setting| match (setting.arg, setting.value) {
        (Some(arg), Shown::Toml(value)) if value != "[]" => Some((arg, value.trim_matches('"').to_owned())),
        _ => None,
    });
    defaults.collect()
}

/// clap's ids of the flags whose values came from variables.
fn from_environment(matches: &ArgMatches) -> BTreeSet<String> {
    let Some((_, matches)) = matches.subcommand() else { return BTreeSet::new() };
    let ids = matches.ids().map(clap::Id::as_str);
    let from_variable = |id: &&str| {
        matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::EnvVariable)
    };
    ids.filter(from_variable).map(str::to_owned).collect()
}
