//! The download of one file: continued where it was interrupted, verified, then renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use ureq::http::StatusCode;
use url::Url;

use crate::{
    HubError, PullObserver, PullProgress,
    blob::BlobId,
    cache::create_parent,
    client::{Answer, Client, Failure, Subject, host, sleep},
};

/// Wait between two attempts to lock a file that another process downloads.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);

/// A file on another machine and its content.
pub(crate) struct RemoteFile {
    pub(crate) name: String,
    pub(crate) blob: BlobId,
    /// Its size, if stated.
    pub(crate) bytes: Option<u64>,
}

/// Bytes of all files of a model.
#[derive(Default)]
pub(crate) struct Tally {
    /// On this machine.
    pub(crate) done: u64,
    /// Of all files.
    pub(crate) total: u64,
    /// Received now.
    pub(crate) downloaded: u64,
}

/// One download.
pub(crate) struct Transfer<'a> {
    client: &'a Client,
    url: &'a Url,
    subject: Subject<'a>,
    file: &'a RemoteFile,
    /// Bytes of the files before it.
    before: u64,
    /// Largest length that the unfinished file has had: more is progress.
    best: u64,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(client: &'a Client, url: &'a Url, subject: Subject<'a>, file: &'a RemoteFile) -> Self {
        Self { client, url, subject, file, before: 0, best: 0 }
    }

    /// Downloads the file to `path`, continuing `path` + `.incomplete` if it is there.
    pub(crate) fn run(
        mut self,
        path: &Path,
        tally: &mut Tally,
        observer: &mut dyn PullObserver,
    ) -> Result<(), HubError> {
        if path.is_file() {
            // Another process has downloaded it in the meantime.
            tally.done += self.file.bytes.unwrap_or(0);
            return Ok(());
        }
        create_parent(path)?;
        let mut incomplete = path.as_os_str().to_owned();
        incomplete.push(".incomplete");
        let incomplete = PathBuf::from(incomplete);
        self.before = tally.done;
        let mut is_repeated = false;
        let (client, url, subject) = (self.client, self.url, self.subject);
        client.with_retries(url, subject, observer, |observer| {
            self.receive(&incomplete, tally, observer)?;
            observer.on_progress(PullProgress::Verifying { file: &self.file.name });
            let Err(error) = verify(self.file, &incomplete, &host(url))? else { return Ok(()) };
            fs::remove_file(&incomplete).map_err(HubError::io("remove", &incomplete))?;
            tally.done = self.before;
            // Once more, because a proxy or an earlier, interrupted attempt may have damaged it.
            if std::mem::replace(&mut is_repeated, true) {
                return Err(error.into());
            }
            self.best = 0;
            Err(Failure::temporary(error.to_string()))
        })?;
        fs::rename(&incomplete, path).map_err(HubError::io("write", path))
    }

    /// Receives the rest of the file into `incomplete`. A connection that breaks is a temporary failure.
    fn receive(
        &mut self,
        incomplete: &Path,
        tally: &mut Tally,
        observer: &mut dyn PullObserver,
    ) -> Result<(), Failure> {
        let opened = OpenOptions::new().append(true).create(true).open(incomplete);
        let mut out = opened.map_err(HubError::io("write", incomplete))?;
        let mut have = out.metadata().map_err(HubError::io("read", incomplete))?.len();
        if self.file.bytes.is_some_and(|bytes| have > bytes) {
            have = restart(&out, incomplete)?;
        }
        self.best = self.best.max(have);
        tally.done = self.before + have;
        if self.file.bytes == Some(have) && have > 0 {
            return Ok(());
        }
        let mut answer = self.client.content(self.url, have, self.subject)?;
        match start_of(&answer, have) {
            Some(start) if start == have => {}
            // The host ignores ranges and sends all of the file.
            Some(_) => have = restart(&out, incomplete)?,
            None => {
                // The file is not what it was. The next attempt starts from its beginning.
                restart(&out, incomplete)?;
                return Err(Failure::temporary("it does not have the rest of the file"));
            }
        }
        let body = answer.response.body_mut();
        let total = self.file.bytes.or_else(|| body.content_length().map(|rest| have + rest));
        if self.file.bytes.is_none() {
            tally.total = tally.total.max(self.before + total.unwrap_or(0));
        }
        let (mut reader, mut buffer) = (body.with_config().limit(u64::MAX).reader(), vec![0; 1 << 16]);
        loop {
            if observer.is_cancelled() {
                return Err(HubError::Cancelled.into());
            }
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(self.interrupted(have, "no byte arrived for too long".to_owned()));
                }
                Err(error) => return Err(self.interrupted(have, format!("the connection broke ({error})"))),
            };
            if total.is_some_and(|total| have + read as u64 > total) {
                restart(&out, incomplete)?;
                return Err(Failure::temporary("it sent more bytes than announced"));
            }
            out.write_all(&buffer[..read]).map_err(HubError::io("write", incomplete))?;
            have += read as u64;
            tally.done = self.before + have;
            tally.downloaded += read as u64;
            let (file, done, total) = (self.file.name.as_str(), tally.done, tally.total);
            observer.on_progress(PullProgress::Bytes { file, done, total });
        }
        match total.filter(|&total| have < total) {
            Some(total) => {
                Err(self.interrupted(have, format!("the connection ended after {have} of {total} bytes")))
            }
            None => out.sync_all().map_err(|error| HubError::io("write", incomplete)(error).into()),
        }
    }

    /// Returns the failure of an attempt that ended at the length `have`.
    fn interrupted(&mut self, have: u64, reason: String) -> Failure {
        let has_progressed = have > self.best;
        self.best = self.best.max(have);
        Failure::Temporary { reason, wait: None, has_progressed }
    }
}

