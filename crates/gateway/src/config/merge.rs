//! Merging: one value for each key, its source noted, and the proofs that the whole can work.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use inference::TruncationPolicy;
use tracing_subscriber::EnvFilter;

use super::bounds::{MAX_HTTP_WORKERS, MAX_THREADS};
use super::file::{File, FileModel};
use super::report::{Report, Shown, Source, Table};
use super::resolve::{ConfigError, Problem, Resolved};
use super::settings::{Flags, ModelSettings};
use super::surroundings::{API_KEYS_VARIABLE, ORT_VARIABLE, Surroundings};
use super::value::{IsaCap, List, Value, format_duration, quote};
use super::{
    CacheConfig, Config, LimitsConfig, LogConfig, ModelConfig, SAFE_KEEP_ALIVE, ServerConfig,
    default_queue_tokens, openai_aliases,
};

pub(super) struct Merge<'a> {
    pub(super) flags: &'a Flags,
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) surroundings: &'a Surroundings,
    pub(super) report: Report,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    pub(super) models_in_file: bool,
}

/// A key of the file, and clap's id of its flag.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) table: Table,
    pub(super) name: &'static str,
    pub(super) arg: &'static str,
}

impl Key {
    /// The key with its table, as messages name it.
    pub(super) fn qualified(&self) -> String {
        match self.table {
            Table::Top => self.name.to_owned(),
            Table::Named(table) => format!("{table}.{}", self.name),
            Table::Model(_) => format!("models.{}", self.name),
        }
    }
}

/// Resolves keys that have the same name in the file, as a flag, and in the resolved struct.
macro_rules! pick {
    ($merge:ident, $table:expr, $flags:expr, $file:expr, $builtin:expr, $name:ident) => {{
        let key = Key { table: $table, name: stringify!($name), arg: stringify!($name) };
        $merge.pick(key, $flags.$name, $file.$name, $builtin.$name)
    }};
}

pub(super) use pick;

impl<'a> Merge<'a> {
    pub(super) fn new(flags: &'a Flags, file: File, path: PathBuf, surroundings: &'a Surroundings) -> Self {
        let (report, problems, warnings) = Default::default();
        let models_in_file = file.models.is_some();
        Self { flags, file, path, surroundings, report, problems, warnings, models_in_file }
    }

    pub(super) fn config(mut self) -> Result<Resolved, ConfigError> {
        let builtin = Config::builtin(self.surroundings.processors);
        let (flags, file) = (&self.flags.settings, self.file.settings.clone());
        let entries = self.model_entries(&builtin);
        let ids: Vec<String> = entries.iter().map(|(id, _)| id.clone()).collect();

        self.refuse_unknown_variables();
        let key = |name| Key { table: Table::Top, name, arg: name };
        let listen = self.pick(key("listen"), flags.listen.clone(), file.listen, builtin.listen.into());
        let listen = self.resolved(listen);
        let ops = self.pick_optional(key("ops_listen"), flags.ops_listen.clone(), file.ops_listen);
        let ops_listen = ops.map(|ops| self.resolved(ops));
        let default_model = self.default_model(&ids);
        let onnxruntime_path = self.onnxruntime_path();
        let server = self.server(builtin.server);
        let limits = self.limits(&builtin.limits);
        let cache = self.cache(&builtin.cache);
        let auth = self.auth();
        let tls = self.tls();
        let cors = self.cors();
        let log = self.log(builtin.log);
        let trace = self.trace(&builtin.trace);
        let aliases = self.aliases(&ids, &default_model);
        let models = entries.into_iter().enumerate();
        let models = models.map(|(position, (id, entry))| self.model(position, id, entry, &limits)).collect();

        if !listen.ip().is_loopback() && auth.keys.is_empty() && auth.api_keys_file.is_none() {
            self.warnings.push(format!(
                "listening on {listen} without API keys: whoever reaches this address may use it; \
                 set {API_KEYS_VARIABLE} or `auth.api_keys_file`"
            ));
        }
        if !self.problems.is_empty() {
            return Err(ConfigError::Problems(self.problems));
        }
        let config = Config {
            listen,
            ops_listen,
            tls,
            cors,
            server,
            limits,
            cache,
            auth,
            log,
            trace,
            onnxruntime_path,
            default_model,
            aliases,
            models,
        };
        Ok(Resolved { config, report: self.report, warnings: self.warnings })
    }

