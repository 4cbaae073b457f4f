//! What one source of settings may say: each field is a key of the file, a flag and a variable at once.
//!
//! The doc comments are the help of the program and the text of `docs/CONFIG.md`.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use inference::{Provider, TruncationPolicy};

use super::exposure::Origins;
use super::listen::ListenAddress;
use super::trace::{CollectorUrl, Ratio};
use super::value::{
    Bytes, DynamicQuantization, IsaCap, List, LogFormat, PrecisionWish, RedisFailureMode, RedisUrl, TokenIds,
    UnsupportedParameters, elements, parse_duration,
};

/// The command line's and the environment's part of the settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The values given. A flag has already won over its variable.
    pub settings: Settings,
    /// The names (clap's ids) of those that came from a variable.
    pub from_environment: BTreeSet<String>,
}

/// The settings that one source gives.
#[derive(Args, Clone, Debug, Default)]
pub struct Settings {
    /// Settings file (TOML). Without this flag `config/embedgate.toml` is read, if it is there.
    #[arg(long, env = "EMBEDGATE_CONFIG", value_name = "FILE", help_heading = "Main settings")]
    pub config: Option<PathBuf>,

    /// Address and port to listen on, such as `127.0.0.1:8080` or `localhost:8080`; `:8080` is every interface, `8080`
    /// this machine alone; port 0 lets the system choose.
    #[arg(long, env = "EMBEDGATE_LISTEN", value_name = "ADDR", help_heading = "Main settings")]
    pub listen: Option<ListenAddress>,

    /// Another address for `/metrics` and the three probes, in plain HTTP and without keys. They then answer there and
    /// no longer on the main one.
    #[arg(long, env = "EMBEDGATE_OPS_LISTEN", value_name = "ADDR", help_heading = "Main settings")]
    pub ops_listen: Option<ListenAddress>,

    /// Folder of a model to serve, under the folder's name; may be repeated (variable: separated by
    /// commas). Replaces the models of the file.
    #[arg(long = "model", env = "EMBEDGATE_MODELS", value_name = "DIR", help_heading = "Main settings")]
    pub models: Option<Vec<List<PathBuf>>>,

    /// Id of the model that the OpenAI names stand for. Without it, the first model.
    #[arg(long, env = "EMBEDGATE_DEFAULT_MODEL", value_name = "ID", help_heading = "Main settings")]
    pub default_model: Option<String>,

    /// Another name for a model; may be repeated (variable: separated by commas). Replaces the aliases of
    /// the file, which by default are OpenAI's names for the default model.
    #[arg(
        long = "alias",
        env = "EMBEDGATE_ALIASES",
        value_name = "NAME=ID",
        value_parser = parse_aliases,
        help_heading = "Main settings"
    )]
    pub aliases: Option<Vec<List<(String, String)>>>,

    /// ONNX Runtime's shared library. Without it (and without ORT_DYLIB_PATH) it is looked for in `../lib`
    /// and beside the program, then in `.runtime/onnxruntime`.
    #[arg(long, env = "EMBEDGATE_ONNXRUNTIME_PATH", value_name = "FILE", help_heading = "Main settings")]
    pub onnxruntime_path: Option<PathBuf>,

    /// The table `[server]`.
    #[command(flatten)]
    pub server: ServerSettings,
    /// The table `[limits]`.
    #[command(flatten)]
    pub limits: LimitsSettings,
    /// The table `[auth]`.
    #[command(flatten)]
    pub auth: AuthSettings,
    /// The table `[tls]`.
    #[command(flatten)]
    pub tls: TlsSettings,
    /// The table `[cors]`.
    #[command(flatten)]
    pub cors: CorsSettings,
    /// The table `[cache]`.
    #[command(flatten)]
    pub cache: CacheSettings,
    /// The table `[log]`.
    #[command(flatten)]
    pub log: LogSettings,
    /// The table `[trace]`.
    #[command(flatten)]
    pub trace: TraceSettings,
    /// For every model, over what its entry in the file says.
    #[command(flatten)]
    pub model: ModelSettings,
}

