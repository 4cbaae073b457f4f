//! The settings file: TOML in, [`Settings`] out, with every mistake named by file, line and key.
//!
//! The tables are taken apart by hand rather than by a derive, so that all mistakes are reported at once, a
//! misspelt key is answered with the nearest known one, and no message quotes a secret.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::renamed::renamed_key;
use super::settings::{
    AuthSettings, CacheSettings, CorsSettings, LimitsSettings, LogSettings, ModelSettings, ServerSettings,
    Settings, TlsSettings, TraceSettings,
};
use super::value::{List, Value};

/// One mistake in the settings file.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{}:{line}: {problem}", file.display())]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: FileProblem,
}

/// What can be wrong at one place of the settings file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FileProblem {
    /// It is not TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// No such key.
    #[error("unknown key `{key}`{}", nearest.as_ref().map(|known| format!("; did you mean `{known}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key with its table.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A key that has another name now.
    #[error("`{key}` is now called `{new_name}`")]
    RenamedKey {
        /// The key with its table.
        key: String,
        /// Its present name.
        new_name: &'static str,
    },
    /// A value of the wrong type, or one that cannot be understood.
    #[error("`{key}` is {found}; expected {expected}")]
    WrongValue {
        /// The key with its table.
        key: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// A key that must be there is not.
    #[error("`{key}` is missing")]
    MissingKey {
        /// The key with its table.
        key: String,
    },
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Everything that a flag could say as well.
    pub(super) settings: Settings,
    /// `[auth] api_keys`.
    pub(super) api_keys: Option<Vec<String>>,
    /// `[aliases]`.
    pub(super) aliases: Option<BTreeMap<String, String>>,
    /// `[[models]]`.
    pub(super) models: Option<Vec<FileModel>>,
}

/// One `[[models]]` of the file.
#[derive(Debug)]
pub(super) struct FileModel {
    pub(super) id: Option<String>,
    pub(super) path: PathBuf,
    pub(super) settings: ModelSettings,
}

/// Reads the text of the settings file `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<File, Vec<FileError>> {
    let mut reader = Reader { path, text, errors: Vec::new(), known: Vec::new(), unknown: Vec::new() };
    let file = match DeTable::parse(text) {
        Ok(document) => reader.file(Table { name: String::new(), entries: document.into_inner() }),
        Err(error) => {
            let at = error.span().unwrap_or(0..0);
            reader.error(at, FileProblem::Syntax(error.message().to_owned()));
            File::default()
        }
    };
    reader.report_unknown();
    reader.errors.sort_by_key(|error| error.line);
    if reader.errors.is_empty() { Ok(file) } else { Err(reader.errors) }
}

/// A table that is being emptied key by key; what is left is unknown.
struct Table<'text> {
    /// With the dots of its parents; empty for the top.
    name: String,
    entries: DeTable<'text>,
}

struct Reader<'text> {
    path: &'text Path,
    text: &'text str,
    errors: Vec<FileError>,
    /// Every key that was asked for, with its table.
    known: Vec<String>,
    /// Keys that nobody asked for, with their tables and places.
    unknown: Vec<(String, Range<usize>)>,
}

impl<'text> Reader<'text> {
    fn file(&mut self, mut top: Table<'text>) -> File {
        let (api_keys, auth) = self.auth(&mut top);
        let file = File {
            settings: Settings {
                config: None,
                listen: self.take(&mut top, "listen"),
                ops_listen: self.take(&mut top, "ops_listen"),
                models: None,
                default_model: self.take(&mut top, "default_model"),
                aliases: None,
                onnxruntime_path: self.take(&mut top, "onnxruntime_path"),
                server: self.server(&mut top),
                limits: self.limits(&mut top),
                auth,
                tls: self.tls(&mut top),
                cors: self.cors(&mut top),
                cache: self.cache(&mut top),
                log: self.log(&mut top),
                trace: self.trace(&mut top),
                model: ModelSettings::default(),
            },
            api_keys,
            aliases: self.aliases(&mut top),
            models: self.models(&mut top),
        };
        self.finish(top);
        file
    }

    fn server(&mut self, top: &mut Table<'text>) -> ServerSettings {
        let mut table = self.table(top, "server");
        let settings = ServerSettings {
            http_workers: self.take(&mut table, "http_workers"),
            keep_alive: self.take(&mut table, "keep_alive"),
            client_header_timeout: self.take(&mut table, "client_header_timeout"),
            send_timeout: self.take(&mut table, "send_timeout"),
            min_send_rate: self.take(&mut table, "min_send_rate"),
            request_timeout: self.take(&mut table, "request_timeout"),
            max_connections: self.take(&mut table, "max_connections"),
            shutdown_delay: self.take(&mut table, "shutdown_delay"),
            drain_timeout: self.take(&mut table, "drain_timeout"),
        };
        self.finish(table);
        settings
    }

