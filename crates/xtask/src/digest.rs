//! SHA-256 as lists of hashes write it.

use sha2::{Digest, Sha256};

/// The digest of all that `hash` was given, in lower-case hexadecimal.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