/// Connections, deadlines and shutdown.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub struct ServerSettings {
    /// Threads that speak HTTP; 0 for one a processor.
    #[arg(long, env = "EMBEDGATE_HTTP_WORKERS", value_name = "N", hide_short_help = true)]
    pub http_workers: Option<usize>,

    /// How long an idle connection is kept open. Below 75s, clients see connections reset.
    #[arg(long, env = "EMBEDGATE_KEEP_ALIVE", value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub keep_alive: Option<Duration>,

    /// Longest time for a TLS handshake, and for the head of a request; 0 for no limit.
    #[arg(long, env = "EMBEDGATE_CLIENT_HEADER_TIMEOUT", value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub client_header_timeout: Option<Duration>,

    /// Longest time that an answer waits for a client that takes none of it; 0 for no limit.
    #[arg(long, env = "EMBEDGATE_SEND_TIMEOUT", value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub send_timeout: Option<Duration>,

    /// Bytes of an answer that a client has to take in a second, on average over `send_timeout`; 0 if any byte is
    /// enough.
    #[arg(long, env = "EMBEDGATE_MIN_SEND_RATE", value_name = "SIZE", hide_short_help = true)]
    pub min_send_rate: Option<Bytes>,

    /// Deadline of one request; one that cannot meet it is refused with `retry-after`.
    #[arg(long, env = "EMBEDGATE_REQUEST_TIMEOUT", value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub request_timeout: Option<Duration>,

    /// Connections open at a time.
    #[arg(long, env = "EMBEDGATE_MAX_CONNECTIONS", value_name = "N", hide_short_help = true)]
    pub max_connections: Option<NonZeroUsize>,

    /// On shutdown: how long `/readyz` says 503 while requests are still accepted, X    /// look away first.
    #[arg(long, env = "EMBEDGATE_SHUTDOWN_DELAY", value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub shutdown_delay: Option<Duration>,

    /// On shutdown: how long requests in flight may take to finish.
    #[arg(long, env = "EMBEDGATE_DRAIN_TIMEOUT", value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub drain_timeout: Option<Duration>,
}

/// What one request may ask for.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits of a request")]
pub struct LimitsSettings {
    /// Inputs of one request, 65536 at most; OpenAI allows 2048.
    #[arg(long, env = "EMBEDGATE_MAX_INPUTS", value_name = "N", hide_short_help = true)]
    pub max_inputs: Option<NonZeroUsize>,

    /// Tokens of one request, over all its inputs, 2097151 at most; OpenAI allows 300000.
    #[arg(long, env = "EMBEDGATE_MAX_REQUEST_TOKENS", value_name = "N", hide_short_help = true)]
    pub max_request_tokens: Option<NonZeroUsize>,

    /// Bytes of one request's body.
    #[arg(long, env = "EMBEDGATE_MAX_BODY_BYTES", value_name = "N", hide_short_help = true)]
    pub max_body_bytes: Option<NonZeroUsize>,

    /// Memory for all requests' bodies together, beyond 16KiB of each; one that finds no room is refused (503).
    #[arg(long, env = "EMBEDGATE_MAX_BUFFERED_BODY_BYTES", value_name = "SIZE", hide_short_help = true)]
    pub max_buffered_body_bytes: Option<Bytes>,

