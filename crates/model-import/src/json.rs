//! Reading the folder's JSON files, with errors that name file and line.

use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{
    ImportError,
    file::{self, MAX_METADATA_BYTES},
};

/// Parses a file that describes a model; a missing one is reported with `hint`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, hint: &str) -> Result<T, ImportError> {
    read_up_to(path, hint, MAX_METADATA_BYTES)
}

/// Parses a file of up to `max` bytes.
pub(crate) fn read_up_to<T: DeserializeOwned>(path: &Path, hint: &str, max: u64) -> Result<T, ImportError> {
    let bytes = file::read(path, hint, max)?;
    serde_json::from_slice(&bytes).map_err(|source| ImportError::Json { path: path.to_owned(), source })
}

/// Parses a file that may be absent.
pub(crate) fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImportError> {
    match read(path, "") {
        Err(ImportError::Missing { .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// `root/relative`, refused when it would leave the folder: a model is data and must not choose our files.
pub(crate) fn inside(root: &Path, relative: &str, named_by: &Path) -> Result<PathBuf, ImportError> {
    if Path::new(relative).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(root.join(relative));
    }
    Err(ImportError::Setting {
        path: named_by.to_owned(),
        setting: format!("the path `{relative}`"),
        expected: "paths must stay inside the model folder".to_owned(),
    })
}
