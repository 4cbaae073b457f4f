//! API keys from a file: read at start-up, and again when the file changes.
//!
//! The content is what is compared, once a second: a Kubernetes mount swaps a link and leaves times and sizes as
//! they were. A new content counts when it was seen twice, because a file that is being written may look whole, and
//! when it holds keys that can be used. Until then the last good keys stay: nothing that happens to the file lets
//! anyone in who was not.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    auth::Keys,
    background::{Background, Stop},
    config::{ApiKey, ApiKeyError},
    middleware::chain,
};

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Some ten thousand keys.
const LARGEST: u64 = 1 << 20;

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
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What the file held when it was looked at: a hash, for the secrets themselves are nobody's to keep.
type Seen = [u8; 32];

/// Reads the keys of `path`, and what it held.
pub(super) fn read(path: &Path) -> Result<(Vec<ApiKey>, Seen), KeysFileError> {
    let content = content(path)?;
    Ok((keys(path, &content)?, Sha256::digest(&content).into()))
}

/// Keeps `keys` as `path` says, which held `seen` when they were read.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn watch(keys: Keys, path: PathBuf, seen: Seen) -> Result<Background, KeysFileError> {
    let mut watch = Watch { keys, path, used: seen, last: seen, said: false };
    let body = move |stop: &Stop| {
        while stop.pause(PERIOD) {
            watch.look();
        }
    };
    Background::start("keys", body).map_err(KeysFileError::Thread)
}

struct Watch {
    keys: Keys,
    path: PathBuf,
    /// The content in use.
    used: Seen,
    /// The content when it was last looked at.
    last: Seen,
    /// Whether it was logged that the file cannot be used.
    said: bool,
}

impl Watch {
    fn look(&mut self) {
        match self.renew() {
            Ok(Some(count)) => {
                self.said = false;
                tracing::info!(keys = count, "the file of API keys was read anew");
            }
            Ok(None) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.said, true) {
                    tracing::warn!(error = chain(&error), "the last good API keys stay in force");
                }
            }
        }
    }

    /// Takes the file's keys over if there is something new; tells how many there are then.
    fn renew(&mut self) -> Result<Option<usize>, KeysFileError> {
        let content = content(&self.path)?;
        let seen: Seen = Sha256::digest(&content).into();
        let steady = std::mem::replace(&mut self.last, seen) == seen;
        if !steady {
            return Ok(None);
        }
        if seen == self.used {
            // What is in use is back, after something that could not be used.
            return Ok(std::mem::take(&mut self.said).then(|| self.keys.count()));
        }
        let count = self.keys.replace(&self.path, keys(&self.path, &content)?)?;
        self.used = seen;
        Ok(Some(count))
    }
}

fn content(path: &Path) -> Result<Vec<u8>, KeysFileError> {
    let fault = |source| KeysFileError::Read { path: path.to_owned(), source };
    // Opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(fault)?;
    let mut content = Vec::new();
    if metadata.is_file() && metadata.len() <= LARGEST {
        File::open(path).map_err(fault)?.take(LARGEST).read_to_end(&mut content).map_err(fault)?;
        return Ok(content);
    }
    Err(KeysFileError::Unlike { path: path.to_owned() })
}

fn keys(path: &Path, content: &[u8]) -> Result<Vec<ApiKey>, KeysFileError> {
    let path = || path.to_owned();
    let text = std::str::from_utf8(content).map_err(|_| KeysFileError::Unlike { path: path() })?;
    let keys = ApiKey::read_lines(text).map_err(|source| KeysFileError::Key { path: path(), source })?;
    if keys.is_empty() { Err(KeysFileError::Empty { path: path() }) } else { Ok(keys) }
}
