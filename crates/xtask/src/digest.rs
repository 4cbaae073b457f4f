//! SHA-256 in lower-case hexadecimal.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

/// The digest of everything that was added to `hash`.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A writer that counts and hashes everything that it passes on.
pub(crate) struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// The inner writer, the number of bytes, and their digest.
    pub(crate) fn finish(self) -> (W, u64, String) {
        (self.inner, self.bytes, hex(self.hash))
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(part)?;
        self.hash.update(&part[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