    fn server(&mut self, builtin: ServerConfig) -> ServerConfig {
        let (flags, file) = (&self.flags.settings.server, self.file.settings.server.clone());
        let builtin = ServerConfig { http_workers: 0, ..builtin };
        let table = Table::Named("server");
        let http_workers = pick!(self, table, flags, file, builtin, http_workers);
        let server = ServerConfig {
            http_workers: self.or_processors(http_workers, MAX_HTTP_WORKERS),
            keep_alive: pick!(self, table, flags, file, builtin, keep_alive),
            client_header_timeout: pick!(self, table, flags, file, builtin, client_header_timeout),
            send_timeout: pick!(self, table, flags, file, builtin, send_timeout),
            min_send_rate: pick!(self, table, flags, file, builtin, min_send_rate),
            request_timeout: pick!(self, table, flags, file, builtin, request_timeout),
            max_connections: pick!(self, table, flags, file, builtin, max_connections),
            shutdown_delay: pick!(self, table, flags, file, builtin, shutdown_delay),
            drain_timeout: pick!(self, table, flags, file, builtin, drain_timeout),
        };
        if server.request_timeout == Duration::ZERO {
            self.problems.push(Problem::NoTime);
        }
        if server.keep_alive < SAFE_KEEP_ALIVE {
            self.warnings.push(format!(
                "`server.keep_alive` is {}, below {}: a client may reuse a connection in the moment it is closed",
                format_duration(server.keep_alive),
                format_duration(SAFE_KEEP_ALIVE),
            ));
        }
        server
    }

    fn cache(&mut self, builtin: &CacheConfig) -> CacheConfig {
        let (flags, file) = (&self.flags.settings.cache, self.file.settings.cache.clone());
        let table = Table::Named("cache");
        let memory = Key { table, name: "memory", arg: "cache_memory" };
        let url = Key { table, name: "redis_url", arg: "cache_redis_url" };
        let cache = CacheConfig {
            memory: self.pick(memory, flags.memory, file.memory, builtin.memory),
            redis_url: self.pick_optional(url, flags.redis_url.clone(), file.redis_url.clone()),
            redis_timeout: self.pick(
                Key { table, name: "redis_timeout", arg: "cache_redis_timeout" },
                flags.redis_timeout,
                file.redis_timeout,
                builtin.redis_timeout,
            ),
            redis_ttl: self.pick(
                Key { table, name: "redis_ttl", arg: "cache_redis_ttl" },
                flags.redis_ttl,
                file.redis_ttl,
                builtin.redis_ttl,
            ),
        };
        self.problems.extend(cache.redis_url.as_ref().and_then(|url| Problem::of_redis(url, "cache")));
        if cache.redis_timeout.is_zero() || cache.redis_ttl.as_secs() == 0 {
            self.problems.push(Problem::RedisTimes);
        }
        cache
    }

    fn log(&mut self, builtin: LogConfig) -> LogConfig {
        let (flags, file) = (&self.flags.settings.log, self.file.settings.log.clone());
        let table = Table::Named("log");
        let format = Key { table, name: "format", arg: "log_format" };
        let filter = Key { table, name: "filter", arg: "log_filter" };
        let log = LogConfig {
            format: self.pick(format, flags.format, file.format, builtin.format),
            filter: self.pick(filter, flags.filter.clone(), file.filter, builtin.filter),
        };
        if let Err(error) = EnvFilter::try_new(&log.filter) {
            self.problems.push(Problem::LogFilter { filter: log.filter.clone(), reason: error.to_string() });
        }
        log
    }

