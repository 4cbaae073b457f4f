//! Downloads of models and archives: resumed, verified, and visible only when complete.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ureq::{
    Proxy,
    http::{Method, StatusCode},
};
use url::Url;

use crate::{
    Cache, HubError, PullObserver, PullProgress, RepoRef, RetryPolicy,
    blob::BlobId,
    cache::create_parent,
    client::{Client, Failure, Subject, Token, host, parse_address, sleep},
    file_set,
    listing::{ListedFile, Listing},
    place,
};

/// Folder of unfinished downloads inside a target folder.
const UNFINISHED: &str = ".embedgate-pull";

/// Wait between two attempts to lock a file that another process downloads.
const LOCK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

/// Settings of a [`Hub`].
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Address of the hub or of a mirror.
    pub endpoint: String,
    /// The cache folder.
    pub cache: Cache,
    /// True if no request may be sent.
    pub is_offline: bool,
    /// Proxy for all requests.
    pub proxy: Option<Proxy>,
    /// Limits for repeating requests.
    pub retry: RetryPolicy,
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledModel {
    /// Its folder.
    pub folder: PathBuf,
    /// The commit of its files; `None` if they came from the cache without asking the hub.
    pub commit: Option<String>,
    /// Size of its files.
    pub bytes: u64,
    /// Bytes that were downloaded now.
    pub downloaded: u64,
    /// Files that could only be checked for their length, because the hub states no digest.
    pub unverified: Vec<String>,
}

/// A hub and the cache of its models.
#[derive(Debug)]
pub struct Hub {
    client: Client,
    cache: Cache,
    is_offline: bool,
}

/// A file of a model and its content.
struct RemoteFile {
    name: String,
    blob: BlobId,
    bytes: Option<u64>,
}

/// Bytes of all files of a download.
#[derive(Default)]
struct Tally {
    done: u64,
    total: u64,
    downloaded: u64,
}

impl Hub {
    /// Uses the hub at `settings.endpoint`. `token` is sent to no other host.
    ///
    /// # Errors
    /// [`HubError::InvalidAddress`].
    pub fn new(settings: HubSettings, token: Option<String>) -> Result<Self, HubError> {
        let HubSettings { endpoint, cache, is_offline, proxy, retry } = settings;
        Ok(Self { client: Client::new(&endpoint, token.map(Token), proxy, retry)?, cache, is_offline })
    }

    /// Returns the cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Downloads what is missing of a model into the cache. Offline, returns what the cache has.
    ///
    /// # Errors
    /// Any [`HubError`]. Complete files stay, so that the next call continues.
    pub fn pull(
        &self,
        repo: &RepoRef,
        onnx_file: Option<&str>,
        observer: &mut dyn PullObserver,
    ) -> Result<PulledModel, HubError> {
        if self.is_offline {
            let folder = self.cache.find(repo).ok_or_else(|| self.offline(repo))?;
            return Ok(PulledModel { folder, commit: None, bytes: 0, downloaded: 0, unverified: Vec::new() });
        }
        let (commit, files, tally) = self.download_all(repo, onnx_file, &self.cache, observer)?;
        // After all of them have arrived, so that an interrupted download leaves no incomplete snapshot.
        for file in &files {
            self.cache.link(repo, &commit, &file.name, &file.blob)?;
        }
        self.cache.set_commit(repo, &commit)?;
        Ok(pulled(self.cache.snapshot(repo, &commit), commit, &files, &tally))
    }

    /// Downloads a model into the folder `target` instead of the cache. Other files of the folder stay.
    ///
    /// # Errors
    /// Any [`HubError`]. What has arrived is kept in `target`, so that the next call continues.
    pub fn pull_to(
        &self,
        repo: &RepoRef,
        onnx_file: Option<&str>,
        target: &Path,
        observer: &mut dyn PullObserver,
    ) -> Result<PulledModel, HubError> {
        if self.is_offline {
            return Err(self.offline(repo));
        }
        let store = Cache::new(target.join(UNFINISHED));
        let (commit, files, tally) = self.download_all(repo, onnx_file, &store, observer)?;
        for file in &files {
            // Copied, because two files can have the same content.
            let blob = store.blob(repo, &file.blob);
            let is_last = files
                .iter()
                .rfind(|other| other.blob == file.blob)
                .is_some_and(|last| last.name == file.name);
            let to = target.join(&file.name);
            if is_last {
                place::rename(&blob, &to)?;
            } else {
                create_parent(&to)?;
                crate::cache::replace(&to, |temporary| fs::copy(&blob, temporary).map(drop))?;
            }
        }
        // What remains is empty folders and locks.
        let _ = fs::remove_dir_all(store.root());
        Ok(pulled(target.to_owned(), commit, &files, &tally))
    }

