//! The command line: commands, flags and their help.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, StyledStr};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{self, CliArgs, ProcessEnv, Report, Setting};

const EXAMPLES: &str = "\
Examples:
  embedgate                                   serve all-MiniLM-L6-v2 on http://127.0.0.1:8080
  embedgate serve --port 9000                 the same on another port
  embedgate serve --listen 0.0.0.0:80         serve other machines; set EMBEDGATE_API_KEYS first
  embedgate check-config                      show every setting and its source
  embedgate status                            watch the load of a running server
  embedgate similarity \"a cat\" \"a dog\"       compare texts
  embedgate model list                        show the known models
  embedgate model pull BAAI/bge-m3            download one of them, or any other
  embedgate serve --model BAAI/bge-m3         serve it

Then, with any OpenAI client:
  OpenAI(base_url=\"http://127.0.0.1:8080/v1\", api_key=\"any\").embeddings.create(
      model=\"text-embedding-3-small\", input=\"hello\")";

const SERVE_NOTES: &str = "\
Examples:
  embedgate serve --model models/a --model models/b
  embedgate serve --model BAAI/bge-m3 --pull
  embedgate serve --provider cuda --log-format json
  EMBEDGATE_API_KEYS=alice=sk-1,bob=sk-2 embedgate serve --listen 0.0.0.0:8080

A setting is taken from its flag, else from its variable, else from the settings file, else it has its
default. Two variables have no flag: EMBEDGATE_API_KEYS holds the API keys that are accepted, as
name=key or key, separated by commas or line breaks; ORT_DYLIB_PATH names ONNX Runtime's library, as
it does for other programs. --model, --alias, --cors-origins and --matryoshka-dimensions may be repeated.
DURATION is a number with ms, s, m or h; SIZE is a number of bytes, or with KiB, MiB or GiB.";

const STATUS_NOTES: &str = "\
Examples:
  embedgate status
  embedgate status --once https://embeddings.example
  OPENAI_API_KEY=sk-1 embedgate status localhost:9000";

const SIMILARITY_NOTES: &str = "\
Examples:
  embedgate similarity \"a cat on a mat\" \"a kitten on a rug\" \"quarterly results\"
  embedgate similarity --model BAAI/bge-small-en-v1.5 --pull \"one text\" \"another\"
  embedgate similarity --json - < lines.txt
  embedgate similarity --url http://127.0.0.1:8080 \"one text\" \"another\"

With --url, --model is the name of a model of that server; without --model, its first embedding model answers.";

const PULL_NOTES: &str = "\
Examples:
  embedgate model pull BAAI/bge-m3
  embedgate model pull intfloat/e5-base-v2@main --to models/e5-base-v2
  embedgate model pull --from bge-m3.tar.gz
  HF_ENDPOINT=https://mirror.example embedgate model pull BAAI/bge-m3";

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
    request: Request,
}

/// A command. The flags that are settings come separately, as [`CliArgs`].
#[derive(Clone, Debug, Subcommand)]
pub enum Request {
    /// Serve embeddings over HTTP (the default)
    #[command(after_help = SERVE_NOTES)]
    Serve,
    /// Show every setting with its source, or what is wrong with them
    ///
    /// Takes the flags of `serve`. The output is a settings file; API keys are counted, not shown.
    CheckConfig,
    /// Ask a running server whether it is ready, for containers
    ///
    /// Takes the flags of `serve` and sends GET /readyz to the address that they say. Exit code 0 when the server is
    /// ready, 1 when it is loading, draining or unreachable.
    Health,
    /// Show the load of a running server as a table, refreshed in place
    ///
    /// Reads GET /status. Rates and percentiles are those of the last interval; the first ones are those since the
    /// server's start. Ends with Ctrl-C, or after one table if the output is not a terminal.
    #[command(after_help = STATUS_NOTES)]
    Status(StatusOptions),
    /// Compare texts: print the cosine similarity of each pair
    ///
    /// Embeds the texts with a model on this machine, which the flags select as for `serve`, or with a running server.
    #[command(after_help = SIMILARITY_NOTES)]
    Similarity(SimilarityOptions),
    /// Download, import, list or verify models
    Model {
        /// The command
        #[command(subcommand)]
        action: ModelAction,
    },
}