    fn onnxruntime_path(&mut self) -> Option<PathBuf> {
        let (flags, file) =
            (self.flags.settings.onnxruntime_path.clone(), self.file.settings.onnxruntime_path.take());
        let key = Key { table: Table::Top, name: "onnxruntime_path", arg: "onnxruntime_path" };
        if let Some(library) = self.surroundings.ort_dylib_path.clone().filter(|_| flags.is_none()) {
            self.note_key(key, Shown::Toml(library.to_toml()), Source::Environment(ORT_VARIABLE.to_owned()));
            return Some(library);
        }
        if flags.is_some() || file.is_some() {
            return self.pick_optional(key, flags, file);
        }
        let found = self.surroundings.find_onnxruntime();
        let (shown, source) = match &found {
            Some(library) => (Shown::Toml(library.to_toml()), Source::Found),
            None => (Shown::Unset, Source::Default),
        };
        self.note_key(key, shown, source);
        found
    }

    /// The models, each with its id and what the file says about it.
    fn model_entries(&mut self, builtin: &Config) -> Vec<(String, FileModel)> {
        let bare = |path: PathBuf| FileModel { id: None, path, settings: ModelSettings::default() };
        let entries = match (self.flags.settings.models.clone(), self.file.models.take()) {
            (Some(folders), _) => List::joined(folders).into_iter().map(bare).collect(),
            (None, Some(entries)) => entries,
            (None, None) => builtin.models.iter().map(|model| bare(model.path.clone())).collect(),
        };
        if entries.is_empty() {
            self.problems.push(Problem::NoModel);
        }
        let mut ids = BTreeSet::new();
        let mut named = Vec::with_capacity(entries.len());
        for entry in entries {
            let folder = entry.path.file_name().and_then(|name| name.to_str());
            let Some(id) = entry.id.clone().or(folder.map(str::to_owned)).filter(|id| !id.is_empty()) else {
                self.problems.push(Problem::UnnamedModel { path: entry.path });
                continue;
            };
            if !ids.insert(id.clone()) {
                self.problems.push(Problem::DuplicateModel { id });
                continue;
            }
            named.push((id, entry));
        }
        named
    }

    fn default_model(&mut self, ids: &[String]) -> String {
        let key = Key { table: Table::Top, name: "default_model", arg: "default_model" };
        let flag = self.flags.settings.default_model.clone();
        let mut file = self.file.settings.default_model.take();
        if self.flags.settings.models.is_some() {
            // The models were replaced from outside; what the file says about its own no longer counts.
            file = file.filter(|id| ids.contains(id));
        }
        let chosen = self.pick(key, flag, file, ids.first().cloned().unwrap_or_default());
        if !ids.is_empty() && !ids.contains(&chosen) {
            self.problems.push(Problem::UnknownDefault { id: chosen.clone(), models: ids.join(", ") });
        }
        chosen
    }

    fn aliases(&mut self, ids: &[String], default_model: &str) -> BTreeMap<String, String> {
        let (aliases, source) = match (self.flags.settings.aliases.clone(), self.file.aliases.take()) {
            (Some(aliases), _) => {
                (List::joined(aliases).into_iter().collect(), self.outside_source("aliases"))
            }
            (None, Some(mut aliases)) => {
                if self.flags.settings.models.is_some() {
                    let lost = aliases.extract_if(.., |_, id| !ids.contains(id));
                    self.warnings.extend(lost.map(|(alias, id)| {
                        format!("the alias `{alias}` of the file stands for `{id}`, which is not served now: left out")
                    }));
                }
                (aliases, self.file_source())
            }
            (None, None) => {
                let mut aliases = openai_aliases(default_model);
                aliases.retain(|alias, _| !ids.contains(alias));
                (aliases, Source::Default)
            }
        };
        for (alias, id) in &aliases {
            if ids.contains(alias) {
                self.problems.push(Problem::ShadowingAlias { alias: alias.clone() });
            } else if !ids.is_empty() && !ids.contains(id) {
                let (alias, id) = (alias.clone(), id.clone());
                self.problems.push(Problem::UnknownAlias { alias, id, models: ids.join(", ") });
            }
            let shown = Shown::Toml(quote(id));
            self.note(Table::Named("aliases"), quote(alias), shown, source.clone());
        }
        aliases
    }

