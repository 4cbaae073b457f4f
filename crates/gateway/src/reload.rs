//! Files that are read at start-up and again when they change.
//!
//! The contents are compared once a second: a Kubernetes mount swaps a symbolic link and leaves times and sizes as they
//! were. A new content is applied once it was read twice in a row, because a file may be half written, and two files
//! are written one after the other. Until it can be applied, the last good content stays in use.

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
    let mut watcher = Watcher::new(state)?;
    let body = move |stop: &StopToken| {
        while stop.wait_timeout(POLL_INTERVAL) {
            watcher.poll();
        }
    };
    BackgroundThread::start(thread, body).map_err(no_thread)
}

struct Watcher<R> {
    state: R,
    /// Hashes of the content that is in use.
    applied: Vec<[u8; 32]>,
    /// Hashes of the content at the last poll.
    last_read: Vec<[u8; 32]>,
    has_logged_error: bool,
}

impl<R: Reloadable> Watcher<R> {
    /// Applies the current content.
    fn new(state: R) -> Result<Self, R::Error> {
        let snapshot = state.read()?;
        state.apply(&snapshot)?;
        let applied = hashes(&snapshot);
        Ok(Self { state, last_read: applied.clone(), applied, has_logged_error: false })
    }

    /// Reads the files, applies a new content, and logs a change or the first error in a row.
    fn poll(&mut self) {
        match self.reload() {
            Ok(false) => {}
            Ok(true) => {
                self.has_logged_error = false;
                self.state.log_reloaded();
            }
            Err(_) if self.has_logged_error => {}
            Err(error) => {
                self.has_logged_error = true;
                self.state.log_rejected(&error);
            }
        }
    }

    /// Returns true if a new content was applied, or the current one is back after an error.
    fn reload(&mut self) -> Result<bool, R::Error> {
        let snapshot = self.state.read()?;
        let read = hashes(&snapshot);
        let is_stable = std::mem::replace(&mut self.last_read, read.clone()) == read;
        if !is_stable {
            return Ok(false);
        }
        if read == self.applied {
            return Ok(self.has_logged_error);
        }
        self.state.apply(&snapshot)?;
        self.applied = read;
        Ok(true)
    }
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// State that is a text, read from memory instead of files. `bad` cannot be applied, and `gone` cannot be read.
    #[derive(Clone, Default)]
    struct Text {
        file: Arc<Mutex<&'static str>>,
        in_use: Arc<Mutex<Vec<u8>>>,
        log: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Reloadable for Text {
        type Snapshot = [Vec<u8>; 1];
        type Error = ();

        fn read(&self) -> Result<Self::Snapshot, ()> {
            let file = *self.file.lock().unwrap();
            if file == "gone" { Err(()) } else { Ok([file.into()]) }
        }

        fn apply(&self, [text]: &Self::Snapshot) -> Result<(), ()> {
            if text == b"bad" {
                return Err(());
            }
            self.in_use.lock().unwrap().clone_from(text);
            Ok(())
        }

        fn log_reloaded(&self) {
            self.log.lock().unwrap().push("reloaded");
        }

        fn log_rejected(&self, (): &()) {
            self.log.lock().unwrap().push("rejected");
        }
    }

    /// The text in use and the log after polls that find these contents, each in turn.
    fn poll(contents: &[&'static str]) -> (String, Vec<&'static str>) {
        let text = Text::default();
        *text.file.lock().unwrap() = "old";
        let mut watcher = Watcher::new(text.clone()).unwrap();
        for content in contents {
            *text.file.lock().unwrap() = content;
            watcher.poll();
        }
        let in_use = String::from_utf8(text.in_use.lock().unwrap().clone()).unwrap();
        let log = text.log.lock().unwrap().clone();
        (in_use, log)
    }

    #[test]
    fn a_content_is_applied_once_it_is_stable() {
        assert_eq!(poll(&["new"]), ("old".to_owned(), vec![]));
        assert_eq!(poll(&["half", "new", "new", "new"]), ("new".to_owned(), vec!["reloaded"]));
    }

    #[test]
    fn the_last_good_content_stays_in_use_and_an_error_is_logged_once() {
        for broken in ["bad", "gone"] {
            assert_eq!(poll(&[broken; 5]), ("old".to_owned(), vec!["rejected"]), "{broken}");
            let recovered = poll(&[broken, broken, "new", "new", "new"]);
            assert_eq!(recovered, ("new".to_owned(), vec!["rejected", "reloaded"]), "{broken}");
            let restored = poll(&[broken, broken, "old", "old", "old"]);
            assert_eq!(restored, ("old".to_owned(), vec!["rejected", "reloaded"]), "{broken}");
        }
    }
}
