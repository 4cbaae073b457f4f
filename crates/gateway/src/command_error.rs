//! Results and failures of commands on models and servers.

use std::io;
use std::path::PathBuf;

use inference::GoldenError;
use model_import::{ImportError, ModelManifest};
use thiserror::Error;

use crate::config::ConfigError;
use crate::hub::HubModelError;
use crate::load::{LoadError, ModelLoadError};
use crate::model_bench::BenchError;
use crate::server_client::ServerError;

/// Result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The command succeeded, and no check failed.
    Pass,
    /// A model does not reproduce the golden vectors of its manifest.
    Fail,
}

/// A failure of a command.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The folder cannot be used.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// There is no such folder.
    #[error("cannot open the model folder {}: {advice}", folder.display())]
    NoFolder {
        /// The path.
        folder: PathBuf,
        /// Path to use instead.
        advice: String,
    },
    /// The settings are invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model cannot be started.
    #[error("cannot start the model in {}", folder.display())]
    Model {
        /// The model's folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        error: Box<ModelLoadError>,
    },
    /// The model has no golden vectors.
    #[error(
        "{} has no golden vectors to verify against: its manifest {} is missing or has none",
        folder.display(),
        ModelManifest::FILE
    )]
    NoGolden {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The engine rejected a golden text or failed on it.
    #[error(transparent)]
    Golden(Box<GoldenError>),
    /// The model cannot be had from a hub or an archive.
    #[error(transparent)]
    Hub(#[from] HubModelError),
    /// A model was downloaded or unpacked, but embedgate cannot serve it.
    #[error("{name} is in {}, but embedgate cannot serve it", folder.display())]
    Unusable {
        /// Its name.
        name: String,
        /// Its folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        error: Box<ImportError>,
    },
    /// The command line names no file or folder to read from, or no folder to write to.
    #[error("{0}")]
    Usage(String),
    /// The built-in catalogue cannot be read.
    #[error("the built-in catalogue of models is damaged: this is a defect of the program")]
    Catalogue(#[from] toml::de::Error),
    /// The benchmark failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The model of the settings cannot be loaded.
    #[error(transparent)]
    Load(Box<LoadError>),
    /// A server cannot be asked.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Standard input cannot be read.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// The result cannot be printed.
    #[error("cannot write the result to standard output")]
    Print(#[from] io::Error),
}
