//! Every setting of the program, resolved: plain data that the rest of the gateway takes as given.
//!
//! A value comes from a flag, else from an `EMBEDGATE_*` variable, else from the file, else from the
//! defaults below. [`Config::resolve`] merges the four once and proves that the result can work; nobody
//! else reads the environment. To add a setting: declare it in `settings.rs` (flag, variable and help in
//! one place), read it in `file.rs`, and merge it in `merge.rs`, `access.rs` or `exposure.rs`; the tests then ask for its line in
//! `config/embedgate.toml`. A number has the upper bound of its type, or one of its own in `bounds.rs`.

mod access;
mod bounds;
mod exposure;
mod file;
mod key;
mod listen;
mod merge;
mod pick;
mod renamed;
mod report;
mod resolve;
mod settings;
mod surroundings;
mod trace;
mod value;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use inference::{Provider, TruncationPolicy};

pub use exposure::{OriginFault, Origins};
pub(crate) use file::known_elsewhere;
pub use file::{FileError, FileProblem};
pub use key::{ApiKey, ApiKeyError};
pub use listen::ListenAddress;
pub(crate) use renamed::renamed_flag;
pub use report::{Report, Setting, Shown, Source, Table};
pub use resolve::{ConfigError, Problem, Resolved, defaults};
pub use settings::{
    AuthSettings, CacheSettings, CorsSettings, Flags, LimitsSettings, LogSettings, ModelSettings,
    ServerSettings, Settings, TlsSettings,
};
pub use surroundings::{API_KEYS_VARIABLE, Secret, Surroundings};
pub use trace::{CollectorFault, CollectorUrl, Ratio};
pub use value::{
    Bytes, DynamicQuantization, IsaCap, List, LogFormat, PrecisionWish, RedisFailureMode, RedisUrl, TokenIds,
    UnsupportedParameters,
};

/// Where the file is looked for when no other is named: under the working directory.
pub const DEFAULT_FILE: &str = "config/embedgate.toml";

/// Id, and folder under `models/`, of the model that is served unless another is named.
pub const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";

/// OpenAI's own model names, which existing programs ask for: aliases of the default model unless the
/// settings say otherwise, so that changing `base_url` is enough.
pub const OPENAI_MODELS: [&str; 3] =
    ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"];

/// Below this, a client's connection pool may reuse a connection in the moment we close it.
pub const SAFE_KEEP_ALIVE: Duration = Duration::from_secs(75);

/// The settings of one run of the program. `Debug` shows no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Address of the HTTP listener; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Address of a second listener, which has metrics and probes to itself.
    pub ops_listen: Option<SocketAddr>,
    /// The certificate of the HTTP listener; without one it speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Web pages that may read answers.
    pub cors: Origins,
    /// Connections, deadlines and shutdown.
    pub server: ServerConfig,
    /// What one request may ask for.
    pub limits: LimitsConfig,
    /// Which vectors are kept.
    pub cache: CacheConfig,
    /// Who may ask.
    pub auth: AuthConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Which requests are traced, and where to.
    pub trace: TraceConfig,
    /// ONNX Runtime's shared library, where one was named or found.
    pub onnxruntime_path: Option<PathBuf>,
    /// Id of one of `models`: what the shipped aliases stand for.
    pub default_model: String,
    /// Other names for models: from the name that a client sends to a model's id.
    pub aliases: BTreeMap<String, String>,
    /// The models to serve: at least one, with different ids.
    pub models: Vec<ModelConfig>,
}

/// Connections, deadlines and shutdown.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Threads that speak HTTP; from 1 to 512.
    pub http_workers: usize,
    /// How long an idle connection is kept open.
    pub keep_alive: Duration,
    /// Longest time for a TLS handshake, and for a request's head; zero for no limit.
    pub client_header_timeout: Duration,
    /// Longest time that an answer waits for a client that takes none of it; zero for no limit.
    pub send_timeout: Duration,
    /// Bytes of an answer that a client has to take in a second, on average; 0 if any byte is enough.
    pub min_send_rate: Bytes,
    /// Deadline of one request, from its last byte read to its answer.
    pub request_timeout: Duration,
    /// Connections open at a time, over all workers.
    pub max_connections: usize,
    /// How long `/readyz` already says 503 before the listener closes.
    pub shutdown_delay: Duration,
    /// How long requests in flight may take to finish after the listener closed.
    pub drain_timeout: Duration,
}

