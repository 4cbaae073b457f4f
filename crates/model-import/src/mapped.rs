//! Memory maps of model files: the crate's only unsafe code.

use std::path::Path;

use memmap2::Mmap;

use crate::{ImportError, file};

/// Maps a file for reading; a missing file is reported with `hint`.
pub(crate) fn map(path: &Path, hint: &str) -> Result<Mmap, ImportError> {
    let file = file::open(path, hint)?;
    // SAFETY: the map is read-only and used as plain bytes, for which every value is valid. Another process could
    // change the file in place. If it truncates the file, an access raises SIGBUS and ends this process, as in any
    // program that maps model files. If it overwrites the file, the map yields the new bytes: other values, not other
    // code.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|source| ImportError::Read { path: path.to_owned(), source })
}
