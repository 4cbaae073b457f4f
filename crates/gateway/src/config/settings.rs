//! The declarations of all settings.
//!
//! One declaration is a key of the settings file, a flag, a variable, a field of a struct, a row of `docs/CONFIG.md`
//! and a paragraph of `config/embedgate.toml`. It reads
//!
//! ```text
//! /// Help text, in sentences. `{values}` stands for the values that the type allows.
//! key: Type = default, option, option(argument);
//! ```
//!
//! The options are the methods of [`Setting`]: `min` and `max` are bounds, `advanced` leaves the flag out of the short
//! help, `flag` names flag and variable otherwise than the key, `example` is the value that the shipped file shows
//! where there is no default.

use std::path::PathBuf;
use std::time::Duration;

use inference::{Provider, TruncationPolicy};

use super::api_key::{ApiKey, ApiKeyEntries};
use super::listen_address::ListenAddress;
use super::origins::Origins;
use super::process_env::{HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE, ORT_VARIABLE, OTLP_VARIABLE};
use super::resolver::Resolver;
use super::setting::{Section, Setting, Table, settings};
use super::types::{
    Aliases, Bytes, DynamicQuantization, KeepAlive, LoadTime, LogFormat, MaxIsa, Offline, PathPrefix,
    PrecisionSetting, Ratio, RedisFailureMode, TokenIds, UnsupportedParameters,
};
use super::urls::{CollectorUrl, RedisUrl};

const MAIN: Section = Section::new(Table::Top, "Main settings");
const SERVER: Section = Section::table("server", "Server");
const LIMITS: Section = Section::table("limits", "Limits");
const LOADING: Section = Section::table("loading", "Loading of models").prefix("loading_");
const CACHE: Section = Section::table("cache", "Cache").prefix("cache_");
const AUTH: Section = Section::table("auth", "Authentication");
const TLS: Section = Section::table("tls", "TLS").prefix("tls_");
const CORS: Section = Section::table("cors", "CORS").prefix("cors_");
const LOG: Section = Section::table("log", "Log").prefix("log_");
const TRACE: Section = Section::table("trace", "Traces").prefix("trace_");
const HUB: Section = Section::table("hub", "Model hub").prefix("hub_");
const MODELS: Section = Section::new(Table::Model(0), "Models (for all that are served)");

/// Largest number of HTTP threads: the listener of actix keeps one bit for each, in four words of 128 bits.
pub(super) const MAX_HTTP_WORKERS: usize = 512;

/// Largest number of threads of one model: more than any CPU has today, and few enough to be started.
pub(super) const MAX_THREADS: usize = 1024;

/// Largest number of tokens of one batch: its activations alone take gigabytes.
const MAX_BATCH_TOKENS: u64 = 1 << 20;

/// Address of the public hub.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Returns all settings, in the order of the settings file.
pub fn settings() -> Vec<&'static Setting> {
    let model = [&MODEL_ID, &MODEL_PATH].into_iter().chain(ModelConfig::SETTINGS);
    let tables = [
        MainConfig::SETTINGS,
        ServerConfig::SETTINGS,
        LimitsConfig::SETTINGS,
        LoadingConfig::SETTINGS,
        CacheConfig::SETTINGS,
        std::slice::from_ref(&API_KEYS),
        std::slice::from_ref(&ADMIN_KEYS),
        AuthConfig::SETTINGS,
        TlsFiles::SETTINGS,
        CorsConfig::SETTINGS,
        LogConfig::SETTINGS,
        TraceConfig::SETTINGS,
        HubConfig::SETTINGS,
    ];
    [&CONFIG_FILE].into_iter().chain(tables.into_iter().flatten()).chain([&ALIASES]).chain(model).collect()
}

/// The settings file itself.
pub(super) static CONFIG_FILE: Setting = Setting::new::<PathBuf>(
    MAIN,
    "",
    "Settings file (TOML). Without this flag `config/embedgate.toml` is read, if it exists.",
)
.flag("config");