/// What one request may ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Inputs of one request; OpenAI's limit by default.
    pub max_inputs: usize,
    /// Tokens of one request, over all inputs; OpenAI's limit by default.
    pub max_request_tokens: usize,
    /// Bytes of one request's body.
    pub max_body_bytes: usize,
    /// Memory for the bodies of all requests together, at least one of the largest.
    pub max_buffered_body_bytes: Bytes,
    /// Answer to a request with parameters of other vendors that cannot be honoured.
    pub unsupported_parameters: UnsupportedParameters,
    /// Memory for the large answers of all requests together.
    pub max_buffered_response_bytes: Bytes,
    /// Requests of one key in a minute; 0 for as many as it likes.
    pub key_requests_per_minute: usize,
    /// Tokens of one key in a minute; 0 for as many as it likes.
    pub key_tokens_per_minute: usize,
    /// Where several servers count them together.
    pub redis_url: Option<RedisUrl>,
    /// How long a request may wait for that; above zero.
    pub redis_timeout: Duration,
    /// What holds while nobody answers there.
    pub redis_failure_mode: RedisFailureMode,
}

/// PEM files, which may change at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate and those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Which vectors are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheConfig {
    /// Memory for the vectors of each model; with none, nothing is kept.
    pub memory: Bytes,
    /// A second tier in Redis or Valkey.
    pub redis_url: Option<RedisUrl>,
    /// How long a request may wait for it, for each 64 texts; above zero.
    pub redis_timeout: Duration,
    /// How long it keeps a vector; at least a second.
    pub redis_ttl: Duration,
}

/// Who may ask.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthConfig {
    /// Keys that are let in; with none here and no file, anyone is.
    pub keys: Vec<ApiKey>,
    /// A file of more keys, which may change at any time.
    pub api_keys_file: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// Lines for people or objects for machines.
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `info,gateway=debug`.
    pub filter: String,
}

/// Which requests are traced, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceConfig {
    /// The collector; without one nothing is traced.
    pub otlp_endpoint: Option<CollectorUrl>,
    /// Share of the requests that are traced, of those whose caller has not decided it.
    pub sample_ratio: Ratio,
}

/// One model to serve.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The name that clients send.
    pub id: String,
    /// The model's folder.
    pub path: PathBuf,
    /// What runs it. One that is not there is an error at start-up, never a silent fall-back.
    pub provider: Provider,
    /// What it is computed in.
    pub precision: PrecisionWish,
    /// Up to which instructions our own kernels may be used.
    pub isa: IsaCap,
    /// The ONNX graph that computes it, relative to the folder; if none, the folder's weights or its default graph.
    pub onnx_file: Option<PathBuf>,
    /// Treatment of a graph that quantises activations with one scale for a whole batch.
    pub dynamic_quantization: DynamicQuantization,
    /// Processors that it may use; from 1 to 1024.
    pub threads: usize,
    /// Sessions of ONNX Runtime, each owned by one thread; at least 1.
    pub onnx_sessions: usize,
    /// What becomes of a text longer than the window.
    pub truncation: TruncationPolicy,
    /// What token ids in a request mean.
    pub token_ids: TokenIds,
    /// True if white space is removed from both ends of every text.
    pub strip_whitespace: bool,
    /// Sizes to which this model's vectors may be cut, ascending; empty for a model not trained for it.
    pub matryoshka_dimensions: Vec<usize>,
    /// Tokens of one batch, padding included; a longer text runs alone. Without it, what suits the kernels.
    pub max_batch_tokens: Option<usize>,
    /// Inputs of one batch.
    pub max_batch_inputs: usize,
    /// Tokens that may wait; every legal request fits.
    pub max_queue_tokens: usize,
    /// A window smaller than the model folder's.
    pub max_input_tokens: Option<usize>,
}

