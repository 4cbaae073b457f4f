//! The settings file: TOML taken apart into keys, each with the line it stands on.
//!
//! The tables are taken apart by hand rather than by a derive, so that all mistakes are reported together, a misspelt
//! key is answered with the nearest known one, and no message quotes a secret.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use super::setting::{Setting, Table};
use super::unknown::{nearest, renamed_key};
use super::value::{Value, quote};

/// The keys of a table, with their tables, that have not been taken yet.
type FileKeys<'text> = BTreeMap<String, Key<'text>>;

/// A key and its value.
struct Key<'text> {
    place: Range<usize>,
    value: Spanned<DeValue<'text>>,
}

/// A settings file that is being emptied key by key; the rest is unknown.
pub(super) struct SettingsFile<'text> {
    pub(super) path: &'text Path,
    text: &'text str,
    /// All keys outside `[[models]]`.
    keys: FileKeys<'text>,
    /// The keys of each `[[models]]` entry, with its place.
    models: Option<Vec<(Range<usize>, FileKeys<'text>)>>,
}

impl<'text> SettingsFile<'text> {
    /// Reads TOML. `settings` tells which keys are tables.
    pub(super) fn parse(
        path: &'text Path,
        text: &'text str,
        settings: &[&'static Setting],
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut file = Self { path, text, keys: FileKeys::new(), models: None };
        let document = match DeTable::parse(text) {
            Ok(document) => document.into_inner(),
            Err(error) => {
                let place = error.span().unwrap_or(0..0);
                problems.push(file.problem(&place, format!("not TOML: {}", error.message())));
                return file;
            }
        };
        for (key, value) in document {
            let (name, place) = (key.get_ref().to_string(), key.span());
            let is_table =
                settings.iter().any(|setting| matches!(setting.table, Table::Named(table) if table == name));
            if name == "models" {
                file.models = file.model_entries(value, problems);
            } else if is_table {
                match value.get_ref() {
                    DeValue::Table(_) => file.keys.extend(qualified_keys(&name, value)),
                    other => {
                        // Unquoted, for it might be a secret.
                        let found = describe(other, true);
                        problems.push(
                            file.problem(&value.span(), format!("`{name}` is {found}; expected a table")),
                        );
                    }
                }
            } else {
                file.keys.insert(name, Key { place, value });
            }
        }
        file
    }

    fn model_entries(
        &self,
        models: Spanned<DeValue<'text>>,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<(Range<usize>, FileKeys<'text>)>> {
        let place = models.span();
        let entries = match models.into_inner() {
            DeValue::Array(entries) if entries.iter().all(|entry| entry.get_ref().is_table()) => entries,
            _ => {
                let message =
                    "`models` is not an array of tables; expected a heading `[[models]]` for each model";
                problems.push(self.problem(&place, message.to_owned()));
                return None;
            }
        };
        Some(entries.into_iter().map(|entry| (entry.span(), qualified_keys("models", entry))).collect())
    }

    /// Returns the number of `[[models]]` entries, if the file has such a list.
    pub(super) fn models(&self) -> Option<usize> {
        self.models.as_ref().map(Vec::len)
    }

    /// Returns the place of a `[[models]]` entry.
    pub(super) fn model_place(&self, model: usize) -> Range<usize> {
        self.models.iter().flatten().nth(model).map(|(place, _)| place.clone()).unwrap_or_default()
    }

    /// Takes the value of a key; of a setting of models, that of the entry `model`.
    pub(super) fn take(
        &mut self,
        setting: &Setting,
        model: Option<usize>,
    ) -> Option<Spanned<DeValue<'text>>> {
        let keys = match (setting.table, model) {
            (Table::Model(_), Some(model)) => &mut self.models.as_mut()?.get_mut(model)?.1,
            (Table::Model(_), None) => return None,
            _ => &mut self.keys,
        };
        keys.remove(&setting.qualified_key()).map(|key| key.value)
    }

    /// Takes all keys of the table `[table]`, whose keys are the user's own; `None` if there is no such table.
    pub(super) fn take_entries<T: Value>(
        &mut self,
        table: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<BTreeMap<String, T>> {
        let Key { value, .. } = self.keys.remove(table)?;
        let DeValue::Table(_) = value.get_ref() else {
            let message = format!("`{table}` is {}; expected a table", describe(value.get_ref(), false));
            problems.push(self.problem(&value.span(), message));
            return None;
        };
        let mut taken = BTreeMap::new();
        for (key, Key { value, .. }) in qualified_keys(table, value) {
            match T::from_toml(value.get_ref()) {
                Some(entry) => {
                    let name = key.strip_prefix(table).unwrap_or(&key).trim_start_matches('.');
                    taken.insert(name.to_owned(), entry);
                }
                None => {
                    let (found, expected) = (describe(value.get_ref(), false), T::expected());
                    problems.push(
                        self.problem(&value.span(), format!("`{key}` is {found}; expected {expected}")),
                    );
                }
            }
        }
        Some(taken)
    }

    /// Returns a problem for every key that was not taken. `settings` are those that it may be mistaken for.
    pub(super) fn unknown(&self, settings: &[&'static Setting]) -> Vec<Problem> {
        let mut known = vec!["models".to_owned(), "aliases".to_owned()];
        for setting in settings {
            known.push(setting.qualified_key());
            if let Table::Named(table) = setting.table {
                known.push(table.to_owned());
            }
        }
        let models = self.models.iter().flatten().map(|(_, keys)| keys);
        let keys = models.chain([&self.keys]).flatten();
        keys.map(|(key, Key { place, .. })| {
            let message = match (renamed_key(key), nearest(key, &known)) {
                (Some(new), _) => format!("`{key}` is now called `{new}`"),
                (None, Some(nearest)) => format!("unknown key `{key}`; did you mean `{nearest}`?"),
                (None, None) => format!("unknown key `{key}`"),
            };
            self.problem(place, message)
        })
        .collect()
    }

    /// Returns a problem on the line of `place`.
    pub(super) fn problem(&self, place: &Range<usize>, message: String) -> Problem {
        let before = self.text.get(..place.start).unwrap_or(self.text);
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        Problem { place: Some((self.path.to_owned(), line)), message }
    }
}

/// Returns the keys of a table, each with the table's name.
fn qualified_keys<'text>(table: &str, value: Spanned<DeValue<'text>>) -> FileKeys<'text> {
    let DeValue::Table(entries) = value.into_inner() else { return FileKeys::new() };
    let qualified = |key: &str| format!("{table}.{key}");
    entries
        .into_iter()
        .map(|(key, value)| (qualified(key.get_ref()), Key { place: key.span(), value }))
        .collect()
}

/// Describes a value for an error message; a secret one by its type alone.
pub(super) fn describe(value: &DeValue<'_>, is_secret: bool) -> String {
    match value {
        DeValue::String(text) if !is_secret => quote(text),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        other => format!("of type {}", other.type_str()),
    }
}
