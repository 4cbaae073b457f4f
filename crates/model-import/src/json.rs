//! JSON files of a model folder, read with errors that name file and line.

use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{
    ImportError,
    file::{self, MAX_METADATA_BYTES},
};

/// Parses a file that describes a model; a missing one is reported with `hint`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, hint: &str) -> Result<T, ImportError> {
    let bytes = file::read(path, hint, MAX_METADATA_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|source| ImportError::Json { path: path.to_owned(), source })
}

/// Parses a file that may be absent.
pub(crate) fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImportError> {
    match read(path, "") {
        Err(ImportError::Missing { .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Returns `root/relative`, or an error if the path leaves the folder. A model folder is untrusted input and must not
/// make embedgate read other files (path traversal).
pub(crate) fn resolve_within(root: &Path, relative: &str, named_by: &Path) -> Result<PathBuf, ImportError> {
    if Path::new(relative).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(root.join(relative));
    }
    let (setting, expected) = (format!("the path `{relative}`"), "paths must stay inside the model folder");
    Err(ImportError::unsupported_setting(named_by, setting, expected))
}
