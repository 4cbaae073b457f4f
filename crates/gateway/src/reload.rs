//! Files that are read at start-up and again when they change.
//!
//! The contents are compared once a second: a Kubernetes mount swaps a symbolic link and leaves times and sizes as they
//! were. A new content is applied once it was read twice in a row, because a file may be half written, and two files are
//! written one after the other. Until it can be applied, the last good content stays in use.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::background::{BackgroundThread, StopToken};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Enough for ten thousand API keys; a certificate chain has some kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// State that is built from files, and rebuilt when they change.
pub(crate) trait Reloadable: Send + 'static {
    /// The content of each file.
    type Snapshot: AsRef<[Vec<u8>]>;
    type Error;

    fn read(&self) -> Result<Self::Snapshot, Self::Error>;

    /// Replaces the state, or leaves it unchanged on an error.
    fn apply(&self, snapshot: &Self::Snapshot) -> Result<(), Self::Error>;

    /// Logs that a new content is in use, or that the current one is back after an error.
    fn log_reloaded(&self);

    /// Logs that the last good content stays in use.
    fn log_rejected(&self, error: &Self::Error);
}

/// Applies the current content of the files, and later contents on a thread of this name.
///
/// # Errors
/// If the current content cannot be applied; `no_thread` if the system cannot start a thread.
pub(crate) fn watch<R: Reloadable>(
    thread: &'static str,
    state: R,
    no_thread: fn(io::Error) -> R::Error,
) -> Result<BackgroundThread, R::Error> {
    let snapshot = state.read()?;
    state.apply(&snapshot)?;
    let (mut applied, mut last_read) = (hashes(&snapshot), hashes(&snapshot));
    let mut has_logged_error = false;
    let body = move |stop: &StopToken| {
        while stop.wait_timeout(POLL_INTERVAL) {
            let reloaded = state.read().and_then(|snapshot| {
                let read = hashes(&snapshot);
                let is_stable = std::mem::replace(&mut last_read, read.clone()) == read;
                if !is_stable {
                    return Ok(false);
                }
                if read == applied {
                    // After an error, this content is back.
                    return Ok(has_logged_error);
                }
                state.apply(&snapshot)?;
                applied = read;
                Ok(true)
            });
            match reloaded {
                Ok(false) => {}
                Ok(true) => {
                    has_logged_error = false;
                    state.log_reloaded();
                }
                Err(_) if has_logged_error => {}
                Err(error) => {
                    has_logged_error = true;
                    state.log_rejected(&error);
                }
            }
        }
    };
    BackgroundThread::start(thread, body).map_err(no_thread)
}

/// The content of a file; `None` if it is not a regular file, or too large.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Checked before opening: opening a named pipe would wait for its writer.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Ok(None);
    }
    let mut content = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// Hashes of the contents: secrets are not kept only to compare them.
fn hashes(snapshot: &impl AsRef<[Vec<u8>]>) -> Vec<[u8; 32]> {
    snapshot.as_ref().iter().map(|file| Sha256::digest(file).into()).collect()
}
