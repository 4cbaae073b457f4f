//! Progress of a download, for a caller that shows it.

use std::time::Duration;

/// A step of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullProgress<'a> {
    /// Bytes of all files: those that are on this machine, and those that the model needs. The total is known from the
    /// start if the hub states sizes, otherwise it grows with each file.
    Bytes {
        /// The file that is being downloaded.
        file: &'a str,
        /// Bytes on this machine.
        done: u64,
        /// Bytes of all files.
        total: u64,
    },
    /// A complete file is being compared with its digest.
    Verifying {
        /// The file.
        file: &'a str,
    },
    /// Another process is downloading the file.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// A request failed and is repeated.
    Retrying {
        /// The file, or the hub's list of files.
        file: &'a str,
        /// The failure.
        reason: &'a str,
        /// Time until the next attempt.
        wait: Duration,
    },
}