/// The aliases, which are a table in the file.
pub(super) static ALIASES: Setting = Setting::new::<Aliases>(
    MAIN,
    "aliases",
    "Another name for a model, which may choose one of its prompts; may be repeated (variable: separated by commas). \
     Replaces the aliases of the file, which by default are OpenAI's names for the default model.",
)
.flag("alias")
.variable("EMBEDGATE_ALIASES");

/// API keys, which have no flag: other users can read a command line.
pub(super) static API_KEYS: Setting = Setting::new::<ApiKeyEntries>(
    AUTH,
    "api_keys",
    "API keys that are accepted, each `name=key` or `key`; only their SHA-256 is kept. Without keys here and in \
     `api_keys_file`, requests need none. Better kept out of the settings file, in the variable.",
)
.no_flag()
.variable("EMBEDGATE_API_KEYS")
.secret();

/// Keys of the admin routes, which have no flag either.
pub(super) static ADMIN_KEYS: Setting = Setting::new::<ApiKeyEntries>(
    AUTH,
    "admin_keys",
    "Keys for the admin routes, which load and unload models (`/admin/models`) and report the usage of API keys, in \
     the form of `api_keys`; none of them may be an API key. Without any, there are no admin routes.",
)
.no_flag()
.variable("EMBEDGATE_ADMIN_KEYS")
.secret();

/// The id of a model.
pub(super) static MODEL_ID: Setting = Setting::new::<String>(
    MODELS,
    "id",
    "Name of the model in requests. Without it, the name of the folder.",
)
.no_flag();

/// The folder of a model.
pub(super) static MODEL_PATH: Setting = Setting::new::<Vec<String>>(
    Section::new(Table::Model(0), "Main settings"),
    "path",
    "Model to serve; may be repeated (variable: separated by commas): a folder, served under its name, or `ORG/NAME` \
     or `ORG/NAME@REVISION` of a model hub, which `embedgate model pull` or `--pull` downloads. Flag and variable \
     replace all models of the file.",
)
.flag("model")
.variable("EMBEDGATE_MODELS")
.placeholder("MODEL");

settings! {
    /// Settings at the top of the file.
    pub(super) struct MainConfig in MAIN, context(first_model: String) {
        /// Address and port to listen on, such as `127.0.0.1:8080` or `localhost:8080`; `:8080` is every interface,
        /// `8080` this machine alone; port 0 lets the system choose. Set API keys before listening on anything but the
        /// loopback interface.
        listen: ListenAddress = ListenAddress::LOCAL_8080;

        /// Another address for `/metrics` and the three probes, in plain HTTP and without keys. They then answer there
        /// and no longer on the main one.
        ops_listen: Option<ListenAddress> = None, example("\"127.0.0.1:9090\"");

        /// Id of the model that OpenAI's model names stand for. Without it, the first model.
        default_model: String = first_model, placeholder("ID");

        /// Lets `dimensions` of 1536 (`text-embedding-3-small`, `text-embedding-ada-002`) and 3072
        /// (`text-embedding-3-large`), which many clients send unasked, mean all that the model has. The vectors then
        /// have the model's length, and the header `x-embedgate-ignored` names `dimensions`. Applies to aliases with
        /// these names; for others, an alias may have `native_dimensions` of its own (docs/adr/0027).
        native_dimensions: bool = false;

        /// Shared library of ONNX Runtime. Without it (and without `ORT_DYLIB_PATH`) embedgate searches `../lib` and
        /// the folder of the program, then `.runtime/onnxruntime`.
        onnxruntime_path: Option<PathBuf> = None, shared_variable(ORT_VARIABLE),
            example("\"/opt/onnxruntime/lib/libonnxruntime.so\"");
    }
}