/// A command on models.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelAction {
    /// Download a model by its name on a hub, or install one from an archive or a folder
    ///
    /// Downloads the files that embedgate needs into the cache of Hugging Face's libraries, checks their digests, and
    /// opens the model. A download that was interrupted is continued. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE
    /// mean what they mean to those libraries.
    #[command(after_help = PULL_NOTES)]
    Pull(PullOptions),
    /// Write the ONNX graph of a model folder next to its weights
    ///
    /// Reads a sentence-transformers folder, or inspects a ready-made ONNX file in it. Does nothing when the
    /// graph is up to date. `serve` does the same at start-up.
    Import {
        /// The model's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// List the models on this machine, and the known ones that can be downloaded
    List {
        /// The folder of model folders [default: models, if it exists]
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,

        /// A JSON object a line, for programs
        #[arg(long)]
        json: bool,
    },
    /// Compare a model's vectors on this machine with the golden vectors of its manifest
    ///
    /// Prints each text's tokens and cosine. Exit code 1 when one of them is wrong.
    Verify {
        /// The model's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Measure how fast this machine computes a model
    ///
    /// The model alone: no server, no tokenizer, no cache. Close what else is running first.
    Bench {
        /// The model's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,

        /// Seconds for each measurement
        #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = parse_seconds)]
        seconds: f64,

        /// A JSON object a line, for programs
        #[arg(long)]
        json: bool,
    },
}

/// Options of commands that ask a server.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerOptions {
    /// API key of the server [env: OPENAI_API_KEY]
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
}

impl ServerOptions {
    /// The key of the command line, or else of the environment.
    pub(crate) fn key(&self, env: &ProcessEnv) -> Option<String> {
        self.api_key.clone().or_else(|| env.openai_api_key())
    }
}

/// Options of `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusOptions {
    /// Address of the server
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,

    /// The server's key.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Seconds between two readings
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = parse_seconds)]
    pub interval: f64,

    /// Print one table and end
    #[arg(long)]
    pub once: bool,

    /// Print the JSON of one reading and end
    #[arg(long)]
    pub json: bool,
}

/// Options of `similarity`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimilarityOptions {
    /// Texts to compare; `-` stands for the lines of standard input
    #[arg(value_name = "TEXT", required = true)]
    pub texts: Vec<String>,

    /// Ask a running server with OpenAI's API instead of loading a model
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,

    /// The server's key.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Print a JSON object, for programs
    #[arg(long)]
    pub json: bool,
}

/// Options of `model pull`.
#[derive(Clone, Debug, clap::Args)]
pub struct PullOptions {
    /// Its name on the hub; REVISION is a branch, a tag or a commit
    #[arg(value_name = "ORG/NAME[@REVISION]", required_unless_present = "from", conflicts_with = "from")]
    pub model: Option<String>,

    /// Archive (.tar, .tar.gz, .zip), its address, or folder to install from instead
    #[arg(long, value_name = "FILE|URL|DIR")]
    pub from: Option<String>,

    /// SHA-256 of the archive, in hexadecimal; required for an address
    #[arg(long, value_name = "DIGEST", requires = "from")]
    pub sha256: Option<String>,

    /// Folder to put the model into [default: the cache; with --from, models/NAME]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

/// Flag for the host of the listening address.
const HOST: &str = "host";

/// Flag for its port.
const PORT: &str = "port";

/// Keys of the settings that `model pull` has flags for.
const OF_PULL: [&str; 4] = ["onnx_file", "endpoint", "cache_dir", "offline"];

/// Keys of the settings that `model list` has flags for.
const OF_LIST: [&str; 1] = ["cache_dir"];

/// Keys of the settings that `model verify` and `model bench` have flags for.
const OF_ONE_MODEL: [&str; 10] = [
    "onnxruntime_path",
    "provider",
    "precision",
    "int8_min_cosine",
    "auto_min_cosine",
    "int8_max_score_difference",
    "auto_max_score_difference",
    "isa",
    "onnx_file",
    "threads",
];

/// Keys of the settings that `similarity` has flags for.
const OF_SIMILARITY: [&str; 12] = [
    "path",
    "pull",
    "offline",
    "endpoint",
    "cache_dir",
    "onnxruntime_path",
    "provider",
    "precision",
    "int8_min_cosine",
    "isa",
    "onnx_file",
    "threads",
];

/// Keys of the settings that `model import` has flags for.
const OF_IMPORT: [&str; 1] = ["onnx_file"];

/// Reads a positive number of seconds, at most an hour.
fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds <= 3600.0);
    seconds.ok_or_else(|| "expected a number of seconds above 0, at most 3600".to_owned())
}

