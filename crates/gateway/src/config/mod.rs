//! All settings of the program, resolved: plain data that the rest of the gateway takes as given.
//!
//! A value comes from a flag, else from an `EMBEDGATE_*` variable, else from the settings file, else from the default.
//! [`Config::resolve`] merges the four once and checks that the result can work. To add a setting, declare it in
//! `settings.rs`; flag, variable, key, help, `docs/CONFIG.md` and `config/embedgate.toml` follow from the declaration.

mod api_key;
mod checks;
mod file;
mod hub_access;
mod listen_address;
mod models;
mod origins;
mod problem;
mod process_env;
mod report;
mod resolver;
mod setting;
mod settings;
mod types;
mod unknown;
mod urls;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use api_key::{ApiKey, ApiKeyError};
pub use hub_access::HubAccess;
pub(crate) use models::hub_model;
pub use origins::Origins;
pub use problem::{ConfigError, Problem};
pub use process_env::ProcessEnv;
pub use report::{DisplayValue, Report, ReportEntry, Source};
pub use resolver::CliArgs;
pub use setting::{Setting, Table};
pub use settings::{
    AuthConfig, CacheConfig, CorsConfig, HubConfig, LimitsConfig, LoadingConfig, LogConfig, ModelConfig,
    ServerConfig, TraceConfig, settings,
};
pub use types::{
    Alias, Bytes, DynamicQuantization, KeepAlive, LoadTime, LogFormat, MaxIsa, Offline, PrecisionSetting,
    Ratio, RedisFailureMode, TokenIds, UnsupportedParameters,
};
pub(crate) use unknown::{known_elsewhere, renamed_flag};
pub use urls::{CollectorUrl, RedisUrl};

use api_key::ApiKeyEntries;
use listen_address::ListenAddress;
use resolver::Resolver;
use settings::{ADMIN_KEYS, API_KEYS, CONFIG_FILE, MAX_HTTP_WORKERS, MainConfig, TlsFiles};
use value::Value;

/// Path of the settings file if no other is named, relative to the working directory.
pub const DEFAULT_FILE: &str = "config/embedgate.toml";

/// Id, and folder under `models/`, of the model that is served unless another is named.
pub const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";

/// OpenAI's own model names, which existing programs ask for: aliases of the default model unless the settings say
/// otherwise, so that changing `base_url` is enough.
pub const OPENAI_MODELS: [&str; 3] =
    ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"];

/// Largest settings file: a thousand models take a tenth of it.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The settings of one run of the program. `Debug` shows no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Address of the main listener; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Address of a second listener for metrics and probes.
    pub ops_listen: Option<SocketAddr>,
    /// Certificate of the main listener; without one it speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Web pages of other origins.
    pub cors: CorsConfig,
    /// Connections, timeouts and shutdown.
    pub server: ServerConfig,
    /// Limits of requests and API keys.
    pub limits: LimitsConfig,
    /// Loading and unloading of models.
    pub loading: LoadingConfig,
    /// Caches of vectors.
    pub cache: CacheConfig,
    /// API keys.
    pub auth: AuthConfig,
    /// The log.
    pub log: LogConfig,
    /// Traces.
    pub trace: TraceConfig,
    /// The model hub.
    pub hub: HubConfig,
    /// Access to it.
    pub hub_access: HubAccess,
    /// Shared library of ONNX Runtime, if one was named or found.
    pub onnxruntime_path: Option<PathBuf>,
    /// Id of the model that OpenAI's model names stand for: one of `models`.
    pub default_model: String,
    /// Other names for models: from the name in a request to the model that it stands for.
    pub aliases: BTreeMap<String, Alias>,
    /// The models to serve: at least one, with different ids.
    pub models: Vec<ModelConfig>,
}

/// PEM files, which may change at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate and its intermediate certificates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A configuration and its sources.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The settings.
    pub config: Config,
    /// Each of them with its source.
    pub report: Report,
    /// Messages about what works, but probably not as intended.
    pub warnings: Vec<String>,
}

impl Config {
    /// Merges flags, variables, file and defaults, in this order of precedence.
    ///
    /// # Errors
    /// A file that cannot be read, or settings that cannot work; all of them together.
    pub fn resolve(args: &CliArgs, env: &ProcessEnv) -> Result<Resolved, ConfigError> {
        let (path, text) = read_file(args, env)?;
        resolve(args, env, (&path, &text), None)
    }

