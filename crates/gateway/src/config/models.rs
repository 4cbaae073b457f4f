//! The models to serve, their names and aliases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use model_hub::RepoRef;

use super::report::{ReportEntry, Source};
use super::resolver::Resolver;
use super::setting::Table;
use super::settings::{ALIASES, LimitsConfig, MAX_THREADS, MODEL_ID, MODEL_PATH, ModelConfig};
use super::types::{Alias, Aliases};
use super::value::{Value, quote};
use super::{DEFAULT_MODEL, OPENAI_MODELS};

/// A model before its settings are resolved.
pub(super) struct Entry {
    pub(super) id: String,
    path: PathBuf,
    id_source: Source,
    path_source: Source,
    /// Position in the file, if it is there.
    in_file: Option<usize>,
}

/// The models to serve.
pub(super) struct ModelEntries {
    pub(super) list: Vec<Entry>,
    /// True if a flag or variable replaced those of the file.
    pub(super) replace_file: bool,
}

impl ModelEntries {
    /// Returns the ids, as a message lists them.
    pub(super) fn ids(&self) -> String {
        self.list.iter().map(|entry| &*entry.id).collect::<Vec<_>>().join(", ")
    }

    /// Returns the id of the first model.
    pub(super) fn first_id(&self) -> String {
        self.list.first().map(|entry| entry.id.clone()).unwrap_or_default()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.list.iter().any(|entry| entry.id == id)
    }
}

/// Returns the model in the folder `single_model`, else those of the flags, else of the variable, else of the file,
/// else the default one.
pub(super) fn entries(
    resolver: &mut Resolver<'_>,
    single_model: Option<&Path>,
    problems: &mut Vec<String>,
) -> ModelEntries {
    let mut in_file = Vec::new();
    for position in 0..resolver.file.models().unwrap_or(0) {
        resolver.model = Some((position, true));
        let problems = resolver.problems.len();
        let id = resolver.read_file::<String>(&MODEL_ID).map(|(id, _)| id);
        let path = resolver.read_file::<PathBuf>(&MODEL_PATH).map(|(path, _)| path);
        if path.is_none() && resolver.problems.len() == problems {
            let place = resolver.file.model_place(position);
            resolver.push(resolver.file.problem(&place, "`models.path` is missing".to_owned()));
        }
        in_file.push((id, path.unwrap_or_default(), Some(position)));
    }
    resolver.model = None;
    let from_outside = match single_model {
        Some(folder) => Some((vec![folder.to_owned()], Source::Flag)),
        None => resolver
            .read_outside::<Vec<String>>(&MODEL_PATH)
            .map(|(folders, source)| (folders.into_iter().map(PathBuf::from).collect(), source)),
    };
    let replace_file = from_outside.is_some();
    let (given, source) = match from_outside {
        Some((folders, source)) => (folders.into_iter().map(|folder| (None, folder, None)).collect(), source),
        None if resolver.file.models().is_some() => (in_file, resolver.file_source()),
        None => (vec![(None, PathBuf::from("models").join(DEFAULT_MODEL), None)], Source::Default),
    };
    if given.is_empty() {
        problems.push(
            "there is no model to serve: add a `[[models]]` with its `path`, or `--model DIR`".to_owned(),
        );
    }
    let mut list: Vec<Entry> = Vec::with_capacity(given.len());
    let mut ids = BTreeSet::new();
    for (id, path, in_file) in given {
        let id_source = if id.is_some() { resolver.file_source() } else { source.clone() };
        let on_hub = || Some(hub_model(&path, &resolver.env.working_directory)?.short_name().to_owned());
        let folder = || path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let Some(id) = id.or_else(on_hub).or_else(folder).filter(|id| !id.is_empty()) else {
            problems.push(format!("the model at {} needs an `id`: its path ends in no name", path.display()));
            continue;
        };
        if !ids.insert(id.clone()) {
            problems.push(format!("two models are called `{id}`: give one of them another `id`"));
            continue;
        }
        list.push(Entry { id, path, id_source, path_source: source.clone(), in_file });
    }
    ModelEntries { list, replace_file }
}