/// Reads the command line, the program's name first. Without a command it is that of `serve`.
///
/// # Errors
/// clap's usage error, or the help or version that was asked for.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Request, CliArgs), clap::Error> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let about_program = ["-h", "--help", "-V", "--version"];
    let serve_implied = arguments.get(1).is_none_or(|first| {
        first.to_str().is_some_and(|first| first.starts_with('-') && !about_program.contains(&first))
    });
    if serve_implied {
        arguments.insert(arguments.len().min(1), "serve".into());
    }
    let matches = command().try_get_matches_from(arguments).map_err(with_tip)?;
    Ok((Cli::from_arg_matches(&matches)?.request, flags(&matches)))
}

/// Adds a tip to the error about a flag that was renamed, or that only other servers have.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return error };
    let name = flag.trim_start_matches('-');
    let renamed = config::renamed_flag(&name.replace('-', "_"), config::settings());
    let renamed = renamed.and_then(Setting::flag_name);
    let tip = match (renamed, config::known_elsewhere(name)) {
        (Some(new), _) => Some(format!("--{name} is now called --{new}")),
        (None, Some(known)) => {
            Some(format!("--{known} takes address and port in one, such as --{known} 127.0.0.1:8080"))
        }
        (None, None) => None,
    };
    if let Some(tip) = tip.filter(|_| error.kind() == ErrorKind::UnknownArgument) {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

/// Returns the whole command line, with a flag for each setting.
pub fn command() -> Command {
    let defaults = config::defaults(1).report;
    let flags = |keys: &[&str]| {
        let settings = config::settings().into_iter();
        let wanted = settings.filter(|setting| keys.is_empty() || keys.contains(&setting.key));
        wanted.filter_map(|setting| flag(setting, &defaults)).collect::<Vec<_>>()
    };
    let cli = ["serve", "check-config", "health"].into_iter().fold(Cli::command(), |cli, name| {
        cli.mut_subcommand(name, |command| command.args(parts_of_listen()).args(flags(&[])))
    });
    let cli = cli.mut_subcommand("similarity", |command| command.args(flags(&OF_SIMILARITY)));
    cli.mut_subcommand("model", |model| {
        [
            ("pull", &OF_PULL[..]),
            ("list", &OF_LIST),
            ("import", &OF_IMPORT),
            ("verify", &OF_ONE_MODEL),
            ("bench", &OF_ONE_MODEL),
        ]
        .into_iter()
        .fold(model, |model, (name, keys)| model.mut_subcommand(name, |command| command.args(flags(keys))))
    })
}

/// Returns the flags for parts of the address of `--listen`, by the names that other servers have for them. They have
/// no variables: Kubernetes sets `EMBEDGATE_PORT` for a Service that is called `embedgate`.
fn parts_of_listen() -> [Arg; 2] {
    [
        (HOST, "HOST", "Host of the listening address, such as 0.0.0.0; its port stays [default: 127.0.0.1]"),
        (PORT, "PORT", "Port of the listening address, such as 9000; its host stays [default: 8080]"),
    ]
    .map(|(name, placeholder, help)| {
        Arg::new(name)
            .long(name)
            .help(help)
            .help_heading("Main settings")
            .value_name(placeholder)
            .value_parser(OsStringValueParser::new())
            .conflicts_with("listen")
    })
}

/// Returns the flag of a setting; its help names default and variable.
fn flag(setting: &Setting, defaults: &Report) -> Option<Arg> {
    let name = setting.flag_name()?;
    let mut help = setting.help();
    if let Some(default) = defaults.default_of(setting).filter(|default| *default != "[]") {
        help.push_str(&format!(" [default: {}]", default.trim_matches('"')));
    }
    if let Some(variable) = setting.variable_name() {
        help.push_str(&format!(" [env: {variable}]"));
    }
    let arg = Arg::new(name.clone())
        .long(name)
        .help(help)
        .help_heading(setting.heading)
        .value_name(setting.placeholder)
        .value_parser(OsStringValueParser::new())
        .action(if setting.is_list { ArgAction::Append } else { ArgAction::Set })
        .hide_short_help(setting.is_advanced);
    Some(if setting.is_switch {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg
    })
}

/// Returns the flags that are settings; the texts of a repeated one are joined by commas.
fn flags(mut matches: &ArgMatches) -> CliArgs {
    while let Some((_, of_subcommand)) = matches.subcommand() {
        matches = of_subcommand;
    }
    let names = config::settings().into_iter().filter_map(Setting::flag_name);
    let given = names.filter_map(|name| {
        let texts: Vec<_> = matches.try_get_many::<OsString>(&name).ok()??.map(OsString::as_os_str).collect();
        Some((name, texts.join(OsStr::new(","))))
    });
    let part = |name| matches.try_get_one::<OsString>(name).ok().flatten().cloned();
    CliArgs { flags: given.collect(), host: part(HOST), port: part(PORT) }
}