    /// Downloads the archive at `address` to `path` and compares it with its SHA-256.
    ///
    /// # Errors
    /// Any [`HubError`]. What has arrived stays beside `path`, so that the next call continues.
    pub fn fetch_archive(
        &self,
        address: &str,
        sha256: &str,
        path: &Path,
        observer: &mut dyn PullObserver,
    ) -> Result<(), HubError> {
        let url = parse_address(address)?;
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned();
        let blob = sha256_blob(sha256)?;
        let file = RemoteFile { name: name.clone(), blob, bytes: None };
        let subject = Subject { repo: &name, revision: "", file: &name };
        self.fetch(&url, &file, subject, path, &mut Tally::default(), observer)
    }

    fn offline(&self, repo: &RepoRef) -> HubError {
        HubError::Offline { repo: repo.to_string(), cache: self.cache.root().to_owned() }
    }

    /// Downloads the blobs that `store` lacks. Returns the commit, its needed files, `config.json` last, and the bytes.
    fn download_all(
        &self,
        repo: &RepoRef,
        onnx_file: Option<&str>,
        store: &Cache,
        observer: &mut dyn PullObserver,
    ) -> Result<(String, Vec<RemoteFile>, Tally), HubError> {
        let (listing, url) = self.list(repo, observer)?;
        let names: Vec<&str> = listing.siblings.iter().map(|file| file.name.as_str()).collect();
        let needed = file_set::needed(&names, onnx_file).ok_or_else(|| no_weights(repo, &names))?;
        let find = |name: &&str| listing.siblings.iter().find(|file| file.name == *name);
        let needed: Vec<&ListedFile> = needed.iter().filter_map(find).collect();
        if let Some(file) = needed.iter().find(|file| !is_inside(&file.name)) {
            let reason = format!("it lists the file `{}`", file.name.escape_debug());
            return Err(HubError::Protocol {
                host: host(&url),
                file: "its list of files".to_owned(),
                reason,
            });
        }
        let mut tally =
            Tally { total: needed.iter().filter_map(|file| file.bytes()).sum(), ..Tally::default() };
        let mut files = Vec::with_capacity(needed.len());
        for listed in needed {
            let path = format!("{}/resolve/{}/{}", repo.id(), listing.sha, listed.name);
            let url = self.client.url(&path, None);
            let subject = Subject { repo: repo.id(), revision: repo.revision(), file: &listed.name };
            let file = self.describe(&url, subject, (listed, &listing.sha), observer)?;
            if listed.bytes().is_none() {
                tally.total += file.bytes.unwrap_or(0);
            }
            let path = store.blob(repo, &file.blob);
            if path.is_file() {
                let bytes = fs::metadata(&path).map_err(HubError::io("read", &path))?.len();
                tally.done += bytes;
                observer.on_progress(PullProgress::Bytes {
                    file: &file.name,
                    done: tally.done,
                    total: tally.total,
                });
            } else {
                let lock = lock(&store.lock(repo, &file.blob), &file.name, observer)?;
                self.fetch(&url, &file, subject, &path, &mut tally, observer)?;
                drop(lock);
            }
            files.push(file);
        }
        Ok((listing.sha, files, tally))
    }

    /// Asks the hub for the files of a model.
    fn list(&self, repo: &RepoRef, observer: &mut dyn PullObserver) -> Result<(Listing, Url), HubError> {
        let path = format!("api/models/{}/revision/{}", repo.id(), repo.revision().replace('/', "%2F"));
        let url = self.client.url(&path, Some("blobs=true"));
        let subject = Subject { repo: repo.id(), revision: repo.revision(), file: "its list of files" };
        let text =
            self.client.with_retries(&url, subject, observer, |_| self.client.document(&url, subject))?;
        let listing: Listing = serde_json::from_slice(&text)
            .map_err(|error| self.client.protocol(&url, subject, error.to_string()))?;
        if !crate::repo::is_commit(&listing.sha) {
            let reason = "`sha` is no commit".to_owned();
            return Err(self.client.protocol(&url, subject, reason));
        }
        Ok((listing, url))
    }

