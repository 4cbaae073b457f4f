//! Choosing each value by precedence: flag over variable over file over default.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::file::{SettingsFile, describe};
use super::problem::{ConfigError, Problem};
use super::process_env::{PREFIX, ProcessEnv};
use super::report::{DisplayValue, Report, ReportEntry, Source};
use super::setting::{Setting, Table};
use super::unknown::{nearest, renamed_flag};
use super::value::{Value, quote};

/// The command line's part of the settings.
#[derive(Clone, Debug, Default)]
pub struct CliArgs {
    /// The texts of the flags that were given, by their names without dashes; those of a repeated flag are joined by
    /// commas.
    pub flags: BTreeMap<String, OsString>,
    /// Text of `--host`, which replaces the host of `listen`.
    pub host: Option<OsString>,
    /// Text of `--port`, which replaces the port of `listen`.
    pub port: Option<OsString>,
}

impl CliArgs {
    /// Returns the text of the flag `name`, if it is given and is Unicode.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.flags.get(name)?.to_str()
    }

    /// Returns the text of the flag of `setting`.
    pub(super) fn get(&self, setting: &Setting) -> Option<&OsStr> {
        self.flags.get(&setting.flag_name()?).map(OsString::as_os_str)
    }
}

/// Chooses each value, and collects where it came from and what is wrong with it.
pub(super) struct Resolver<'a> {
    pub(super) args: &'a CliArgs,
    pub(super) env: &'a ProcessEnv,
    settings: &'a [&'static Setting],
    pub(super) file: SettingsFile<'a>,
    /// Position of the `[[models]]` entry whose settings are being resolved, and whether it is in the file.
    pub(super) model: Option<(usize, bool)>,
    pub(super) report: Report,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    /// Prepares to resolve `settings`, which are all that there are.
    pub(super) fn new(
        args: &'a CliArgs,
        env: &'a ProcessEnv,
        (path, text): (&'a Path, &'a str),
        settings: &'a [&'static Setting],
    ) -> Self {
        let mut problems = Vec::new();
        let file = SettingsFile::parse(path, text, settings, &mut problems);
        Self { args, env, settings, file, model: None, report: Report::default(), problems }
    }

    /// Returns the value of `setting` and records its source.
    pub(super) fn value<T: Value>(&mut self, setting: &'static Setting, default: T) -> T {
        let (value, source) = self.lookup(setting).unwrap_or((default, Source::Default));
        self.record(setting, value.to_toml().into(), source);
        value
    }

    /// Returns the value of `setting` and its source, if there is one other than the default. Nothing is recorded.
    pub(super) fn lookup<T: Value>(&mut self, setting: &'static Setting) -> Option<(T, Source)> {
        // The file's is read, and found wrong, even if another one wins.
        let in_file = self.read_file(setting);
        self.read_outside(setting).or(in_file)
    }

    /// Returns the value of a flag or variable.
    pub(super) fn read_outside<T: Value>(&mut self, setting: &'static Setting) -> Option<(T, Source)> {
        let flag = self.args.get(setting).map(|text| (text, Source::Flag));
        let text_of = |name: &str| self.env.variables.get(name).map(OsString::as_os_str);
        let variable = || {
            let name = setting.variable_name()?;
            text_of(&name).map(|text| (text, Source::Variable(name)))
        };
        let shared_variable = || {
            let name = setting.shared_variable?;
            let text = text_of(name).filter(|text| !text.is_empty())?;
            Some((text, Source::Variable(name.to_owned())))
        };
        let (text, source) = flag.or_else(variable).or_else(shared_variable)?;
        let name = match &source {
            Source::Variable(name) => name.clone(),
            _ => format!("--{}", setting.flag_name()?),
        };
        let found = match text.to_str() {
            None => "not UTF-8".to_owned(),
            Some(_) if setting.is_secret => "not understood".to_owned(),
            Some(text) => quote(text),
        };
        match check(setting, T::from_os(text), &name, &found) {
            Ok(value) => return Some((value, source)),
            Err(message) => self.push(message.into()),
        }
        None
    }

    /// Returns the value of a key of the file.
    pub(super) fn read_file<T: Value>(&mut self, setting: &'static Setting) -> Option<(T, Source)> {
        let model = self.model.filter(|(_, is_in_file)| *is_in_file).map(|(position, _)| position);
        let value = self.file.take(setting, model)?;
        let found = describe(value.get_ref(), setting.is_secret);
        match check(setting, T::from_toml(value.get_ref()), &setting.qualified_key(), &found) {
            Ok(value) => return Some((value, self.file_source())),
            Err(message) => self.push(self.file.problem(&value.span(), message)),
        }
        None
    }

    /// Records a value for the report.
    pub(super) fn record(&mut self, setting: &'static Setting, value: DisplayValue, source: Source) {
        let table = match (setting.table, self.model) {
            (Table::Model(_), Some((position, _))) => Table::Model(position),
            (table, _) => table,
        };
        let (key, meaning) = (setting.key.to_owned(), None);
        self.report.entries.push(ReportEntry { table, key, setting: Some(setting), value, meaning, source });
    }

    /// Returns `number`, or if it is 0, one for each CPU, but no more than `max`. The report then shows it.
    pub(super) fn or_cpu_count(&mut self, key: &str, number: usize, max: usize) -> usize {
        if number != 0 {
            return number;
        }
        let cpus = self.env.cpus.clamp(1, max);
        self.report.explain(key, cpus);
        cpus
    }

    pub(super) fn file_source(&self) -> Source {
        Source::File(self.file.path.to_owned())
    }

    /// Adds a problem, once: a flag holds for every model.
    pub(super) fn push(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Rejects the keys and variables that belong to no setting.
    ///
    /// # Errors
    /// All values and names that cannot be understood, in the order of the file's lines.
    pub(super) fn finish(mut self) -> Result<Report, ConfigError> {
        self.problems.extend(self.file.unknown(self.settings));
        self.unknown_variables();
        self.problems.sort_by_key(|problem| problem.place.as_ref().map(|(_, line)| *line));
        if self.problems.is_empty() { Ok(self.report) } else { Err(ConfigError::Invalid(self.problems)) }
    }

    fn unknown_variables(&mut self) {
        let known: Vec<_> = self.settings.iter().filter_map(|setting| setting.variable_name()).collect();
        let as_key = |variable: &str| variable.trim_start_matches(PREFIX).to_lowercase();
        let names: Vec<_> = known.iter().map(|variable| as_key(variable)).collect();
        let variables =
            self.env.variables.keys().filter(|name| name.starts_with(PREFIX) && !known.contains(name));
        for variable in variables {
            let name = as_key(variable);
            let renamed = renamed_flag(&name, self.settings.iter().copied()).and_then(Setting::variable_name);
            let message = match (renamed, nearest(&name, &names)) {
                (Some(new), _) => format!("the variable `{variable}` is now called `{new}`"),
                (None, Some(nearest)) => {
                    let nearest = nearest.to_uppercase();
                    format!("unknown variable `{variable}`; did you mean `{PREFIX}{nearest}`?")
                }
                (None, None) => format!(
                    "unknown variable `{variable}`; `embedgate serve --help` lists the known variables, remove or \
                     rename this one"
                ),
            };
            self.problems.push(message.into());
        }
    }
}

/// Returns the value that was read, if it is one and within its bounds. `name` is its key, flag or variable, `found`
/// its text.
fn check<T: Value>(setting: &Setting, read: Option<T>, name: &str, found: &str) -> Result<T, String> {
    let expected = setting.expected::<T>();
    let Some(value) = read else { return Err(format!("`{name}` is {found}; expected {expected}")) };
    let found = || value.to_toml().unwrap_or_default();
    match setting.compare(&value.numbers()) {
        Ordering::Less => Err(format!("`{name}` is {}; expected {expected}", found())),
        Ordering::Equal => Ok(value),
        Ordering::Greater => {
            let max = setting.max_toml().unwrap_or_default();
            Err(format!("`{name}` is {}, but may be {max} at most", found()))
        }
    }
}