settings! {
    /// Connections, timeouts and shutdown.
    pub struct ServerConfig in SERVER {
        /// Path under which all routes are served, also probes and metrics, such as `/embeddings`, for a proxy that
        /// passes it on.
        path_prefix: PathPrefix = PathPrefix::default(), advanced;

        /// Serves pages for browsers: at `/`, try the models, copy requests, see what is served and the load; at
        /// `/docs`, the description of the API, which `/openapi.yaml` and `/openapi.json` are for tools. Without it,
        /// all are a 404.
        home_page: bool = true, advanced;

        /// Compresses answers with numbers in text (zstd or gzip) for clients that accept it: about 40 % of the bytes,
        /// for computing time of 5 to 15 ms for each MB. Answers in base64 are never compressed.
        compress_responses: bool = false, advanced;

        /// HTTP threads; 0 for one per CPU.
        http_workers: usize = 0, max(MAX_HTTP_WORKERS as u64), advanced;

        /// Time for which an idle connection is kept open. Below 75s, clients see connections reset.
        keep_alive: Duration = Duration::from_secs(90), advanced;

        /// Time limit for a TLS handshake, and for the header of a request; 0 for no limit.
        client_header_timeout: Duration = Duration::from_secs(10), advanced;

        /// Time limit for a client that reads nothing of its response; 0 for no limit.
        send_timeout: Duration = Duration::from_secs(30), advanced;

        /// Bytes of its response that a client has to read per second, on average over `send_timeout`; 0 if any
        /// progress is enough.
        min_send_rate: Bytes = Bytes(16 * 1024), advanced;

        /// Deadline of a request, from its last byte read to its response. A request that cannot meet it is rejected
        /// with `retry-after`.
        request_timeout: Duration = Duration::from_secs(120), min(1), advanced;

        /// Connections open at a time.
        max_connections: usize = 10_000, min(1), max(1_000_000), advanced;

        /// Time after SIGTERM for which `/readyz` fails while requests are still accepted, so that load balancers stop
        /// sending traffic first.
        shutdown_delay: Duration = Duration::ZERO, advanced;

        /// Time after `shutdown_delay` for which requests in flight may finish.
        drain_timeout: Duration = Duration::from_secs(30), advanced;
    }
}

settings! {
    /// Limits of one request, of all requests in memory, and of each API key.
    pub struct LimitsConfig in LIMITS {
        /// Inputs of one request; OpenAI allows 2048.
        max_inputs: usize = 2048, min(1), max(openai_schema::MAX_INPUTS as u64), advanced;

        /// Tokens of one request, over all its inputs; OpenAI allows 300000.
        max_request_tokens: usize = 300_000, min(1), max(openai_schema::MAX_TOKENS as u64), advanced;

        /// Bytes of the body of one request.
        max_body_bytes: usize = 32 * 1024 * 1024, min(1), max(1 << 30), advanced;

        /// Memory for the bodies of all requests, beyond 16KiB of each. A request that finds no room is rejected (503).
        max_buffered_body_bytes: Bytes = Bytes(256 * 1024 * 1024), advanced;

        /// Parameters of other vendors (docs/PARAMETERS.md) that would change the vectors and cannot be honored:
        /// `reject` answers 400, `ignore` answers without them and names them in the header `x-embedgate-ignored`.
        unsupported_parameters: UnsupportedParameters = UnsupportedParameters::Reject, advanced;

        /// Memory for the responses of all requests, at least 1MiB: four bytes for each number of a response above
        /// 32KiB, from its admission until its client has read it. A request that finds no room is rejected (503); one
        /// that needs more than all of it is admitted when no other large one is.
        max_buffered_response_bytes: Bytes = Bytes(256 * 1024 * 1024), min(1 << 20), advanced;

        /// Requests per minute of each API key, or, without keys, of all clients together; 0 for no limit.
        key_requests_per_minute: usize = 0;

        /// Tokens per minute of each API key, or, without keys, of all clients together; 0 for no limit.
        key_tokens_per_minute: usize = 0;

        /// Redis or Valkey server that keeps the rate limits of several servers, such as `redis://host:6379/0`. Without
        /// it, each server counts by itself. Better given in the variable than in the flag, if it holds a password.
        redis_url: Option<RedisUrl> = None, flag("limits_redis_url"), secret, advanced,
            example("\"redis://127.0.0.1:6379/1\"");

        // On one network an answer takes well below a millisecond.
        /// Time for which a request may wait for that server.
        redis_timeout: Duration = Duration::from_millis(10), flag("limits_redis_timeout"), min(1), advanced;

        /// Rate limits while that server is unavailable: with `fail-open` each server applies them by itself, with
        /// `fail-closed` requests are rejected (503).
        redis_failure_mode: RedisFailureMode = RedisFailureMode::FailOpen, flag("limits_redis_failure_mode"), advanced;
    }
}