/// Returns the position of the content's first byte, if `have` bytes are there; `None` if the answer is of no use.
fn start_of(answer: &Answer, have: u64) -> Option<u64> {
    let status = answer.response.status();
    if status != StatusCode::PARTIAL_CONTENT {
        return status.is_success().then_some(0);
    }
    let range = answer.header("content-range")?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok().filter(|&start: &u64| start == have)
}

/// Empties an unfinished file. Returns its length.
fn restart(out: &File, path: &Path) -> Result<u64, HubError> {
    out.set_len(0).map_err(HubError::io("write", path)).map(|()| 0)
}

/// Compares a file with its SHA-256.
///
/// # Errors
/// [`HubError::InvalidDigest`], [`HubError::Digest`] or [`HubError::Io`].
pub fn verify_sha256(path: &Path, sha256: &str) -> Result<(), HubError> {
    let file = RemoteFile { name: path.display().to_string(), blob: sha256_blob(sha256)?, bytes: None };
    verify(&file, path, "this machine")?
}

/// Reads a SHA-256 in hexadecimal.
pub(crate) fn sha256_blob(text: &str) -> Result<BlobId, HubError> {
    let blob = BlobId::from_etag(text).filter(BlobId::is_sha256);
    blob.ok_or_else(|| HubError::InvalidDigest { text: text.to_owned() })
}

/// Compares a complete file with its digest. The outer error is one of reading, the inner one a difference.
fn verify(file: &RemoteFile, path: &Path, host: &str) -> Result<Result<(), HubError>, HubError> {
    let expected = &file.blob;
    let Some(found) = expected.digest_of(path).map_err(HubError::io("read", path))? else {
        return Ok(Ok(()));
    };
    if found == expected.name() {
        return Ok(Ok(()));
    }
    let (host, expected) = (host.to_owned(), expected.name().to_owned());
    Ok(Err(HubError::Digest { host, file: file.name.clone(), expected, found }))
}

/// Locks a file of the cache, waiting for another process that has locked it. On a file system without locks, returns
/// without one: the digest then detects two writers.
pub(crate) fn lock(path: &Path, file: &str, observer: &mut dyn PullObserver) -> Result<File, HubError> {
    create_parent(path)?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let lock = lock.map_err(HubError::io("open", path))?;
    while let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
        observer.on_progress(PullProgress::Waiting { file });
        sleep(LOCK_INTERVAL, observer)?;
    }
    Ok(lock)
}