impl Config {
    /// The defaults on a machine where this process may use `cpus` processors.
    pub fn builtin(cpus: usize) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            ops_listen: None,
            tls: None,
            cors: Origins::default(),
            server: ServerConfig::builtin(cpus),
            limits: LimitsConfig::default(),
            cache: CacheConfig::default(),
            auth: AuthConfig::default(),
            log: LogConfig::default(),
            trace: TraceConfig::default(),
            onnxruntime_path: None,
            default_model: DEFAULT_MODEL.to_owned(),
            aliases: openai_aliases(DEFAULT_MODEL),
            models: vec![ModelConfig::builtin(
                DEFAULT_MODEL.to_owned(),
                PathBuf::from("models").join(DEFAULT_MODEL),
                cpus,
            )],
        }
    }
}

impl ServerConfig {
    /// The defaults on a machine where this process may use `cpus` processors.
    pub fn builtin(cpus: usize) -> Self {
        Self {
            http_workers: cpus.clamp(1, bounds::MAX_HTTP_WORKERS),
            keep_alive: Duration::from_secs(90),
            client_header_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(30),
            min_send_rate: Bytes(16 * 1024),
            request_timeout: Duration::from_secs(120),
            max_connections: 10_000,
            shutdown_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_inputs: 2048,
            max_request_tokens: 300_000,
            max_body_bytes: 32 * 1024 * 1024,
            max_buffered_body_bytes: Bytes(256 * 1024 * 1024),
            unsupported_parameters: UnsupportedParameters::Reject,
            max_buffered_response_bytes: Bytes(256 * 1024 * 1024),
            key_requests_per_minute: 0,
            key_tokens_per_minute: 0,
            redis_url: None,
            // On one network an answer takes well below a millisecond.
            redis_timeout: Duration::from_millis(10),
            redis_failure_mode: RedisFailureMode::FailOpen,
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        // Some 18,000 short texts with vectors of 384 values. It is filled by use only, and a third of the weights
        // of the default model, so that the process does not grow beyond what it is measured by.
        Self {
            memory: Bytes(32 * 1024 * 1024),
            redis_url: None,
            // On one network an answer takes well below a millisecond; a text takes several to compute.
            redis_timeout: Duration::from_millis(5),
            redis_ttl: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        // The HTTP library reports each of its threads.
        Self { format: LogFormat::Text, filter: "info,actix_server=warn".to_owned() }
    }
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: Ratio::ALL }
    }
}

impl ModelConfig {
    /// The defaults for the model `id` in the folder `path`, where this process may use `cpus` processors.
    pub fn builtin(id: String, path: PathBuf, cpus: usize) -> Self {
        Self {
            id,
            path,
            provider: Provider::Cpu,
            precision: PrecisionWish::Auto,
            isa: IsaCap::Best,
            onnx_file: None,
            dynamic_quantization: DynamicQuantization::PerText,
            threads: cpus.clamp(1, bounds::MAX_THREADS),
            onnx_sessions: 1,
            truncation: TruncationPolicy::Truncate,
            token_ids: TokenIds::Cl100kBase,
            strip_whitespace: false,
            matryoshka_dimensions: Vec::new(),
            max_batch_tokens: None,
            max_batch_inputs: 256,
            max_queue_tokens: default_queue_tokens(LimitsConfig::default().max_request_tokens),
            max_input_tokens: None,
        }
    }
}

/// Room for two of the largest requests, so that one of them does not shut everyone else out.
fn default_queue_tokens(max_request_tokens: usize) -> usize {
    max_request_tokens.saturating_mul(2)
}

/// OpenAI's model names as aliases of `model`.
fn openai_aliases(model: &str) -> BTreeMap<String, String> {
    OPENAI_MODELS.iter().map(|name| ((*name).to_owned(), model.to_owned())).collect()
}