    fn model(&mut self, position: usize, id: String, entry: FileModel, limits: &LimitsConfig) -> ModelConfig {
        let table = Table::Model(position);
        let named = if entry.id.is_some() { self.file_source() } else { self.model_source() };
        let placed = self.model_source();
        self.note(table, "id", Shown::Toml(quote(&id)), named);
        self.note(table, "path", Shown::Toml(entry.path.to_toml()), placed);

        let (flags, file) = (&self.flags.settings.model, entry.settings);
        let sizes = flags.matryoshka_dimensions.clone().map(List::joined);
        let builtin = ModelConfig {
            threads: 0,
            max_queue_tokens: default_queue_tokens(limits.max_request_tokens),
            ..ModelConfig::builtin(id, entry.path, self.surroundings.processors)
        };
        let key = |name| Key { table, name, arg: name };
        let provider = pick!(self, table, flags, file, builtin, provider);
        let precision = pick!(self, table, flags, file, builtin, precision);
        let isa = pick!(self, table, flags, file, builtin, isa);
        let onnx_file = self.pick_optional(key("onnx_file"), flags.onnx_file.clone(), file.onnx_file);
        let dynamic_quantization = pick!(self, table, flags, file, builtin, dynamic_quantization);
        let threads = pick!(self, table, flags, file, builtin, threads);
        let threads = self.or_processors(threads, MAX_THREADS);
        let model = ModelConfig {
            provider,
            precision,
            isa,
            onnx_file,
            dynamic_quantization,
            threads,
            onnx_sessions: pick!(self, table, flags, file, builtin, onnx_sessions),
            truncation: pick!(self, table, flags, file, builtin, truncation),
            token_ids: pick!(self, table, flags, file, builtin, token_ids),
            strip_whitespace: pick!(self, table, flags, file, builtin, strip_whitespace),
            matryoshka_dimensions: ascending(&self.pick(
                key("matryoshka_dimensions"),
                sizes,
                file.matryoshka_dimensions.map(List::joined),
                Vec::new(),
            )),
            max_batch_tokens: self
                .pick_optional(key("max_batch_tokens"), flags.max_batch_tokens, file.max_batch_tokens)
                .map(NonZeroUsize::get),
            max_batch_inputs: pick!(self, table, flags, file, builtin, max_batch_inputs),
            max_queue_tokens: pick!(self, table, flags, file, builtin, max_queue_tokens),
            max_input_tokens: self
                .pick_optional(key("max_input_tokens"), flags.max_input_tokens, file.max_input_tokens)
                .map(NonZeroUsize::get),
            id: builtin.id,
            path: builtin.path,
        };
        self.prove(&model, limits);
        model
    }

    /// What can be proved about a model before its folder is read.
    fn prove(&mut self, model: &ModelConfig, limits: &LimitsConfig) {
        if let IsaCap::At(isa) = model.isa
            && !isa.is_of_this_architecture()
        {
            self.problems.push(Problem::ForeignIsa { model: model.id.clone(), isa });
        }
        let stays_inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        if let Some(path) = model.onnx_file.as_deref().filter(|path| !stays_inside(path)) {
            self.problems.push(Problem::OnnxFile { model: model.id.clone(), path: path.to_owned() });
        }
        // Averaging reads every window of a text, so only where texts are cut does the window bound a request.
        let cut = model.max_input_tokens.filter(|_| model.truncation != TruncationPolicy::Average);
        let most = cut.map_or(usize::MAX, |window| window.saturating_mul(limits.max_inputs));
        let needed = limits.max_request_tokens.min(most);
        let max_queue_tokens = model.max_queue_tokens;
        if max_queue_tokens < needed {
            self.problems.push(Problem::SmallQueue { model: model.id.clone(), max_queue_tokens, needed });
        }
    }
}

/// Sizes in ascending order, each once.
fn ascending(sizes: &[NonZeroUsize]) -> Vec<usize> {
    let sizes: BTreeSet<usize> = sizes.iter().map(|size| size.get()).collect();
    sizes.into_iter().collect()
}