settings! {
    /// Loading and unloading of models while requests are served.
    pub struct LoadingConfig in LOADING {
        /// Memory of all loaded models together, such as `8GiB`: to make room for a model, idle ones with
        /// `load = "on-demand"` are unloaded, the least recently used first. A model counts with the size of its files
        /// (docs/models.md). Without it, there is no limit.
        memory_budget: Option<Bytes> = None, min(1 << 20), example("\"8GiB\"");

        /// Time for which a request may wait for its model to be loaded; it is then rejected (503), while the load
        /// continues.
        timeout: Duration = Duration::from_secs(60), min(1), advanced;

        /// Requests that may wait for a model to be loaded, for each model; a further one is rejected (503).
        max_waiting_requests: usize = 256, min(1), max(1_000_000), advanced;
    }
}

settings! {
    /// Caches of vectors.
    pub struct CacheConfig in CACHE {
        // Some 18,000 short texts with vectors of 384 values. It is filled by use single_model, and a third of the
        // weights of the default model.
        /// Memory of the local cache of each model, such as `256MiB`; 0 for no cache.
        memory: Bytes = Bytes(32 * 1024 * 1024);

        /// Redis or Valkey server that caches the vectors of several servers (remote cache), such as
        /// `redis://host:6379/0`. A server that is slow or unavailable costs a few milliseconds and never an error.
        /// Better given in the variable than in the flag, if it holds a password.
        redis_url: Option<RedisUrl> = None, secret, example("\"redis://127.0.0.1:6379/0\"");

        // On one network an answer takes well below a millisecond; a text takes several to compute.
        /// Time for which a request may wait for that server, for each 64 texts.
        redis_timeout: Duration = Duration::from_millis(5), min(1), advanced;

        /// Time for which that server keeps a vector.
        redis_ttl: Duration = Duration::from_secs(7 * 24 * 60 * 60), min(1000), advanced;
    }
}

settings! {
    /// API keys.
    pub struct AuthConfig in AUTH, given(
        /// API keys that are accepted; without any here and without a file, requests need none.
        keys: Vec<ApiKey>,
        /// Keys of the admin routes; without any, there are no admin routes.
        admin_keys: Vec<ApiKey>
    ) {
        /// File of API keys, one `name=key` or `key` a line, `#` before comments; reloaded when it changes. They are
        /// accepted in addition to `api_keys`.
        api_keys_file: Option<PathBuf> = None, flag("api_keys_file"), example("\"/run/secrets/embedgate-keys\"");
    }
}

settings! {
    /// PEM files of the main listener.
    pub(super) struct TlsFiles in TLS {
        /// PEM file of the certificate, followed by its intermediate certificates; reloaded when it changes. With this
        /// and the key the main address speaks HTTPS.
        certificate: Option<PathBuf> = None, example("\"/run/tls/tls.crt\"");

        /// PEM file of the certificate's private key; reloaded when it changes.
        key: Option<PathBuf> = None, example("\"/run/tls/tls.key\"");
    }
}

settings! {
    /// Access from web pages of other origins.
    pub struct CorsConfig in CORS {
        /// Origins of web pages that may read responses, each as browsers send it, such as `https://app.example`; `*`
        /// for all.
        origins: Origins = Origins::default();
    }
}

settings! {
    /// The log.
    pub struct LogConfig in LOG {
        /// `text` for people, `json` for machines.
        format: LogFormat = LogFormat::Text;

        // The HTTP library reports each of its threads.
        /// Level of the log: `error`, `warn`, `info`, `debug` or `trace`, or levels by module, such as
        /// `info,gateway=debug`.
        filter: String = "info,actix_server=warn".to_owned(), placeholder("FILTER");
    }
}

