//! From the four sources to one [`Config`]: the entry, and everything that can be wrong with the result.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bert_cpu::Isa;
use thiserror::Error;

use super::exposure::OriginFault;
use super::file::{self, File, FileError};
use super::merge::Merge;
use super::report::Report;
use super::settings::Flags;
use super::surroundings::{API_KEYS_VARIABLE, Surroundings};
use super::trace::CollectorFault;
use super::{ApiKeyError, Bytes, Config, DEFAULT_FILE, RedisUrl};

/// Most bytes of a settings file: a thousand models take a tenth of it.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A configuration, and how it came about.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The settings.
    pub config: Config,
    /// Each of them with its source.
    pub report: Report,
    /// What will work, but probably not as wished; to be logged at start-up.
    pub warnings: Vec<String>,
}

/// Settings that cannot work.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("cannot read the settings file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Mistakes in the settings file.
    #[error("{}", lines(.0))]
    File(Vec<FileError>),
    /// Values that contradict each other or mean nothing.
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
}

/// A setting that cannot work.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// Nothing to serve.
    #[error("there is no model to serve: add a `[[models]]` with its `path`, or `--model DIR`")]
    NoModel,
    /// A path that ends in no name, so that the model has none.
    #[error("the model at {} needs an `id`: its path ends in no name", path.display())]
    UnnamedModel {
        /// The path.
        path: PathBuf,
    },
    /// Two models of one name.
    #[error("two models are called `{id}`: give one of them another `id`")]
    DuplicateModel {
        /// The name.
        id: String,
    },
    /// `default_model` is not served.
    #[error("`default_model` is `{id}`, which is not among the models ({models})")]
    UnknownDefault {
        /// The name.
        id: String,
        /// The names that are.
        models: String,
    },
    /// An alias of a model that is not served.
    #[error("the alias `{alias}` stands for `{id}`, which is not among the models ({models})")]
    UnknownAlias {
        /// The alias.
        alias: String,
        /// What it stands for.
        id: String,
        /// The names that are served.
        models: String,
    },
    /// An alias that would hide a model.
    #[error("the alias `{alias}` has the name of a model: remove one of them")]
    ShadowingAlias {
        /// The alias.
        alias: String,
    },
    /// A legal request that the queue could never take.
    #[error(
        "`max_queue_tokens` of model `{model}` is {max_queue_tokens}, but one request may have {needed} tokens: \
         raise `max_queue_tokens` or lower `limits.max_request_tokens`"
    )]
    SmallQueue {
        /// The model.
        model: String,
        /// Its setting.
        max_queue_tokens: usize,
        /// The most that one request may need.
        needed: usize,
    },
    /// A number above its upper bound.
    #[error("`{key}` is {value}, but may be {max} at most")]
    AboveMaximum {
        /// The key with its table.
        key: String,
        /// Its value, as the file would hold it.
        value: String,
        /// The largest value that it may have.
        max: String,
    },
    /// A graph outside the model's folder.
    #[error(
        "`onnx_file` of model `{model}` is `{}`: it must be a path inside the model's folder, such as \
         onnx/model_quantized.onnx",
        path.display()
    )]
    OnnxFile {
        /// The model.
        model: String,
        /// Its setting.
        path: PathBuf,
    },
    /// A variable with our prefix that belongs to no setting.
    #[error(
        "unknown variable `{variable}`{}",
        nearest.as_ref().map_or_else(
            || "; `embedgate serve --help` lists the known variables, remove or rename this one".to_owned(),
            |known| format!("; did you mean `{known}`?")
        )
    )]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// The known variable that looks most like it.
        nearest: Option<String>,
    },
    /// A variable that has another name now.
    #[error("the variable `{variable}` is now called `{new_name}`")]
    RenamedVariable {
        /// Its former name.
        variable: String,
        /// Its present name.
        new_name: String,
    },
    /// The name of a host that has no address here.
    #[error("`{host}`, where the server should listen, cannot be resolved ({reason}): write an IP address")]
    UnknownHost {
        /// The name.
        host: String,
        /// The system's error.
        reason: String,
    },
    /// Instructions that no processor of this architecture has.
    #[error(
        "`isa` of model `{model}` is `{isa}`, which no {} processor has: write `auto`, {} or `none`",
        std::env::consts::ARCH,
        native_isas()
    )]
    ForeignIsa {
        /// The model.
        model: String,
        /// Its setting.
        isa: Isa,
    },
    /// A legal body that would never find room.
    #[error(
        "`limits.max_buffered_body_bytes` is {memory}, but one body may have {largest}: raise it or lower \
         `limits.max_body_bytes`"
    )]
    SmallBodyMemory {
        /// For all bodies together.
        memory: Bytes,
        /// For one.
        largest: Bytes,
    },
    /// Memory for answers that is too small to hold more than a few.
    #[error("`limits.max_buffered_response_bytes` is {memory}, but must be at least {least}")]
    SmallResponseMemory {
        /// The value of the setting, for all answers together.
        memory: Bytes,
        /// The smallest value that is allowed.
        least: Bytes,
    },
    /// One file of the two that TLS needs.
    #[error("`tls.{given}` is set, but not `tls.{missing}`: TLS needs both")]
    HalfOfTls {
        /// What is set.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// An origin that no browser would send, so that it would never match.
    #[error("`cors.origins` holds `{origin}`, which no browser sends: {fault}")]
    Origin {
        /// What is there.
        origin: String,
        /// Its fault, which says what to write instead.
        fault: OriginFault,
    },
    /// No time for any request.
    #[error("`server.request_timeout` is zero: no request could be answered")]
    NoTime,
    /// An address that is none; it is not quoted, for it may hold a password.
    #[error(
        "`{table}.redis_url` is no address of a Redis server: write redis://host:6379/0 or redis+unix:///path"
    )]
    RedisUrl {
        /// The table of the setting.
        table: &'static str,
    },
    /// A server that is to be spoken to in TLS.
    #[error(
        "`{table}.redis_url` asks for TLS, which embedgate does not speak to Redis: give it a network of its own, or a \
         proxy that encrypts, and write redis://"
    )]
    RedisTls {
        /// The table of the setting.
        table: &'static str,
    },
    /// No time to ask for shared limits.
    #[error("`limits.redis_timeout` must be above zero")]
    LimitsRedisTimeout,
    /// No time to ask, or to keep what was answered.
    #[error("`cache.redis_timeout` must be above zero, `cache.redis_ttl` at least a second")]
    RedisTimes,
    /// An API key that cannot be used.
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
    /// Bytes that no HTTP client could send.
    #[error("{API_KEYS_VARIABLE} is not UTF-8")]
    ApiKeysNotText,
    /// Traces cannot be sent there; the address is not quoted, for it may hold a password.
    #[error("`trace.otlp_endpoint` {0}")]
    OtlpEndpoint(CollectorFault),
    /// The log filter means nothing.
    #[error("the log filter `{filter}` is not understood ({reason}); write a level, or `info,gateway=debug`")]
    LogFilter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Problem {
    /// What is wrong with the `redis_url` of `table`.
    pub(super) fn of_redis(url: &RedisUrl, table: &'static str) -> Option<Self> {
        if url.is_encrypted() {
            return Some(Self::RedisTls { table });
        }
        (!url.is_valid()).then_some(Self::RedisUrl { table })
    }
}

