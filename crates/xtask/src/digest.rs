//! SHA-256 in hexadecimal.

use sha2::{Digest, Sha256};

/// The digest of everything that was added to `hash`, in lower-case hexadecimal.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
