//! The cache folder of Hugging Face's libraries.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{HubError, RepoRef, blob::BlobId, repo::is_commit};

/// Folder of lock files in a cache.
const LOCKS: &str = ".locks";

/// A cache folder, which other programs read and write, too.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Uses the cache in `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the cache folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of a model, if some of its files are in the cache at this revision. Reads no network.
    pub fn find(&self, repo: &RepoRef) -> Option<PathBuf> {
        let commit = self.commit(repo)?;
        Some(self.snapshot(repo, &commit)).filter(|folder| folder.is_dir())
    }

    /// Returns the models of the cache as `ORG/NAME` with their folders, sorted by name. Models without a file at the
    /// branch `main` are left out.
    pub fn list(&self) -> Vec<(String, PathBuf)> {
        let names = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let models = names.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (organization, name) = name.strip_prefix("models--")?.split_once("--")?;
            let repo: RepoRef = format!("{organization}/{name}").parse().ok()?;
            Some((repo.id().to_owned(), self.find(&repo)?))
        });
        let mut models: Vec<_> = models.collect();
        models.sort();
        models
    }

    /// Returns the commit that a revision stands for in this cache.
    fn commit(&self, repo: &RepoRef) -> Option<String> {
        if repo.is_commit() {
            return Some(repo.revision().to_owned());
        }
        let text = fs::read_to_string(self.model(repo).join("refs").join(repo.revision())).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    fn model(&self, repo: &RepoRef) -> PathBuf {
        self.root.join(folder_name(repo))
    }

    /// Returns the folder of a model's files at a commit.
    pub(crate) fn snapshot(&self, repo: &RepoRef, commit: &str) -> PathBuf {
        self.model(repo).join("snapshots").join(commit)
    }

    /// Returns the path of a blob.
    pub(crate) fn blob(&self, repo: &RepoRef, blob: &BlobId) -> PathBuf {
        self.model(repo).join("blobs").join(blob.name())
    }

    /// Returns the path of a blob's lock, which Hugging Face's libraries lock, too (`flock`).
    pub(crate) fn lock(&self, repo: &RepoRef, blob: &BlobId) -> PathBuf {
        self.root.join(LOCKS).join(folder_name(repo)).join(format!("{}.lock", blob.name()))
    }

    /// Makes the blob appear as `file` in the snapshot: as a symbolic link, or as a hard link or copy where links are
    /// not possible.
    pub(crate) fn link(
        &self,
        repo: &RepoRef,
        commit: &str,
        file: &str,
        blob: &BlobId,
    ) -> Result<(), HubError> {
        let path = self.snapshot(repo, commit).join(file);
        let target = self.blob(repo, blob);
        create_parent(&path)?;
        // Below `snapshots/COMMIT`, plus one folder for each in the file's name.
        let up = "../".repeat(2 + file.matches('/').count());
        let relative = PathBuf::from(format!("{up}blobs/{}", blob.name()));
        if fs::read_link(&path).is_ok_and(|link| link == relative) {
            return Ok(());
        }
        replace(&path, |temporary| {
            symlink(&relative, temporary)
                .or_else(|_| fs::hard_link(&target, temporary))
                .or_else(|_| fs::copy(&target, temporary).map(drop))
        })
    }

    /// Records the commit that a branch or tag stands for.
    pub(crate) fn set_commit(&self, repo: &RepoRef, commit: &str) -> Result<(), HubError> {
        if repo.is_commit() || self.commit(repo).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.model(repo).join("refs").join(repo.revision());
        create_parent(&path)?;
        replace(&path, |temporary| fs::File::create_new(temporary)?.write_all(commit.as_bytes()))
    }
}

/// `ORG/NAME` → `models--ORG--NAME`.
fn folder_name(repo: &RepoRef) -> String {
    format!("models--{}", repo.id().replace('/', "--"))
}

/// Creates the folder of a file.
pub(crate) fn create_parent(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(HubError::io("create the folder", folder))
}

/// Creates a file under a temporary name with `create`, then renames it to `path`.
pub(crate) fn replace(path: &Path, create: impl FnMut(&Path) -> io::Result<()>) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    let temporary = tempfile::Builder::new().prefix(".embedgate-").make_in(folder, create);
    let written = temporary.and_then(|file| Ok(file.persist(path)?));
    written.map(drop).map_err(HubError::io("write", path))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Windows allows links to administrators and developers only.
#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
