//! Settings that cannot work.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Reasons why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("cannot read the settings file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Settings that cannot be understood, or that contradict each other.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Settings file and line, counted from 1, if it is one line that is wrong.
    pub place: Option<(PathBuf, usize)>,
    /// Description of the problem and its remedy. Quotes no secret.
    pub message: String,
}

impl From<String> for Problem {
    fn from(message: String) -> Self {
        Self { place: None, message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.place {
            write!(f, "{}:{line}: ", file.display())?;
        }
        f.write_str(&self.message)
    }
}
