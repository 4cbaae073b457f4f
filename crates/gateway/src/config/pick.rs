//! Choosing a key's value by precedence, and noting it with its source for the report.

use super::merge::{Key, Merge};
use super::report::{Setting, Shown, Source, Table};
use super::resolve::Problem;
use super::value::Value;

impl Merge<'_> {
    /// The value of a key by precedence, noted with its source.
    pub(super) fn pick<T: Value, S: Into<T>>(
        &mut self,
        key: Key,
        flag: Option<S>,
        file: Option<S>,
        builtin: T,
    ) -> T {
        let (value, source) = match (flag, file) {
            (Some(value), _) => (value.into(), self.outside_source(key.arg)),
            (None, Some(value)) => (value.into(), self.file_source()),
            (None, None) => (builtin, Source::Default),
        };
        if let Some(max) =
            T::upper_bound(key.arg).filter(|max| source != Source::Default && value.exceeds(max))
        {
            let problem = Problem::AboveMaximum {
                key: key.qualified(),
                value: value.to_toml(),
                max: shown_bound(&max),
            };
            // A flag holds for every model and is wrong once.
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
        self.note_key(key, Shown::Toml(value.to_toml()), source);
        self.note_bound::<T>(key);
        value
    }

    /// As [`Self::pick`], for a key that has no default.
    pub(super) fn pick_optional<T: Value>(
        &mut self,
        key: Key,
        flag: Option<T>,
        file: Option<T>,
    ) -> Option<T> {
        let Some(value) = flag.clone().or_else(|| file.clone()) else {
            self.note_key(key, Shown::Unset, Source::Default);
            self.note_bound::<T>(key);
            return None;
        };
        Some(self.pick(key, flag, file, value))
    }

    pub(super) fn note_key(&mut self, key: Key, value: Shown, source: Source) {
        let Key { table, name, arg } = key;
        self.report.settings.push(Setting {
            table,
            name: name.to_owned(),
            arg: Some(arg),
            value,
            max: None,
            meaning: None,
            source,
        });
    }

    fn note_bound<T: Value>(&mut self, key: Key) {
        if let Some(noted) = self.report.settings.last_mut() {
            noted.max = T::upper_bound(key.arg).map(|max| shown_bound(&max));
        }
    }

    pub(super) fn note(&mut self, table: Table, name: impl Into<String>, value: Shown, source: Source) {
        self.report.settings.push(Setting {
            table,
            name: name.into(),
            arg: None,
            value,
            max: None,
            meaning: None,
            source,
        });
    }

    /// If the number that was noted last is 0: one for each processor, but `max` at most. The note then says so.
    pub(super) fn or_processors(&mut self, number: usize, max: usize) -> usize {
        if number != 0 {
            return number;
        }
        let processors = self.surroundings.processors.clamp(1, max);
        if let Some(noted) = self.report.settings.last_mut() {
            noted.meaning = Some(processors.to_string());
        }
        processors
    }

    pub(super) fn file_source(&self) -> Source {
        Source::File(self.path.clone())
    }

    /// Where the list of models came from.
    pub(super) fn model_source(&self) -> Source {
        if self.flags.settings.models.is_some() {
            self.outside_source("models")
        } else if self.models_in_file {
            self.file_source()
        } else {
            Source::Default
        }
    }

    /// Where a value that clap gave came from: a flag or its variable.
    pub(super) fn outside_source(&self, arg: &str) -> Source {
        if self.flags.from_environment.contains(arg) {
            Source::Environment(variable(arg))
        } else {
            Source::Flag
        }
    }
}

/// An upper bound as messages show it; for an array, the bound of its elements.
fn shown_bound<T: Value>(max: &T) -> String {
    max.to_toml().trim_matches(['[', ']']).to_owned()
}

/// The variable of the flag with clap's id `arg`.
fn variable(arg: &str) -> String {
    format!("EMBEDGATE_{}", arg.to_uppercase())
}
