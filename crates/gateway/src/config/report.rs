//! What was resolved and from where, as `embedgate check-config` shows it: a settings file that says the
//! same, with the source of each value beside it.

use std::fmt;
use std::path::PathBuf;

/// Every setting, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The settings; those of one table stand together.
    pub settings: Vec<Setting>,
}

/// One resolved setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Where in the file it would stand.
    pub table: Table,
    /// Its key there.
    pub name: String,
    /// clap's id of its flag, from which its variable's name follows; `None` where there is no flag.
    pub arg: Option<&'static str>,
    /// Its value.
    pub value: Shown,
    /// The largest value that is allowed, if the setting is a number.
    pub max: Option<String>,
    /// What a value that leaves something open means here.
    pub meaning: Option<String>,
    /// Where the value came from.
    pub source: Source,
}

/// A table of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Above all tables.
    Top,
    /// A table of this name.
    Named(&'static str),
    /// The model at this position.
    Model(usize),
}

/// A value as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// In TOML.
    Toml(String),
    /// Optional and not set.
    Unset,
    /// A secret: described, not shown.
    Secret(String),
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// This variable of the environment.
    Environment(String),
    /// This settings file.
    File(PathBuf),
    /// Found on this machine, where nothing was said.
    Found,
    /// The built-in default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(variable) => f.write_str(variable),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Found => f.write_str("found"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.settings.iter().map(Setting::line).collect();
        let column = lines.iter().map(|line| line.chars().count()).filter(|&width| width <= 60).max();
        let column = column.unwrap_or(0);
        let mut table = Table::Top;
        for (setting, line) in self.settings.iter().zip(lines) {
            if setting.table != table {
                table = setting.table;
                match table {
                    Table::Top => writeln!(f)?,
                    Table::Named(name) => writeln!(f, "\n[{name}]")?,
                    Table::Model(_) => writeln!(f, "\n[[models]]")?,
                }
            }
            write!(f, "{line:column$}  # {}", setting.source)?;
            match &setting.meaning {
                Some(meaning) => writeln!(f, ", here {meaning}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

impl Setting {
    fn line(&self) -> String {
        match &self.value {
            Shown::Toml(value) => format!("{} = {value}", self.name),
            Shown::Unset => format!("# {} is not set", self.name),
            Shown::Secret(description) => format!("# {}: {description}", self.name),
        }
    }
}
