//! Downloads of models and archives: resumed, verified, and visible only when complete.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ureq::Proxy;
use url::Url;

use crate::{
    Cache, HubError, PullObserver, PullProgress, RepoRef, RetryPolicy,
    archive::{ArchiveLimits, unpack},
    blob::BlobId,
    cache::{create_parent, replace},
    client::{Client, Subject, Token, host, parse_address},
    file_set,
    listing::{ListedFile, Listing},
    place,
    transfer::{RemoteFile, Tally, Transfer, lock, sha256_blob},
};

/// Folder of unfinished downloads inside a target folder.
const UNFINISHED: &str = ".embedgate-pull";

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
            let cached = self.pull(repo, onnx_file, observer)?;
            unpack(&cached.folder, target, ArchiveLimits::default())?;
            return Ok(PulledModel { folder: target.to_owned(), ..cached });
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
                replace(&to, |temporary| fs::copy(&blob, temporary).map(drop))?;
            }
        }
        // What remains is empty folders and locks.
        let _ = fs::remove_dir_all(store.root());
        Ok(pulled(target.to_owned(), commit, &files, &tally))
    }

    /// Downloads the archive at `address` to `path` and compares it with its SHA-256.
    ///
    /// # Errors
    /// Any [`HubError`]. What has arrived stays next to `path`, so that the next call continues.
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
        Transfer::new(&self.client, &url, subject, &file).run(path, &mut Tally::default(), observer)
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
                Transfer::new(&self.client, &url, subject, &file).run(&path, &mut tally, observer)?;
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
        let request = |_: &mut dyn PullObserver| self.client.describe(url, subject);
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
