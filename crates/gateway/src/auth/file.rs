//! API keys from a file: read at start-up, and again when the file changes.
//!
//! A new content is used once all its keys are valid. Until then the last good keys stay in use, so that a broken file
//! neither admits nor locks out a client.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    auth::Keys,
    background::BackgroundThread,
    config::{ApiKey, ApiKeyError},
    error_chain::error_chain,
    reload::{self, Reloadable},
};

/// A file of API keys that cannot be used. It never quotes the file.
#[derive(Debug, Error)]
pub enum KeysFileError {
    /// It cannot be read.
    #[error("cannot read the file of API keys {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It is not a regular UTF-8 file of a plausible size.
    #[error("{} is not a file of API keys: expected a regular UTF-8 file of at most 1 MiB", path.display())]
    NotKeys {
        /// The file.
        path: PathBuf,
    },
    /// It contains no key. This is an error, because a forgotten file must not leave the server open.
    #[error("the file of API keys {} contains no key; to serve without keys, remove the setting", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A line is not a key, or a name occurs twice, in the file or in the file and the other settings.
    #[error("the file of API keys {} cannot be used", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key's error.
        #[source]
        source: ApiKeyError,
    },
    /// The system cannot start a thread.
    #[error("cannot start the thread that watches the file of API keys")]
    Thread(#[source] io::Error),
}

/// Loads the file at `path` into `keys`, and reloads it while the returned thread lives.
///
/// # Errors
/// If the file cannot be used, or the system cannot start a thread.
pub(super) fn watch(keys: Keys, path: PathBuf) -> Result<BackgroundThread, KeysFileError> {
    reload::watch("keys", KeysFile { keys, path }, KeysFileError::Thread)
}

struct KeysFile {
    keys: Keys,
    path: PathBuf,
}

impl Reloadable for KeysFile {
    type Snapshot = [Vec<u8>; 1];
    type Error = KeysFileError;

    fn read(&self) -> Result<Self::Snapshot, KeysFileError> {
        let path = || self.path.clone();
        let content = reload::read(&self.path);
        let content = content.map_err(|source| KeysFileError::Read { path: path(), source })?;
        Ok([content.ok_or_else(|| KeysFileError::NotKeys { path: path() })?])
    }

    fn apply(&self, [content]: &Self::Snapshot) -> Result<(), KeysFileError> {
        let path = || self.path.clone();
        let text = std::str::from_utf8(content).map_err(|_| KeysFileError::NotKeys { path: path() })?;
        let keys = ApiKey::read_lines(text).map_err(|source| KeysFileError::Key { path: path(), source })?;
        if keys.is_empty() {
            return Err(KeysFileError::Empty { path: path() });
        }
        self.keys.replace(&self.path, keys)
    }

    fn log_reloaded(&self) {
        tracing::info!(keys = self.keys.count(), "the file of API keys was reloaded");
    }

    fn log_rejected(&self, error: &KeysFileError) {
        tracing::warn!(error = error_chain(error), "the last good API keys stay in use");
    }
}