    /// Parameters of other vendors that would change the vectors and cannot be honoured: `reject` answers 400, `ignore`
    /// answers without them and names them in the header `x-embedgate-ignored`.
    #[arg(
        long,
        env = "EMBEDGATE_UNSUPPORTED_PARAMETERS",
        value_name = "CHOICE",
        hide_short_help = true,
        hide_possible_values = true
    )]
    pub unsupported_parameters: Option<UnsupportedParameters>,

    /// Memory for all requests' answers together, at least 1MiB: four bytes for each number of an answer above 32KiB,
    /// from its admission until its client has read it. A request that finds no room is refused (503); one that needs
    /// more than all of it is admitted when no other large one is.
    #[arg(long, env = "EMBEDGATE_MAX_BUFFERED_RESPONSE_BYTES", value_name = "SIZE", hide_short_help = true)]
    pub max_buffered_response_bytes: Option<Bytes>,

    /// Requests that one key may send in a minute, or, without keys, all clients together; 0 for no limit.
    #[arg(long, env = "EMBEDGATE_KEY_REQUESTS_PER_MINUTE", value_name = "N")]
    pub key_requests_per_minute: Option<usize>,

    /// Tokens that one key may have embedded in a minute, or, without keys, all clients together; 0 for no limit.
    #[arg(long, env = "EMBEDGATE_KEY_TOKENS_PER_MINUTE", value_name = "N")]
    pub key_tokens_per_minute: Option<usize>,

    /// A Redis or Valkey server in which several servers count these together, such as `redis://host:6379/0`. A
    /// password is better given in the variable than in the flag.
    #[arg(
        id = "limits_redis_url",
        long = "limits-redis-url",
        env = "EMBEDGATE_LIMITS_REDIS_URL",
        value_name = "URL",
        hide_short_help = true,
        hide_env_values = true
    )]
    pub redis_url: Option<RedisUrl>,

    /// How long a request may wait for that server.
    #[arg(
        id = "limits_redis_timeout",
        long = "limits-redis-timeout",
        env = "EMBEDGATE_LIMITS_REDIS_TIMEOUT",
        value_name = "DURATION",
        value_parser = parse_duration,
        hide_short_help = true
    )]
    pub redis_timeout: Option<Duration>,

    /// While that server is unavailable: `fail-open` applies the limits in this server alone, `fail-closed`
    /// answers 503.
    #[arg(
        id = "limits_redis_failure_mode",
        long = "limits-redis-failure-mode",
        env = "EMBEDGATE_LIMITS_REDIS_FAILURE_MODE",
        value_name = "CHOICE",
        hide_short_help = true,
        hide_possible_values = true
    )]
    pub redis_failure_mode: Option<RedisFailureMode>,
}

/// Who may ask.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Access")]
pub struct AuthSettings {
    /// File of API keys, one `name=key` or `key` a line, reloaded when it changes. They are accepted in addition to
    /// those of EMBEDGATE_API_KEYS.
    #[arg(
        id = "api_keys_file",
        long = "api-keys-file",
        env = "EMBEDGATE_API_KEYS_FILE",
        value_name = "FILE"
    )]
    pub api_keys_file: Option<PathBuf>,
}

/// Encryption of the main listener.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS")]
pub struct TlsSettings {
    /// PEM file of the certificate, followed by its intermediate certificates; reloaded when it changes. With this and
    /// the key the main address speaks HTTPS.
    #[arg(
        id = "tls_certificate",
        long = "tls-certificate",
        env = "EMBEDGATE_TLS_CERTIFICATE",
        value_name = "FILE"
    )]
    pub certificate: Option<PathBuf>,

    /// PEM file of the certificate's private key; reloaded when it changes.
    #[arg(id = "tls_key", long = "tls-key", env = "EMBEDGATE_TLS_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// Web pages of other origins.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Web pages")]
pub struct CorsSettings {
    /// An origin of web pages that may read answers, such as `https://app.example`; `*` for all; may be repeated
    /// (variable: separated by commas).
    #[arg(id = "cors_origins", long = "cors-origins", env = "EMBEDGATE_CORS_ORIGINS", value_name = "ORIGIN")]
    pub origins: Option<Vec<Origins>>,
}

/// Which vectors are kept.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cache")]
pub struct CacheSettings {
    /// Memory in which each model keeps the vectors of texts that may come again, such as `256MiB`; 0 for none.
    #[arg(id = "cache_memory", long = "cache-memory", env = "EMBEDGATE_CACHE_MEMORY", value_name = "SIZE")]
    pub memory: Option<Bytes>,

    /// A Redis or Valkey server that keeps vectors for several servers, such as `redis://host:6379/0`. A password is
    /// better given in the variable than in the flag.
    #[arg(
        id = "cache_redis_url",
        long = "cache-redis-url",
        env = "EMBEDGATE_CACHE_REDIS_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub redis_url: Option<RedisUrl>,

