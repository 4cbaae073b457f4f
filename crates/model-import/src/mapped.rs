//! Memory maps of model files: the crate's only unsafe code.

use std::path::Path;

use memmap2::Mmap;

use crate::{ImportError, file};

/// Maps a file for reading; a missing file is reported with `hint`.
pub(crate) fn map(path: &Path, hint: &str) -> Result<Mmap, ImportError> {
    let file = file::open(path, hint)?;
    // SAFETY: the map is read-only and used as plain bytes, for which every value is valid. What cannot be ruled
    // out is another process that changes the file in place meanwhile. Shortened, it raises SIGBUS and ends the process, as
    // it would in any reader of model files; overwritten, it yields the new bytes: other values, not other code.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|source| ImportError::Read { path: path.to_owned(), source })
}
