//! The fingerprint of a model: one digest over everything that decides its vectors.

use std::{fs, path::Path, time::UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::{
    ImportError, ImportProgress, ImportStage, ModelFolder, atomic_write, digest,
    file::{self, MAX_METADATA_BYTES},
};

/// Part of every digest. To be increased when the exporter writes another graph for the same folder.
const EXPORTER: &str = "embedgate graph 1";

/// The cache of the digest in the model folder, with the stamp of the files that it was computed from.
const CACHE_FILE: &str = "embedgate.fingerprint";

/// Returns the hexadecimal SHA-256 over weights, tokenizer, configuration and exporter version: equal fingerprints give
/// equal vectors.
///
/// The digest is cached in the folder, so that a later start does not read all weights. If the folder is read-only, it
/// is computed each time.
///
/// # Errors
/// A file that cannot be read.
pub fn fingerprint(
    folder: &ModelFolder,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<String, ImportError> {
    let (path, stamp) = (folder.root().join(CACHE_FILE), stamp(folder)?);
    // An unusable cache file is not an error: the digest is computed again.
    let cached = file::read(&path, "", MAX_METADATA_BYTES).unwrap_or_default();
    if let Some((fingerprint, of)) = str::from_utf8(&cached).unwrap_or_default().split_once('\n')
        && of == stamp
    {
        return Ok(fingerprint.to_owned());
    }
    let fingerprint = compute(folder, progress)?;
    // Model folders are often read-only, above all in containers. Then only the time of the next start suffers.
    let _ = atomic_write::write(folder.root(), &path, &format!("{fingerprint}\n{stamp}"));
    Ok(fingerprint)
}

/// Returns the exporter's version and the properties that a manifest can state instead of the folder's files.
fn header(folder: &ModelFolder) -> String {
    let poolings: Vec<_> = folder.head().poolings.iter().map(|mode| format!("{mode:?}")).collect();
    format!("{EXPORTER}\n{} {} {}", folder.max_input_tokens(), poolings.join("+"), folder.normalize())
}

/// Computes the SHA-256 over the header and the name, size and content of each file.
pub(crate) fn compute(
    folder: &ModelFolder,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<String, ImportError> {
    let (root, files) = (folder.root(), &folder.files);
    let mut total = 0;
    for path in files {
        total += fs::metadata(path).map_err(ImportError::read(path, "it is part of the model"))?.len();
    }
    let mut digest = Sha256::new();
    digest.update(header(folder));
    let mut done = 0;
    for path in files {
        let mut file = file::open(path, "it is part of the model")?;
        let size = file.metadata().map_err(ImportError::read(path, ""))?.len();
        // The size and the NUL delimit the fields: no two different folders yield the same bytes.
        digest.update(format!("\n{}\0{size}\0", relative(root, path)));
        let mut report = |bytes| {
            done += bytes;
            progress(ImportProgress { stage: ImportStage::Checking, done, total });
        };
        digest::update(&mut digest, &mut file, &mut report).map_err(ImportError::read(path, ""))?;
    }
    Ok(digest::hex(digest))
}

/// Returns the header, and name, size and modification time of each file. If the stamp is unchanged, the weights need
/// not be read again.
pub(crate) fn stamp(folder: &ModelFolder) -> Result<String, ImportError> {
    let mut stamp = header(folder);
    for path in &folder.files {
        let metadata = fs::metadata(path).map_err(ImportError::read(path, "it is part of the model"))?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.unwrap_or_default().as_nanos();
        stamp += &format!("\n{} {} {modified}", relative(folder.root(), path), metadata.len());
    }
    Ok(stamp)
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}