    fn limits(&mut self, top: &mut Table<'text>) -> LimitsSettings {
        let mut table = self.table(top, "limits");
        let settings = LimitsSettings {
            max_inputs: self.take(&mut table, "max_inputs"),
            max_request_tokens: self.take(&mut table, "max_request_tokens"),
            max_body_bytes: self.take(&mut table, "max_body_bytes"),
            max_buffered_body_bytes: self.take(&mut table, "max_buffered_body_bytes"),
            unsupported_parameters: self.take(&mut table, "unsupported_parameters"),
            max_buffered_response_bytes: self.take(&mut table, "max_buffered_response_bytes"),
            key_requests_per_minute: self.take(&mut table, "key_requests_per_minute"),
            key_tokens_per_minute: self.take(&mut table, "key_tokens_per_minute"),
            redis_url: self.take(&mut table, "redis_url"),
            redis_timeout: self.take(&mut table, "redis_timeout"),
            redis_failure_mode: self.take(&mut table, "redis_failure_mode"),
        };
        self.finish(table);
        settings
    }

    fn tls(&mut self, top: &mut Table<'text>) -> TlsSettings {
        let mut table = self.table(top, "tls");
        let settings = TlsSettings {
            certificate: self.take(&mut table, "certificate"),
            key: self.take(&mut table, "key"),
        };
        self.finish(table);
        settings
    }

    fn cors(&mut self, top: &mut Table<'text>) -> CorsSettings {
        let mut table = self.table(top, "cors");
        let settings =
            CorsSettings { origins: self.take(&mut table, "origins").map(|origins| vec![origins]) };
        self.finish(table);
        settings
    }

    fn cache(&mut self, top: &mut Table<'text>) -> CacheSettings {
        let mut table = self.table(top, "cache");
        let settings = CacheSettings {
            memory: self.take(&mut table, "memory"),
            redis_url: self.take(&mut table, "redis_url"),
            redis_timeout: self.take(&mut table, "redis_timeout"),
            redis_ttl: self.take(&mut table, "redis_ttl"),
        };
        self.finish(table);
        settings
    }

    fn log(&mut self, top: &mut Table<'text>) -> LogSettings {
        let mut table = self.table(top, "log");
        let settings =
            LogSettings { format: self.take(&mut table, "format"), filter: self.take(&mut table, "filter") };
        self.finish(table);
        settings
    }

    fn trace(&mut self, top: &mut Table<'text>) -> TraceSettings {
        let mut table = self.table(top, "trace");
        let settings = TraceSettings {
            otlp_endpoint: self.take(&mut table, "otlp_endpoint"),
            sample_ratio: self.take(&mut table, "sample_ratio"),
        };
        self.finish(table);
        settings
    }

    fn auth(&mut self, top: &mut Table<'text>) -> (Option<Vec<String>>, AuthSettings) {
        let mut table = self.table(top, "auth");
        let keys = self.take(&mut table, "api_keys");
        let settings = AuthSettings { api_keys_file: self.take(&mut table, "api_keys_file") };
        self.finish(table);
        (keys, settings)
    }

    /// `[aliases]`: here the keys are names of the user's own.
    fn aliases(&mut self, top: &mut Table<'text>) -> Option<BTreeMap<String, String>> {
        if !top.entries.contains_key("aliases") {
            self.known.push("aliases".to_owned());
            return None;
        }
        let table = self.table(top, "aliases");
        let mut aliases = BTreeMap::new();
        for (name, value) in table.entries {
            let key = qualified("aliases", name.get_ref());
            if let Some(id) = self.read::<String>(&key, &value) {
                aliases.insert(name.into_inner().into_owned(), id);
            }
        }
        Some(aliases)
    }

    fn models(&mut self, top: &mut Table<'text>) -> Option<Vec<FileModel>> {
        self.known.push("models".to_owned());
        let Some(models) = top.entries.remove("models") else {
            // Asked for in vain, so that suggestions know the keys of a model in any file.
            self.model_settings(&mut Table { name: "models".to_owned(), entries: DeTable::new() });
            return None;
        };
        let place = models.span();
        let DeValue::Array(models) = models.into_inner() else {
            self.wrong("models", "no list of tables", "a heading `[[models]]` for each model", place);
            return None;
        };
        let models = models.into_iter().filter_map(|model| self.model(model)).collect();
        Some(models)
    }

    fn model(&mut self, model: Spanned<DeValue<'text>>) -> Option<FileModel> {
        let place = model.span();
        let DeValue::Table(entries) = model.into_inner() else {
            self.wrong("models", "no list of tables", "a heading `[[models]]` for each model", place);
            return None;
        };
        let mut table = Table { name: "models".to_owned(), entries };
        let errors = self.errors.len();
        let id = self.take(&mut table, "id");
        let path = self.take(&mut table, "path");
        let settings = self.model_settings(&mut table);
        if path.is_none() && self.errors.len() == errors {
            self.error(place, FileProblem::MissingKey { key: "models.path".to_owned() });
        }
        self.finish(table);
        Some(FileModel { id, path: path?, settings })
    }