    /// Resolves the settings with the model in `folder` as the only one.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_for(folder: &Path, args: &CliArgs, env: &ProcessEnv) -> Result<Self, ConfigError> {
        let mut env = env.clone();
        // They name the models of a server.
        for variable in ["EMBEDGATE_DEFAULT_MODEL", "EMBEDGATE_ALIASES"] {
            env.variables.remove(variable);
        }
        let (path, text) = read_file(args, &env)?;
        Ok(resolve(args, &env, (&path, &text), Some(folder))?.config)
    }

    /// Returns the defaults on a machine where this process may use `cpus` CPUs.
    ///
    /// # Panics
    /// When the defaults contradict each other.
    pub fn builtin(cpus: usize) -> Self {
        // Not the library that happens to be in the working directory.
        Self { onnxruntime_path: None, ..defaults(cpus).config }
    }
}

impl ModelConfig {
    /// Returns the defaults for the model `id` in the folder `path`, where this process may use `cpus` CPUs.
    ///
    /// # Panics
    /// When the defaults contradict each other.
    pub fn builtin(id: String, path: PathBuf, cpus: usize) -> Self {
        let mut models = Config::builtin(cpus).models;
        Self { id, path, ..models.remove(0) }
    }
}

/// Resolves the defaults on a machine of `cpus` CPUs.
///
/// # Panics
/// When the defaults contradict each other.
pub fn defaults(cpus: usize) -> Resolved {
    let resolved = resolve(&CliArgs::default(), &ProcessEnv::empty(cpus), (Path::new(""), ""), None);
    resolved.expect("the defaults can work")
}

/// Resolves all settings, those of the file from its path and text; with `single_model`, this folder holds the only
/// model.
fn resolve(
    args: &CliArgs,
    env: &ProcessEnv,
    file: (&Path, &str),
    single_model: Option<&Path>,
) -> Result<Resolved, ConfigError> {
    let all = settings();
    let mut resolver = Resolver::new(args, env, file, &all);
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());

    let entries = models::entries(&mut resolver, single_model, &mut problems);
    let main = MainConfig::resolve(&mut resolver, entries.first_id());
    let listen = with_host_and_port(&mut resolver, main.listen, &mut problems);
    let listen = socket_address(&mut resolver, "listen", &listen, &mut problems);
    let ops_listen = main.ops_listen.as_ref();
    let ops_listen = ops_listen.map(|ops| socket_address(&mut resolver, "ops_listen", ops, &mut problems));
    let default_model = models::default_model(&mut resolver, &entries, main.default_model, &mut problems);
    let onnxruntime_path = main.onnxruntime_path.or_else(|| {
        let found = env.find_onnxruntime()?;
        if let Some(entry) = resolver.report.entry_mut("onnxruntime_path") {
            (entry.value, entry.source) = (found.to_toml().into(), Source::Found);
        }
        Some(found)
    });
    let mut server = ServerConfig::resolve(&mut resolver);
    server.http_workers = resolver.or_cpu_count("http_workers", server.http_workers, MAX_HTTP_WORKERS);
    let limits = LimitsConfig::resolve(&mut resolver);
    let loading = LoadingConfig::resolve(&mut resolver);
    let cache = CacheConfig::resolve(&mut resolver);
    let keys = api_keys(&mut resolver, &API_KEYS, &mut problems);
    let admin_keys = api_keys(&mut resolver, &ADMIN_KEYS, &mut problems);
    let auth = AuthConfig::resolve(&mut resolver, keys, admin_keys);
    let tls = match TlsFiles::resolve(&mut resolver) {
        TlsFiles { certificate: Some(certificate), key: Some(key) } => Some(TlsConfig { certificate, key }),
        TlsFiles { certificate: None, key: None } => None,
        TlsFiles { key: None, .. } => {
            problems.push("`tls.certificate` is set, but not `tls.key`: TLS needs both".to_owned());
            None
        }
        TlsFiles { .. } => {
            problems.push("`tls.key` is set, but not `tls.certificate`: TLS needs both".to_owned());
            None
        }
    };
    let cors = CorsConfig::resolve(&mut resolver);
    let log = LogConfig::resolve(&mut resolver);
    let trace = TraceConfig::resolve(&mut resolver);
    let mut hub = HubConfig::resolve(&mut resolver);
    hub.cache_dir = hub.cache_dir.or_else(|| {
        let found = env.hub_cache()?;
        if let Some(entry) = resolver.report.entry_mut("cache_dir") {
            (entry.value, entry.source) = (found.to_toml().into(), Source::Found);
        }
        Some(found)
    });
    let hub_access = HubAccess::read(env, &mut warnings);
    let aliases = models::aliases(&mut resolver, &entries, &default_model, &mut problems, &mut warnings);
    let models = models::models(&mut resolver, entries, &limits);

    let report = resolver.finish()?;
    let config = Config {
        listen,
        ops_listen,
        tls,
        cors,
        server,
        limits,
        loading,
        cache,
        auth,
        log,
        trace,
        hub,
        hub_access,
        onnxruntime_path,
        default_model,
        aliases,
        models,
    };
    problems.extend(checks::problems(&config));
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems.into_iter().map(Problem::from).collect()));
    }
    warnings.extend(checks::warnings(&config));
    Ok(Resolved { config, report, warnings })
}

