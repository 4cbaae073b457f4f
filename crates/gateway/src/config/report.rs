//! Every resolved value and its source, as `embedgate check-config` shows them: a settings file that says the same,
//! with the sources in comments.

use std::fmt;
use std::path::PathBuf;

use super::setting::{Setting, Table};

/// Every setting, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The settings; those of one table stand together.
    pub entries: Vec<ReportEntry>,
}

/// One resolved setting.
#[derive(Clone, Debug)]
pub struct ReportEntry {
    /// Table of the settings file that it belongs to.
    pub table: Table,
    /// Its key there.
    pub key: String,
    /// Its declaration; `None` for an alias, whose key is the user's own.
    pub setting: Option<&'static Setting>,
    /// Its value.
    pub value: DisplayValue,
    /// Meaning of the value on this machine, if the value leaves it open.
    pub meaning: Option<String>,
    /// Source of the value.
    pub source: Source,
}

/// A value as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DisplayValue {
    /// In TOML.
    Toml(String),
    /// Optional and not set.
    Unset,
    /// A secret: described, not shown.
    Secret(String),
}

impl From<Option<String>> for DisplayValue {
    fn from(toml: Option<String>) -> Self {
        toml.map_or(Self::Unset, Self::Toml)
    }
}

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// This variable.
    Variable(String),
    /// This settings file.
    File(PathBuf),
    /// Found on this machine, as no setting names it.
    Found,
    /// The built-in default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(variable) => f.write_str(variable),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Found => f.write_str("found"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Report {
    /// Returns the default of `setting` in TOML, if it has one; for a report in which nothing is given.
    pub fn default_of(&self, setting: &Setting) -> Option<&str> {
        let is_default = |entry: &&ReportEntry| {
            entry.source == Source::Default
                && entry.setting.is_some_and(|of| of.qualified_key() == setting.qualified_key())
        };
        match &self.entries.iter().find(is_default)?.value {
            DisplayValue::Toml(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the entry of `key` that was recorded last.
    pub(super) fn entry_mut(&mut self, key: &str) -> Option<&mut ReportEntry> {
        self.entries.iter_mut().rfind(|entry| entry.key == key)
    }

    /// Adds what the value of `key` means on this machine.
    pub(super) fn explain(&mut self, key: &str, meaning: impl fmt::Display) {
        if let Some(entry) = self.entry_mut(key) {
            entry.meaning = Some(meaning.to_string());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.entries.iter().map(ReportEntry::line).collect();
        let column = lines.iter().map(|line| line.chars().count()).filter(|&width| width <= 60).max();
        let column = column.unwrap_or(0);
        let mut table = Table::Top;
        for (entry, line) in self.entries.iter().zip(lines) {
            if entry.table != table {
                table = entry.table;
                match table {
                    Table::Top => writeln!(f)?,
                    Table::Named(name) => writeln!(f, "\n[{name}]")?,
                    Table::Model(_) => writeln!(f, "\n[[models]]")?,
                }
            }
            write!(f, "{line:column$}  # {}", entry.source)?;
            match &entry.meaning {
                Some(meaning) => writeln!(f, ", here {meaning}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

impl ReportEntry {
    fn line(&self) -> String {
        match &self.value {
            DisplayValue::Toml(value) => format!("{} = {value}", self.key),
            DisplayValue::Unset => format!("# {} is not set", self.key),
            DisplayValue::Secret(description) => format!("# {}: {description}", self.key),
        }
    }
}