    fn model_settings(&mut self, table: &mut Table<'text>) -> ModelSettings {
        ModelSettings {
            provider: self.take(table, "provider"),
            precision: self.take(table, "precision"),
            isa: self.take(table, "isa"),
            onnx_file: self.take(table, "onnx_file"),
            dynamic_quantization: self.take(table, "dynamic_quantization"),
            threads: self.take(table, "threads"),
            onnx_sessions: self.take(table, "onnx_sessions"),
            truncation: self.take(table, "truncation"),
            token_ids: self.take(table, "token_ids"),
            strip_whitespace: self.take(table, "strip_whitespace"),
            matryoshka_dimensions: self.take(table, "matryoshka_dimensions").map(|sizes| vec![List(sizes)]),
            max_batch_tokens: self.take(table, "max_batch_tokens"),
            max_batch_inputs: self.take(table, "max_batch_inputs"),
            max_queue_tokens: self.take(table, "max_queue_tokens"),
            max_input_tokens: self.take(table, "max_input_tokens"),
        }
    }

    /// Takes a table out of its parent; an empty one when it is not there.
    fn table(&mut self, parent: &mut Table<'text>, name: &str) -> Table<'text> {
        let key = qualified(&parent.name, name);
        self.known.push(key.clone());
        let entries = match parent.entries.remove(name) {
            None => DeTable::new(),
            Some(value) => {
                let place = value.span();
                match value.into_inner() {
                    DeValue::Table(entries) => entries,
                    other => {
                        self.wrong(&key, describe(&key, &other), "a table", place);
                        DeTable::new()
                    }
                }
            }
        };
        Table { name: key, entries }
    }

    /// Takes the value of a key out of its table.
    fn take<T: Value>(&mut self, table: &mut Table<'text>, name: &str) -> Option<T> {
        let key = qualified(&table.name, name);
        let value = table.entries.remove(name);
        let value = value.and_then(|value| self.read(&key, &value));
        self.known.push(key);
        value
    }

    fn read<T: Value>(&mut self, key: &str, value: &Spanned<DeValue<'text>>) -> Option<T> {
        let read = T::from_toml(value.get_ref());
        if read.is_none() {
            self.wrong(key, describe(key, value.get_ref()), T::EXPECTED, value.span());
        }
        read
    }

    /// Notes the keys of a table that nobody took.
    fn finish(&mut self, table: Table<'text>) {
        for (key, _) in table.entries {
            let place = key.span();
            self.unknown.push((qualified(&table.name, key.get_ref()), place));
        }
    }

    /// Reports unknown keys; last, when all known ones have been asked for.
    fn report_unknown(&mut self) {
        for (key, place) in std::mem::take(&mut self.unknown) {
            let problem = match renamed_key(&key) {
                Some(new_name) => FileProblem::RenamedKey { key, new_name },
                None => {
                    let nearest = nearest(&key, &self.known).map(str::to_owned);
                    FileProblem::UnknownKey { key, nearest }
                }
            };
            self.error(place, problem);
        }
    }

    fn wrong(&mut self, key: &str, found: impl Into<String>, expected: &'static str, place: Range<usize>) {
        self.error(place, FileProblem::WrongValue { key: key.to_owned(), found: found.into(), expected });
    }

    fn error(&mut self, place: Range<usize>, problem: FileProblem) {
        let before = self.text.get(..place.start).unwrap_or(self.text);
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        self.errors.push(FileError { file: self.path.to_owned(), line, problem });
    }
}

/// A key with its table.
fn qualified(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// What a value is, for an error message; the values of secrets are not shown.
fn describe(key: &str, value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if !key.starts_with("auth") => super::value::quote(text),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        other => format!("of type {}", other.type_str()),
    }
}

/// Names that other servers have for the settings which are one here, `listen`.
const LISTEN_ELSEWHERE: [&str; 5] = ["port", "host", "hostname", "bind", "address"];

/// Our setting for `name`, if other servers call it so.
pub(crate) fn known_elsewhere(name: &str) -> Option<&'static str> {
    LISTEN_ELSEWHERE.contains(&name).then_some("listen")
}

/// The known key that looks most like `key`, if any does. Its last part counts, for a key in the wrong table
/// is as frequent a mistake as a misspelt one; the table decides between equals.
pub(super) fn nearest<'known>(key: &str, known: &'known [String]) -> Option<&'known str> {
    fn last(key: &str) -> &str {
        key.rsplit('.').next().unwrap_or(key)
    }
    if let Some(meant) = known_elsewhere(key.strip_prefix("server.").unwrap_or(key)) {
        return Some(meant);
    }
    let likeness = |candidate: &str| {
        let name = strsim::normalized_damerau_levenshtein(last(key), last(candidate));
        (name, strsim::normalized_damerau_levenshtein(key, candidate))
    };
    let best = known.iter().map(|candidate| (likeness(candidate), candidate));
    let best = best.filter(|((name, _), _)| *name > 0.55);
    best.max_by(|(a, _), (b, _)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)))
        .map(|(_, candidate)| candidate.as_str())
}
