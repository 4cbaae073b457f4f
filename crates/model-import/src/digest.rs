//! SHA-256 of files, read piece by piece.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Adds everything that `reader` yields to `digest`; `report` gets the size of each piece.
pub(crate) fn update(
    digest: &mut Sha256,
    reader: &mut impl Read,
    report: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                digest.update(&buffer[..read]);
                report(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the digest in lower-case hexadecimal.
pub(crate) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