    /// How long a request may wait for that server, for each 64 texts.
    #[arg(
        id = "cache_redis_timeout",
        long = "cache-redis-timeout",
        env = "EMBEDGATE_CACHE_REDIS_TIMEOUT",
        value_name = "DURATION",
        value_parser = parse_duration,
        hide_short_help = true
    )]
    pub redis_timeout: Option<Duration>,

    /// How long that server keeps a vector.
    #[arg(
        id = "cache_redis_ttl",
        long = "cache-redis-ttl",
        env = "EMBEDGATE_CACHE_REDIS_TTL",
        value_name = "DURATION",
        value_parser = parse_duration,
        hide_short_help = true
    )]
    pub redis_ttl: Option<Duration>,
}

/// What is logged, and how.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Log")]
pub struct LogSettings {
    /// `text` for people, `json` for machines.
    #[arg(id = "log_format", long = "log-format", env = "EMBEDGATE_LOG_FORMAT", value_name = "FORMAT")]
    pub format: Option<LogFormat>,

    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or that by module, such as `info,gateway=debug`.
    #[arg(id = "log_filter", long = "log-filter", env = "EMBEDGATE_LOG_FILTER", value_name = "FILTER")]
    pub filter: Option<String>,
}

/// Which requests are traced, and where to.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Traces")]
pub struct TraceSettings {
    /// A collector that takes OTLP over plain HTTP, such as `http://127.0.0.1:4318`. Without one nothing is traced.
    #[arg(
        long,
        env = "EMBEDGATE_OTLP_ENDPOINT",
        value_name = "URL",
        hide_short_help = true,
        hide_env_values = true
    )]
    pub otlp_endpoint: Option<CollectorUrl>,

    /// Share of the requests that are traced, of those whose caller has not decided it (`traceparent`).
    #[arg(
        id = "trace_sample_ratio",
        long = "trace-sample-ratio",
        env = "EMBEDGATE_TRACE_SAMPLE_RATIO",
        value_name = "0..1",
        hide_short_help = true
    )]
    pub sample_ratio: Option<Ratio>,
}

/// How a model is run.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Models (for all that are served)")]
pub struct ModelSettings {
    /// What runs the model: `cpu`, `cuda`, `cuda:1` for the second device, or `openvino` for ONNX Runtime's build
    /// with it. One that is not there is an error at start-up.
    #[arg(long, env = "EMBEDGATE_PROVIDER", value_name = "PROVIDER")]
    pub provider: Option<Provider>,

    /// What the model is computed in: `auto` takes bf16 where the processor is fast at it and the model's golden
    /// vectors hold, else fp32; `bf16` that or an error; `fp32`.
    #[arg(long, env = "EMBEDGATE_PRECISION", value_name = "PRECISION", hide_possible_values = true)]
    pub precision: Option<PrecisionWish>,

    /// Up to which instructions embedgate's own kernels may be used: `auto` for the best that there are, `amx`,
    /// `avx512`, `avx2`, `neon`; with `none` ONNX Runtime computes every model.
    #[arg(long, env = "EMBEDGATE_ISA", value_name = "ISA", hide_short_help = true)]
    pub isa: Option<IsaCap>,

    /// ONNX graph to compute the model with, relative to the model's folder, such as `onnx/model_quantized.onnx`. Without
    /// it, the folder's weights are used if embedgate knows their architecture, else `model.onnx` or `onnx/model.onnx`.
    #[arg(long, env = "EMBEDGATE_ONNX_FILE", value_name = "FILE", hide_short_help = true)]
    pub onnx_file: Option<PathBuf>,