settings! {
    /// Traces.
    pub struct TraceConfig in TRACE {
        /// Collector that takes OTLP over plain HTTP, such as `http://127.0.0.1:4318`. Without it nothing is traced. A
        /// collector that is slow or unavailable costs requests nothing.
        otlp_endpoint: Option<CollectorUrl> = None, flag("otlp_endpoint"), shared_variable(OTLP_VARIABLE), secret,
            advanced, example("\"http://127.0.0.1:4318\"");

        /// Share of the requests that are traced, of those whose caller has not decided it by a `traceparent` header.
        sample_ratio: Ratio = Ratio::ALL, advanced;
    }
}

settings! {
    /// The hub from which models are downloaded by name, and the cache of Hugging Face's libraries.
    pub struct HubConfig in HUB {
        /// Downloads models `ORG/NAME` that are not in the cache when the server starts. Without it, the server sends
        /// no request to a hub, and such a model is an error.
        pull: bool = false, flag("pull");

        /// Address of the hub, or of a mirror. The variable `HF_ENDPOINT` is read, too.
        endpoint: String = DEFAULT_ENDPOINT.to_owned(), shared_variable(HF_ENDPOINT), advanced, placeholder("URL");

        /// Cache folder of Hugging Face's libraries, in which their models are found, too. Without it, `HF_HUB_CACHE`,
        /// else `HF_HOME/hub`, else `huggingface/hub` in `XDG_CACHE_HOME` or `~/.cache`.
        cache_dir: Option<PathBuf> = None, shared_variable(HF_HUB_CACHE), advanced,
            example("\"/var/cache/huggingface/hub\"");

        /// Sends no request to a hub, even if a model is missing. The variable `HF_HUB_OFFLINE` is read, too.
        offline: Offline = Offline(false), shared_variable(HF_HUB_OFFLINE), advanced;
    }
}

