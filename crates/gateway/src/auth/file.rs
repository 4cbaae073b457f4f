//! API keys from a file: read at start-up, and again when the file changes.
//!
//! A new content counts when it holds keys that can be used. Until then the last good keys stay: nothing that
//! happens to the file lets anyone in who was not.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    auth::Keys,
    background::Background,
    config::{ApiKey, ApiKeyError},
    middleware::chain,
    watched::{self, Watched},
};

/// A file of API keys that cannot be used. Never quotes what is in it.
#[derive(Debug, Error)]
pub enum KeysFileError {
    /// It cannot be read.
    #[error("cannot read the file of API keys {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is something that no file of keys would be.
    #[error("{} is no file of API keys: it is no plain UTF-8 file of at most 1 MiB", path.display())]
    Unlike {
        /// The file.
        path: PathBuf,
    },
    /// There is no key in it. Refused, because a file that was not filled in must not leave the server open.
    #[error("the file of API keys {} holds none; to let everyone in, leave the setting out", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A line that is no key, or a name that occurs twice, in the file or here and in the other settings.
    #[error("the file of API keys {} cannot be used", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ApiKeyError,
    },
    /// Nobody can watch the file.
    #[error("cannot start the thread that watches the file of API keys")]
    Thread(#[source] io::Error),
}

/// Keeps `keys` as `path` says, from now on.
///
/// # Errors
/// When the file cannot be used, or the system gives no thread.
pub(super) fn watch(keys: Keys, path: PathBuf) -> Result<Background, KeysFileError> {
    watched::watch("keys", KeysFile { keys, path }, KeysFileError::Thread)
}

struct KeysFile {
    keys: Keys,
    path: PathBuf,
}

impl Watched for KeysFile {
    type Content = [Vec<u8>; 1];
    type Error = KeysFileError;

    fn read(&self) -> Result<Self::Content, KeysFileError> {
        let path = || self.path.clone();
        let content = watched::read(&self.path);
        let content = content.map_err(|source| KeysFileError::Read { path: path(), source })?;
        Ok([content.ok_or_else(|| KeysFileError::Unlike { path: path() })?])
    }

    fn take_over(&self, [content]: &Self::Content) -> Result<(), KeysFileError> {
        let path = || self.path.clone();
        let text = std::str::from_utf8(content).map_err(|_| KeysFileError::Unlike { path: path() })?;
        let keys = ApiKey::read_lines(text).map_err(|source| KeysFileError::Key { path: path(), source })?;
        if keys.is_empty() {
            return Err(KeysFileError::Empty { path: path() });
        }
        self.keys.replace(&self.path, keys)
    }

    fn say_renewed(&self) {
        tracing::info!(keys = self.keys.count(), "the file of API keys was reloaded");
    }

    fn say_kept(&self, error: &KeysFileError) {
        tracing::warn!(error = chain(error), "the last good API keys stay in force");
    }
}
