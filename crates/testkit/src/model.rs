//! Copies of model folders, so that a program may write next to a model without changing the checkout.

use std::fs;
use std::io;
use std::path::Path;

use crate::workspace::tiny_models;

/// Copies a tiny model of `model-import`'s tests, such as `bert-mean`, to `to`.
///
/// # Errors
/// There is no such model, or the copy fails.
pub fn copy_tiny(name: &str, to: &Path) -> io::Result<()> {
    copy_folder(&tiny_models().join(name), to)
}

/// Copies a folder with everything in it.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
