//! Models from a hub that speaks the Hugging Face hub's protocol, from archives and from folders.
//!
//! [`Hub::pull`] downloads the files of a model that embedgate needs, and no others, into the hub's cache folder in the
//! layout of Hugging Face's own libraries, so that each finds what the other has downloaded:
//!
//! ```text
//! CACHE/models--ORG--NAME/refs/main                  the commit of a branch, written last
//! CACHE/models--ORG--NAME/snapshots/COMMIT/FILE  ──▶ ../../blobs/DIGEST
//! CACHE/models--ORG--NAME/blobs/DIGEST               complete and verified
//! CACHE/models--ORG--NAME/blobs/DIGEST.incomplete    resumed by the next attempt
//! CACHE/.locks/models--ORG--NAME/DIGEST.lock         held by the process that downloads
//! ```
//!
//! * A file appears under its final name only when its digest is the hub's: Git's SHA-1 for a small file, SHA-256 for a
//!   large one.
//! * A broken or stalled download is resumed, a failed request is repeated, both within limits ([`RetryPolicy`]).
//! * The access token is sent to the hub's own host alone, and appears in no error.
//!
//! [`unpack`] and [`Hub::fetch_archive`] are for places without a hub. This crate reads no environment variable: its
//! caller passes [`HubSettings`].
#![deny(missing_docs)]

mod archive;
mod blob;
mod cache;
mod client;
mod error;
mod file_set;
mod hub;
mod listing;
mod place;
mod progress;
mod repo;
mod retry;
mod roots;
mod transfer;

pub use archive::{ArchiveLimits, unpack};
pub use cache::Cache;
pub use client::{PullObserver, check_address};
pub use error::HubError;
pub use hub::{Hub, HubSettings, PulledModel};
pub use progress::PullProgress;
pub use repo::RepoRef;
pub use retry::RetryPolicy;
pub use roots::tls_config;
pub use transfer::verify_sha256;
pub use ureq::{Proxy, ProxyProtocol};