/// Returns `listen` with the host of `--host` and the port of `--port`, whatever its source. The report shows it.
fn with_host_and_port(
    resolver: &mut Resolver<'_>,
    mut listen: ListenAddress,
    problems: &mut Vec<String>,
) -> ListenAddress {
    type Replace = fn(&ListenAddress, &str) -> Result<ListenAddress, String>;
    let args = resolver.args;
    let parts: [(&str, &Option<OsString>, Replace); 2] =
        [("--host", &args.host, ListenAddress::with_host), ("--port", &args.port, ListenAddress::with_port)];
    for (flag, text, replace) in parts {
        let Some(text) = text else { continue };
        match replace(&listen, &text.to_string_lossy()) {
            Ok(replaced) => listen = replaced,
            Err(fault) => problems.push(format!("`{flag}` is {fault}")),
        }
        if let Some(entry) = resolver.report.entry_mut("listen") {
            (entry.value, entry.source) = (listen.to_toml().into(), Source::Flag);
        }
    }
    listen
}

/// Returns the address to listen on. The report shows what a host name stands for.
fn socket_address(
    resolver: &mut Resolver<'_>,
    key: &str,
    listen: &ListenAddress,
    problems: &mut Vec<String>,
) -> SocketAddr {
    match listen.resolve() {
        Ok(address) => {
            if let ListenAddress::Name(..) = listen {
                resolver.report.explain(key, address);
            }
            address
        }
        Err(fault) => {
            problems.push(format!("`{key}`: {fault}"));
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
        }
    }
}

/// Returns the keys of `setting`, [`API_KEYS`] or [`ADMIN_KEYS`].
fn api_keys(
    resolver: &mut Resolver<'_>,
    setting: &'static Setting,
    problems: &mut Vec<String>,
) -> Vec<ApiKey> {
    let given = resolver.lookup(setting);
    let (ApiKeyEntries(entries), source) = given.unwrap_or((ApiKeyEntries(Vec::new()), Source::Default));
    let keys = ApiKey::read_all(&entries).unwrap_or_else(|error| {
        problems.push(match setting.key {
            key if key == API_KEYS.key => error.to_string(),
            key => format!("`auth.{key}`: {error}"),
        });
        Vec::new()
    });
    let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    let shown = match names.len() {
        0 => DisplayValue::Toml("[]".to_owned()),
        count => DisplayValue::Secret(format!("{count} ({})", names.join(", "))),
    };
    resolver.record(setting, shown, source);
    keys
}

/// Returns the ONNX graph that `model import` is to inspect, relative to the model's folder.
pub fn onnx_file(args: &CliArgs, env: &ProcessEnv) -> Option<PathBuf> {
    given_path(settings().into_iter().find(|setting| setting.key == "onnx_file")?, args, env)
}

/// Returns the path of a flag or its variable.
fn given_path(setting: &Setting, args: &CliArgs, env: &ProcessEnv) -> Option<PathBuf> {
    let variable = || env.variables.get(&setting.variable_name()?).map(OsString::as_os_str);
    args.get(setting).or_else(variable).map(PathBuf::from)
}

/// Reads the file that was named, or the one at its usual place, or none. Returns its path and text.
fn read_file(args: &CliArgs, env: &ProcessEnv) -> Result<(PathBuf, String), ConfigError> {
    let named = given_path(&CONFIG_FILE, args, env);
    let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    match read_text(&env.working_directory.join(&path)) {
        Ok(text) => Ok((path, text)),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok((path, String::new())),
        Err(source) => Err(ConfigError::Read { path, source }),
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