/// Returns the name on a model hub that `path` stands for, unless it is a path below `working_directory`.
pub(crate) fn hub_model(path: &Path, working_directory: &Path) -> Option<RepoRef> {
    let repo: RepoRef = path.to_str()?.parse().ok()?;
    // A misspelt folder in `models` is no model of an organization with this name.
    (!repo.id().starts_with("models/") && !working_directory.join(path).exists()).then_some(repo)
}

/// Returns the id of the model that OpenAI's names stand for. `given` is what the settings say.
pub(super) fn default_model(
    resolver: &mut Resolver<'_>,
    entries: &ModelEntries,
    given: String,
    problems: &mut Vec<String>,
) -> String {
    if entries.contains(&given) || entries.list.is_empty() {
        return given;
    }
    let file = resolver.file_source();
    let entry = resolver.report.entry_mut("default_model");
    if let Some(entry) = entry.filter(|entry| entries.replace_file && entry.source == file) {
        // A flag or variable replaced the models that the file speaks of.
        (entry.value, entry.source) = (entries.first_id().to_toml().into(), Source::Default);
        return entries.first_id();
    }
    problems.push(format!("`default_model` is `{given}`, which is not among the models ({})", entries.ids()));
    given
}

/// Resolves the settings of each model.
pub(super) fn models(
    resolver: &mut Resolver<'_>,
    entries: ModelEntries,
    limits: &LimitsConfig,
) -> Vec<ModelConfig> {
    // Settings of entries of the file that are not used can be wrong, too.
    let reported = resolver.report.entries.len();
    for position in 0..resolver.file.models().unwrap_or(0) {
        if !entries.list.iter().any(|entry| entry.in_file == Some(position)) {
            resolver.model = Some((position, true));
            ModelConfig::resolve(resolver, String::new(), PathBuf::new(), limits);
        }
    }
    resolver.report.entries.truncate(reported);
    let mut models = Vec::with_capacity(entries.list.len());
    for (position, entry) in entries.list.into_iter().enumerate() {
        resolver.model = Some((entry.in_file.unwrap_or(position), entry.in_file.is_some()));
        resolver.record(&MODEL_ID, entry.id.to_toml().into(), entry.id_source);
        resolver.record(&MODEL_PATH, entry.path.to_toml().into(), entry.path_source);
        let mut model = ModelConfig::resolve(resolver, entry.id, entry.path, limits);
        model.threads = resolver.or_cpu_count("threads", model.threads, MAX_THREADS);
        model.matryoshka_dimensions.sort_unstable();
        model.matryoshka_dimensions.dedup();
        models.push(model);
    }
    resolver.model = None;
    models
}

/// Returns the aliases: from the name in a request to the model that it stands for.
pub(super) fn aliases(
    resolver: &mut Resolver<'_>,
    entries: &ModelEntries,
    default_model: &str,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> BTreeMap<String, Alias> {
    let in_file = resolver.file.take_entries::<Alias>("aliases", &mut resolver.problems);
    let (aliases, source) = match (resolver.read_outside::<Aliases>(&ALIASES), in_file) {
        (Some((Aliases(aliases), source)), _) => (aliases.into_iter().collect(), source),
        (None, Some(mut aliases)) => {
            if entries.replace_file {
                let lost = aliases.extract_if(.., |_, alias| !entries.contains(&alias.model));
                warnings.extend(lost.map(|(alias, Alias { model, .. })| {
                    format!(
                        "the alias `{alias}` of the file stands for `{model}`, which is not served now: left out"
                    )
                }));
            }
            (aliases, resolver.file_source())
        }
        (None, None) => {
            let names = OPENAI_MODELS.into_iter().filter(|name| !entries.contains(name));
            (names.map(|name| (name.to_owned(), default_model.into())).collect(), Source::Default)
        }
    };
    for (alias, target) in &aliases {
        let id = &target.model;
        if entries.contains(alias) {
            problems.push(format!("the alias `{alias}` has the name of a model: remove one of them"));
        } else if !entries.list.is_empty() && !entries.contains(id) {
            let ids = entries.ids();
            problems.push(format!(
                "the alias `{alias}` stands for `{id}`, which is not among the models ({ids})"
            ));
        }
        resolver.report.entries.push(ReportEntry {
            table: Table::Named("aliases"),
            key: quote(alias),
            setting: None,
            value: target.to_toml().into(),
            meaning: None,
            source: source.clone(),
        });
    }
    aliases
}
