//! Files that are read at start-up, and again when they change.
//!
//! The content is what is compared, once a second: a Kubernetes mount swaps a link and leaves times and sizes as
//! they were. A new content counts when it was seen twice, because a file that is being written may look whole and
//! two files are written one after the other, and when it can be used. Until then the last good one stays in use.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::background::{Background, Stop};

/// How often files are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Some ten thousand API keys; a chain of a few certificates takes some kilobytes.
const LARGEST: u64 = 1 << 20;

/// What is made of files, and made anew when they change.
pub(crate) trait Watched: Send + 'static {
    /// What each file holds.
    type Content: AsRef<[Vec<u8>]>;
    /// Why that cannot be used.
    type Error;

    fn read(&self) -> Result<Self::Content, Self::Error>;

    /// Takes a content over, all of it or nothing.
    fn take_over(&self, content: &Self::Content) -> Result<(), Self::Error>;

    /// Logs that a new content is in use, or that the one in use is back.
    fn say_renewed(&self);

    /// Logs that the last good content stays in use.
    fn say_kept(&self, error: &Self::Error);
}

/// Takes over what the files hold now, and, on a thread of this name, what they come to hold.
///
/// # Errors
/// When what they hold now cannot be used; `no_thread` when the system gives none.
pub(crate) fn watch<W: Watched>(
    thread: &'static str,
    watched: W,
    no_thread: fn(io::Error) -> W::Error,
) -> Result<Background, W::Error> {
    let content = watched.read()?;
    watched.take_over(&content)?;
    // What is in use, what was there at the last look, and whether it was logged that it cannot be used.
    let (mut used, mut last, mut said) = (hashes(&content), hashes(&content), false);
    let body = move |stop: &Stop| {
        while stop.pause(PERIOD) {
            let renewed = watched.read().and_then(|content| {
                let seen = hashes(&content);
                let steady = std::mem::replace(&mut last, seen.clone()) == seen;
                if !steady {
                    return Ok(false);
                }
                if seen == used {
                    // It is back, after something that could not be used.
                    return Ok(said);
                }
                watched.take_over(&content)?;
                used = seen;
                Ok(true)
            });
            match renewed {
                Ok(false) => {}
                Ok(true) => {
                    said = false;
                    watched.say_renewed();
                }
                Err(_) if said => {}
                Err(error) => {
                    said = true;
                    watched.say_kept(&error);
                }
            }
        }
    };
    Background::start(thread, body).map_err(no_thread)
}

/// The content of a file; `None` when it is no plain file, or too large.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Ok(None);
    }
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// All that is kept of a content, for the secrets themselves are nobody's to keep.
fn hashes(content: &impl AsRef<[Vec<u8>]>) -> Vec<[u8; 32]> {
    content.as_ref().iter().map(|file| Sha256::digest(file).into()).collect()
}