settings! {
    /// One model to serve.
    pub struct ModelConfig in MODELS, given(
        /// Name of the model in requests.
        id: String,
        /// Folder of the model.
        path: PathBuf
    ), context(limits: &LimitsConfig) {
        /// Device that runs the model: `cpu`, `cuda`, `cuda:1` for the second GPU, or `openvino` for ONNX Runtime's
        /// build with it. One that is not available is an error at start-up.
        provider: Provider = Provider::Cpu;

        /// Number format to compute in: `auto` is bf16 if the CPU has fast instructions for it and the model's results
        /// are nearly those in fp32, which is measured at start-up, otherwise fp32. `bf16` is bf16, or an error at
        /// start-up. `int8` is faster and less accurate: integers of 8 bits, or an error at start-up.
        precision: PrecisionSetting = PrecisionSetting::Auto;

        /// Smallest cosine between vectors in int8 and in fp32, over built-in texts, with which `precision = "int8"`
        /// is used. A model below it does not start.
        int8_min_cosine: Ratio = Ratio::INT8_MIN_COSINE, advanced;

        /// Smallest cosine to the vectors in fp32, over built-in texts, with which `precision = "auto"` accepts a
        /// faster precision. Only with this setting it also tries int8. Without it, 0.9999, and bf16 alone is tried.
        auto_min_cosine: Option<Ratio> = None, advanced, example("0.99");

        /// Of a reranker, instead of `int8_min_cosine`: largest difference between a score in int8 and in fp32, over
        /// built-in pairs, as a part of the range of the scores in fp32, with which `precision = "int8"` is used.
        int8_max_score_difference: Ratio = Ratio::INT8_MAX_SCORE_DIFFERENCE, advanced;

        /// Of a reranker, instead of `auto_min_cosine`: largest difference of a score to the one in fp32, as a part of
        /// the range of the scores, with which `precision = "auto"` accepts a faster precision. Only with this setting
        /// it also tries int8. Without it, 0.01, and bf16 alone is tried.
        auto_max_score_difference: Option<Ratio> = None, advanced, example("0.05");

        /// Highest instruction set that embedgate's native kernels may use: {values}. `auto` is the best one of the
        /// CPU; one of another architecture is an error. With `none` ONNX Runtime computes every model, as it does
        /// where there is no native kernel.
        isa: MaxIsa = MaxIsa::Best, advanced;

        /// ONNX graph to compute the model with, relative to its folder, such as `onnx/model_quantized.onnx`. Without
        /// it, the folder's weights are used if embedgate knows their architecture, else `model.onnx` or
        /// `onnx/model.onnx`.
        onnx_file: Option<PathBuf> = None, advanced, example("\"onnx/model.onnx\"");

        /// ONNX graphs that quantize activations with one scale for a whole batch (`DynamicQuantizeLinear` and its
        /// like): `per-text` runs them one text at a time, so that a text's vector does not depend on its batch,
        /// `reject` is an error at start-up.
        dynamic_quantization: DynamicQuantization = DynamicQuantization::PerText, advanced;

        /// Time of loading: with `startup` before the server is ready, after which the model stays loaded; with
        /// `on-demand` at the first request for the model, which waits for it.
        load: LoadTime = LoadTime::Startup;

        /// Time after its last request for which a model with `load = "on-demand"` stays loaded; `0` unloads it at
        /// once, `forever` only to make room for another model.
        keep_alive: KeepAlive = KeepAlive::Forever, flag("model_keep_alive");

        /// CPUs that the model may use; 0 for all that this process may use.
        threads: usize = 0, max(MAX_THREADS as u64);

        // Each holds a copy of the weights.
        /// Sessions of ONNX Runtime, each with its own copy of the weights and with `threads` threads. The native
        /// kernels share one copy.
        onnx_sessions: usize = 1, min(1), max(256), advanced;

        /// Texts longer than the maximum of input tokens: `truncate` embeds their beginning and says so in a header,
        /// `average` embeds them piece by piece and averages the vectors, `error` answers 400.
        truncation: TruncationPolicy = TruncationPolicy::Truncate, advanced;

        /// Meaning of token ids in a request: `cl100k_base` and `o200k_base` are OpenAI's vocabularies (LangChain sends
        /// the first), `native` is the model's own, `reject` answers 400.
        token_ids: TokenIds = TokenIds::Cl100kBase, advanced;

        /// Name of the model's prompt that is put before every text of a request that names none; `""` for no prompt.
        /// Without it, the model's `default_prompt_name`, if it has one (docs/models.md).
        default_prompt: Option<String> = None, advanced, placeholder("NAME"), example("\"query\"");

        /// `true` removes white space from both ends of every text, as sentence-transformers did before release 5.4:
        /// for an index that was built so. Only tokenizers that keep white space, byte-level BPE and sentencepiece,
        /// give other vectors.
        strip_whitespace: bool = false, advanced;

        /// Sizes to which the parameter `dimensions` may truncate vectors; only for a model trained for it (Matryoshka
        /// representation learning).
        matryoshka_dimensions: Vec<usize> = Vec::new(), min(1), max(1 << 16), advanced, placeholder("SIZE");

        /// Tokens of one batch, padding included; a longer text runs alone. Another request waits for at most one batch
        /// of each request ahead, so that a larger batch trades its latency for a little throughput. Without it, 48 for
        /// the native kernels in fp32, up to 256 for those in bf16 and int8, and 1024 for ONNX Runtime.
        max_batch_tokens: Option<usize> = None, min(1), max(MAX_BATCH_TOKENS), advanced, example("1024");

        /// Inputs of one batch.
        max_batch_inputs: usize = 256, min(1), max(openai_schema::MAX_INPUTS as u64), advanced;

        // Room for two of the largest requests, so that one of them does not keep all other requests out.
        /// Tokens in the queue above which requests are rejected with 503 and `retry-after`. Without it, twice
        /// `max_request_tokens`.
        max_queue_tokens: usize = limits.max_request_tokens.saturating_mul(2), min(1), advanced;

        /// Maximum length of an input in tokens, if it is to be smaller than the model's own.
        max_input_tokens: Option<usize> = None, min(1), max(MAX_BATCH_TOKENS), advanced, example("256");
    }
}