    /// Asks for the digest and the size of a file.
    fn describe(
        &self,
        url: &Url,
        subject: Subject<'_>,
        (listed, commit): (&ListedFile, &str),
        observer: &mut dyn PullObserver,
    ) -> Result<RemoteFile, HubError> {
        let request = |_: &mut dyn PullObserver| self.client.request(&Method::HEAD, url, None, subject, true);
        let answer = self.client.with_retries(url, subject, observer, request)?;
        let tag = answer.header("x-linked-etag").or_else(|| answer.header("etag"));
        // A mirror's own tag is no digest, but it may pass on the hub's list.
        let blob = tag.and_then(BlobId::from_etag).or_else(|| listed.digest().and_then(BlobId::from_etag));
        let blob = blob.unwrap_or_else(|| BlobId::without_digest(commit, &listed.name));
        let number = |name| answer.header(name).and_then(|text| text.parse().ok());
        let length = number("content-length").filter(|_| answer.response.status().is_success());
        let bytes = number("x-linked-size").or_else(|| listed.bytes()).or(length);
        Ok(RemoteFile { name: listed.name.clone(), blob, bytes })
    }

    /// Downloads one file to `path`, continuing `path` + `.incomplete` if it is there.
    fn fetch(
        &self,
        url: &Url,
        file: &RemoteFile,
        subject: Subject<'_>,
        path: &Path,
        tally: &mut Tally,
        observer: &mut dyn PullObserver,
    ) -> Result<(), HubError> {
        if path.is_file() {
            // Another process has downloaded it in the meantime.
            tally.done += file.bytes.unwrap_or(0);
            return Ok(());
        }
        create_parent(path)?;
        let mut incomplete = path.as_os_str().to_owned();
        incomplete.push(".incomplete");
        let incomplete = PathBuf::from(incomplete);
        let before = tally.done;
        let mut damaged = 0;
        self.client.with_retries(url, subject, observer, |observer| {
            self.receive(url, file, subject, &incomplete, (tally, before), observer)?;
            observer.on_progress(PullProgress::Verifying { file: &file.name });
            let Err(error) = verify(file, &incomplete, &host(url))? else { return Ok(()) };
            fs::remove_file(&incomplete).map_err(HubError::io("remove", &incomplete))?;
            tally.done = before;
            // Once more, because a proxy or an earlier, interrupted attempt may have damaged it.
            damaged += 1;
            Err(if damaged < 2 { Failure::temporary(error.to_string()) } else { error.into() })
        })?;
        fs::rename(&incomplete, path).map_err(HubError::io("write", path))
    }

