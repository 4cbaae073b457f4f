//! Files of a model folder. The folder is untrusted input, so a file must be a regular file, must not be a Git LFS
//! pointer, and must not exceed the limit for its kind.

use std::{
    fs::{self, File, FileType},
    io::{Read, Seek},
    path::Path,
};

use crate::ImportError;

/// Largest file that describes a model, in bytes. Most have some kilobytes; the index of a very large model's shards
/// has a few megabytes.
pub(crate) const MAX_METADATA_BYTES: u64 = 16 << 20;

/// Largest `tokenizer.json`, in bytes. Vocabularies of 260,000 tokens take up to 40 MB.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// The first line of a Git LFS pointer, which a checkout without Git LFS has in the place of each large file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Opens a file; a missing one is reported with `hint`.
pub(crate) fn open(path: &Path, hint: &str) -> Result<File, ImportError> {
    // Checked before opening, because opening a named pipe blocks until it has a writer.
    let kind = fs::metadata(path).map_err(ImportError::read(path, hint))?.file_type();
    if !kind.is_file() {
        return Err(ImportError::NotRegular { path: path.to_owned(), found: name(kind) });
    }
    let unreadable = |source| ImportError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(ImportError::read(path, hint))?;
    let mut start = Vec::with_capacity(LFS_POINTER.len());
    file.by_ref().take(LFS_POINTER.len() as u64).read_to_end(&mut start).map_err(unreadable)?;
    if start == LFS_POINTER {
        return Err(ImportError::LfsPointer { path: path.to_owned() });
    }
    file.rewind().map_err(unreadable)?;
    Ok(file)
}

/// Reads a whole file of up to `max` bytes; a missing one is reported with `hint`.
pub(crate) fn read(path: &Path, hint: &str, max: u64) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    // One more byte is requested, to tell a file that is too large from one of exactly `max` bytes.
    let read = open(path, hint)?.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > max {
        return Err(ImportError::TooLarge { path: path.to_owned(), max });
    }
    Ok(bytes)
}

fn name(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "of an unknown kind" }
}
