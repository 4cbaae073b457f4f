//! Failures of downloads and of reading archives.

use std::{io, path::PathBuf};

use thiserror::Error;

/// A model that cannot be downloaded or unpacked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text names no model.
    #[error(
        "`{name}` is no name of a model on a hub: expected ORG/NAME or ORG/NAME@REVISION, such as BAAI/bge-m3"
    )]
    InvalidName {
        /// The text.
        name: String,
    },
    /// The address of the hub or of an archive is invalid.
    #[error("`{address}` is no address: expected one such as https://huggingface.co, without user and query")]
    InvalidAddress {
        /// The address, without its query.
        address: String,
    },
    /// The text is no digest.
    #[error("`{text}` is no SHA-256: expected 64 hexadecimal digits, as `sha256sum` prints")]
    InvalidDigest {
        /// The text.
        text: String,
    },
    /// Network access is switched off, and the model is not in the cache.
    #[error(
        "{repo} is not in the cache {}, and HF_HUB_OFFLINE forbids downloads: download it on a machine with network \
         access and copy the cache, or unset HF_HUB_OFFLINE",
        cache.display()
    )]
    Offline {
        /// The model.
        repo: String,
        /// The cache folder.
        cache: PathBuf,
    },
    /// The hub does not know the caller.
    #[error("{host} requires authentication for {repo} (401): {advice}")]
    Unauthorized {
        /// The model.
        repo: String,
        /// The hub.
        host: String,
        /// Remedy.
        advice: &'static str,
    },
    /// The model's owner has to grant access first.
    #[error(
        "{repo} is gated ({status}): accept its license at {endpoint}/{repo}, and set HF_TOKEN to an access token of \
         the account that accepted it"
    )]
    Gated {
        /// The model.
        repo: String,
        /// The hub's address.
        endpoint: String,
        /// The status of the response.
        status: u16,
    },
    /// The hub refuses access for another reason.
    #[error("{host} refuses access to {repo} (403{said}): check the permissions of the token in HF_TOKEN")]
    Forbidden {
        /// The model.
        repo: String,
        /// The hub.
        host: String,
        /// The hub's message, in the form `: message`, or nothing.
        said: String,
    },
    /// There is no such model.
    #[error("{host} has no model {repo} (404): check the name; for a private model, set HF_TOKEN")]
    NoModel {
        /// The model.
        repo: String,
        /// The hub.
        host: String,
    },
    /// There is no such revision.
    #[error("{repo} has no revision `{revision}` on {host} (404): name a branch, a tag or a commit")]
    NoRevision {
        /// The model.
        repo: String,
        /// The revision.
        revision: String,
        /// The hub.
        host: String,
    },
    /// The repository has no weights that embedgate reads.
    #[error(
        "{repo} has no weights that embedgate reads: expected model.safetensors, pytorch_model.bin or an ONNX graph \
         (model.onnx, onnx/model.onnx, or one named with --onnx-file); it holds {found}"
    )]
    NoWeights {
        /// The model.
        repo: String,
        /// Files of the repository that could be weights.
        found: String,
    },
    /// The hub asks for a longer wait than the limit.
    #[error(
        "{host} limits requests (429) and asks for a wait of {seconds} s: try again then; a token in HF_TOKEN raises \
         the limit"
    )]
    RateLimited {
        /// The hub.
        host: String,
        /// The wait.
        seconds: u64,
    },
    /// The hub answers with an unexpected status.
    #[error("{host} answered {status} for {file}{advice}")]
    Status {
        /// The host.
        host: String,
        /// The file.
        file: String,
        /// The status.
        status: u16,
        /// Remedy, in the form `: remedy`, or nothing.
        advice: &'static str,
    },
    /// All attempts failed.
    #[error(
        "cannot download {file} from {host}: {reason} ({attempts} attempts); what has arrived is kept, run it again \
         to resume"
    )]
    Transfer {
        /// The host.
        host: String,
        /// The file.
        file: String,
        /// The last failure.
        reason: String,
        /// Number of attempts without progress.
        attempts: u32,
    },
    /// The host answers in a way that the protocol does not allow.
    #[error("{host} does not answer like a model hub for {file}: {reason}; check HF_ENDPOINT")]
    Protocol {
        /// The host.
        host: String,
        /// The file.
        file: String,
        /// The deviation.
        reason: String,
    },
    /// The content differs from what was announced.
    #[error("{file} from {host} is damaged: expected the digest {expected}, got {found}; it was discarded")]
    Digest {
        /// The host.
        host: String,
        /// The file.
        file: String,
        /// The digest that the hub states.
        expected: String,
        /// The digest of the content.
        found: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Verb, such as `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An archive cannot be unpacked.
    #[error("cannot unpack {}: {reason}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The caller cancelled the download.
    #[error("the download was cancelled; what has arrived is kept")]
    Cancelled,
}

impl HubError {
    /// Returns a function that turns an error of the file system into a [`HubError::Io`].
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