    /// Receives the rest of a file into `incomplete`. A connection that breaks is a temporary failure.
    fn receive(
        &self,
        url: &Url,
        file: &RemoteFile,
        subject: Subject<'_>,
        incomplete: &Path,
        (tally, before): (&mut Tally, u64),
        observer: &mut dyn PullObserver,
    ) -> Result<(), Failure> {
        let written = HubError::io("write", incomplete);
        let mut out = OpenOptions::new().append(true).create(true).open(incomplete).map_err(written)?;
        let mut have = out.metadata().map_err(HubError::io("read", incomplete))?.len();
        if file.bytes.is_some_and(|bytes| have > bytes) {
            have = restart(&out, incomplete)?;
        }
        tally.done = before + have;
        if file.bytes == Some(have) && have > 0 {
            return Ok(());
        }
        let mut answer = self.client.request(&Method::GET, url, Some(have), subject, false)?;
        let status = answer.response.status();
        let starts_there = answer.header("content-range").is_some_and(|range| {
            range.strip_prefix("bytes ").and_then(|range| range.split('-').next())
                == Some(have.to_string().as_str())
        });
        if have > 0 && !(status == StatusCode::PARTIAL_CONTENT && starts_there) {
            if !status.is_success() || status == StatusCode::PARTIAL_CONTENT {
                // The file is not what it was. The next attempt starts from its beginning.
                restart(&out, incomplete)?;
                return Err(Failure::temporary("it does not have the rest of the file"));
            }
            // The host ignores ranges and sends all of the file.
            have = restart(&out, incomplete)?;
            tally.done = before;
        }
        let body = answer.response.body_mut();
        let total = file.bytes.or_else(|| body.content_length().map(|rest| have + rest));
        if file.bytes.is_none() {
            tally.total = tally.total.max(before + total.unwrap_or(0));
        }
        let (mut reader, mut buffer) = (body.with_config().limit(u64::MAX).reader(), vec![0; 1 << 16]);
        let start = have;
        loop {
            if observer.is_cancelled() {
                return Err(HubError::Cancelled.into());
            }
            let failed = |reason: String| {
                Err(Failure::Temporary { reason, wait: None, has_progressed: tally_progress(start, have) })
            };
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return failed("no byte arrived for too long".to_owned());
                }
                Err(error) => return failed(format!("the connection broke ({error})")),
            };
            if total.is_some_and(|total| have + read as u64 > total) {
                restart(&out, incomplete)?;
                return failed("it sent more bytes than announced".to_owned());
            }
            out.write_all(&buffer[..read]).map_err(HubError::io("write", incomplete))?;
            have += read as u64;
            tally.done = before + have;
            tally.downloaded += read as u64;
            observer.on_progress(PullProgress::Bytes {
                file: &file.name,
                done: tally.done,
                total: tally.total,
            });
        }
        match total.filter(|&total| have < total) {
            Some(total) => {
                let reason = format!("the connection ended after {have} of {total} bytes");
                Err(Failure::Temporary { reason, wait: None, has_progressed: tally_progress(start, have) })
            }
            None => out.sync_all().map_err(|error| HubError::io("write", incomplete)(error).into()),
        }
    }
}

/// Compares a file with its SHA-256.
///
/// # Errors
/// [`HubError::InvalidDigest`], [`HubError::Digest`] or [`HubError::Io`].
pub fn verify_sha256(path: &Path, sha256: &str) -> Result<(), HubError> {
    let file = RemoteFile { name: path.display().to_string(), blob: sha256_blob(sha256)?, bytes: None };
    verify(&file, path, "this machine")?
}

fn sha256_blob(text: &str) -> Result<BlobId, HubError> {
    let blob = BlobId::from_etag(text).filter(BlobId::is_sha256);
    blob.ok_or_else(|| HubError::InvalidDigest { text: text.to_owned() })
}

/// Returns true if an attempt has received bytes.
fn tally_progress(start: u64, now: u64) -> bool {
    now > start
}

/// Empties an unfinished file. Returns its length.
fn restart(out: &File, path: &Path) -> Result<u64, HubError> {
    out.set_len(0).map_err(HubError::io("write", path)).map(|()| 0)
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
fn lock(path: &Path, file: &str, observer: &mut dyn PullObserver) -> Result<File, HubError> {
    create_parent(path)?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let lock = lock.map_err(HubError::io("open", path))?;
    while let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
        observer.on_progress(PullProgress::Waiting { file });
        sleep(LOCK_INTERVAL, observer)?;
    }
    Ok(lock)
}

fn no_weights(repo: &RepoRef, names: &[&str]) -> HubError {
    let ends = [".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".safetensors"];
    let found: Vec<&str> =
        names.iter().copied().filter(|name| ends.iter().any(|end| name.ends_with(end))).collect();
    let found =
        if found.is_empty() { "none of these and nothing similar".to_owned() } else { found.join(", ") };
    HubError::NoWeights { repo: repo.to_string(), found }
}

/// Returns true for a path that stays inside its folder.
fn is_inside(name: &str) -> bool {
    let is_safe = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.split('/').all(is_safe) && !name.contains(['\\', ':', '\0'])
}

fn pulled(folder: PathBuf, commit: String, files: &[RemoteFile], tally: &Tally) -> PulledModel {
    let is_unverified = |file: &&RemoteFile| !file.blob.is_digest();
    let unverified = files.iter().filter(is_unverified).map(|file| file.name.clone()).collect();
    PulledModel { folder, commit: Some(commit), bytes: tally.done, downloaded: tally.downloaded, unverified }
}