    /// ONNX graphs that quantise activations with one scale for a whole batch (`DynamicQuantizeLinear` and its like):
    /// `per-text` runs them one text at a time, so that a text's vector does not depend on its batch, `reject` is an
    /// error at start-up.
    #[arg(
        long,
        env = "EMBEDGATE_DYNAMIC_QUANTIZATION",
        value_name = "POLICY",
        hide_short_help = true,
        hide_possible_values = true
    )]
    pub dynamic_quantization: Option<DynamicQuantization>,

    /// Processors that the model may use; 0 for all that this process may.
    #[arg(long, env = "EMBEDGATE_THREADS", value_name = "N")]
    pub threads: Option<usize>,

    /// Sessions of ONNX Runtime, each with its own copy of the weights and with `threads` threads. embedgate's own
    /// kernels share one copy.
    #[arg(long, env = "EMBEDGATE_ONNX_SESSIONS", value_name = "N", hide_short_help = true)]
    pub onnx_sessions: Option<NonZeroUsize>,

    /// Texts longer than the window: `truncate` cuts them and says so in a header, `average` embeds all
    /// windows and averages them, `error` answers 400.
    #[arg(long, env = "EMBEDGATE_TRUNCATION", value_name = "POLICY", hide_short_help = true)]
    pub truncation: Option<TruncationPolicy>,

    /// What token ids in a request mean: `cl100k_base` or `o200k_base` are OpenAI's vocabularies (LangChain
    /// sends the first), `native` is the model's own, `reject` refuses them.
    #[arg(
        long,
        env = "EMBEDGATE_TOKEN_IDS",
        value_name = "VOCABULARY",
        hide_short_help = true,
        hide_possible_values = true
    )]
    pub token_ids: Option<TokenIds>,

    /// `true` removes white space from both ends of every text, as sentence-transformers did before release 5.4: for an
    /// index that was built so. Only tokenizers that keep white space, byte-level BPE and sentencepiece, give other
    /// vectors.
    #[arg(
        long,
        env = "EMBEDGATE_STRIP_WHITESPACE",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_short_help = true,
        hide_possible_values = true
    )]
    pub strip_whitespace: Option<bool>,

    /// A size to which vectors may be cut by `dimensions`; only for a model trained for it (Matryoshka); may be repeated
    /// (variable: separated by commas).
    #[arg(long, env = "EMBEDGATE_MATRYOSHKA_DIMENSIONS", value_name = "SIZE", hide_short_help = true)]
    pub matryoshka_dimensions: Option<Vec<List<NonZeroUsize>>>,

    /// Tokens of one batch, padding included; a longer text runs alone. Without it, 48 for embedgate's own kernels
    /// (in bf16 256) and 1024 for ONNX Runtime.
    #[arg(long, env = "EMBEDGATE_MAX_BATCH_TOKENS", value_name = "N", hide_short_help = true)]
    pub max_batch_tokens: Option<NonZeroUsize>,

    /// Inputs of one batch.
    #[arg(long, env = "EMBEDGATE_MAX_BATCH_INPUTS", value_name = "N", hide_short_help = true)]
    pub max_batch_inputs: Option<NonZeroUsize>,

    /// Tokens that may wait before requests are refused with 503 and `retry-after`. Without it, twice
    /// `max_request_tokens`.
    #[arg(long, env = "EMBEDGATE_MAX_QUEUE_TOKENS", value_name = "N", hide_short_help = true)]
    pub max_queue_tokens: Option<NonZeroUsize>,

    /// A window smaller than the model's own, in tokens.
    #[arg(long, env = "EMBEDGATE_MAX_INPUT_TOKENS", value_name = "N", hide_short_help = true)]
    pub max_input_tokens: Option<NonZeroUsize>,
}

/// Reads a list of `NAME=ID`.
fn parse_aliases(text: &str) -> Result<List<(String, String)>, String> {
    elements(text).map(parse_alias).collect::<Result<_, _>>().map(List)
}

/// Reads `NAME=ID`. The last `=` separates, for model names may contain one and ids need not.
fn parse_alias(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((name, id)) if !name.is_empty() && !id.is_empty() => Ok((name.to_owned(), id.to_owned())),
        _ => Err("expected NAME=ID, such as text-embedding-3-small=all-MiniLM-L6-v2".to_owned()),
    }
}