/// The instruction sets of this architecture, as a message lists them.
fn native_isas() -> String {
    let native = Isa::ALL.into_iter().rev().filter(|isa| isa.is_of_this_architecture());
    native.map(|isa| format!("`{isa}`")).collect::<Vec<_>>().join(", ")
}

fn lines<T: ToString>(problems: &[T]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Merges flags, environment, file and defaults, in this order of precedence.
    ///
    /// # Errors
    /// A file that cannot be read or understood, or settings that cannot work; all of them at once.
    pub fn resolve(flags: &Flags, surroundings: &Surroundings) -> Result<Resolved, ConfigError> {
        let (path, file) = read_file(flags, surroundings)?;
        Merge::new(flags, file, path, surroundings).config()
    }
}

/// What is resolved when nobody says anything: each setting's default.
///
/// # Panics
/// When the defaults contradict each other.
pub fn defaults() -> Report {
    let surroundings = Surroundings {
        working_directory: PathBuf::new(),
        executable: None,
        processors: 1,
        variables: Vec::new(),
        api_keys: None,
        ort_dylib_path: None,
        otlp_endpoint: None,
    };
    let flags = Flags::default();
    let merge = Merge::new(&flags, File::default(), PathBuf::new(), &surroundings);
    merge.config().expect("the defaults can work").report
}

/// Reads the file that was named, or the one at its usual place, or none.
fn read_file(flags: &Flags, surroundings: &Surroundings) -> Result<(PathBuf, File), ConfigError> {
    let named = flags.settings.config.as_deref();
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match read_text(&surroundings.working_directory.join(path)) {
        Ok(text) => match file::parse(path, &text) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(mistakes) => Err(ConfigError::File(mistakes)),
        },
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok((path.to_owned(), File::default()))
        }
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

/// Reads a text file of up to [`MAX_FILE_BYTES`]; a pipe as well, such as a shell's `<(…)`.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}
