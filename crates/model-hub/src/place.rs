//! Putting a model's files into a folder, each complete when it appears.

use std::{fs, io, path::Path};

use crate::{
    HubError,
    cache::{create_parent, replace},
};

/// Copies `file`, a path relative to `source`, to the same path in `target`, where it replaces an earlier one.
pub(crate) fn copy(source: &Path, file: &str, target: &Path) -> Result<(), HubError> {
    let (from, to) = (source.join(file), target.join(file));
    create_parent(&to)?;
    replace(&to, |temporary| {
        let mut content = fs::File::open(&from)?;
        io::copy(&mut content, &mut fs::File::create_new(temporary)?).map(drop)
    })
}

/// Moves a file within a file system.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), HubError> {
    create_parent(to)?;
    fs::rename(from, to).map_err(HubError::io("write", to))
}

/// Sorts paths so that `config.json` is last: a folder without it is no model, so an incomplete folder cannot be
/// mistaken for a complete one.
pub(crate) fn sort_description_last<T: AsRef<str>>(files: &mut [T]) {
    files.sort_by_key(|file| file.as_ref() == "config.json");
}
