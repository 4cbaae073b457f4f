//! The hub's list of a model's files (`/api/models/ORG/NAME/revision/REVISION`).

use serde::Deserialize;

/// The answer of the hub, as far as it is used.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    /// The commit that the revision stands for.
    pub(crate) sha: String,
    #[serde(default)]
    pub(crate) siblings: Vec<ListedFile>,
}

/// A file of the repository. Mirrors leave out sizes and digests.
#[derive(Debug, Deserialize)]
pub(crate) struct ListedFile {
    #[serde(rename = "rfilename")]
    pub(crate) name: String,
    pub(crate) size: Option<u64>,
    #[serde(rename = "blobId")]
    pub(crate) blob_id: Option<String>,
    pub(crate) lfs: Option<ListedLfs>,
}

/// The content of a file that Git LFS stores.
#[derive(Debug, Deserialize)]
pub(crate) struct ListedLfs {
    pub(crate) sha256: Option<String>,
    pub(crate) size: Option<u64>,
}

impl ListedFile {
    /// Returns the size of the content, if stated.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.lfs.as_ref().and_then(|lfs| lfs.size).or(self.size)
    }

    /// Returns the digest of the content, if stated: SHA-256 of a large file, Git's SHA-1 of a small one.
    pub(crate) fn digest(&self) -> Option<&str> {
        match &self.lfs {
            Some(lfs) => lfs.sha256.as_deref(),
            None => self.blob_id.as_deref(),
        }
    }
}
