//! The identity of a model: one digest over everything that decides its vectors.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
    time::UNIX_EPOCH,
};

use sha2::{Digest, Sha256};

use crate::{
    ImportError, ImportProgress, ImportStage, ModelFolder,
    file::{self, MAX_METADATA_BYTES},
    import::temporary,
};

/// Part of every digest; raise it when the exporter writes another graph for the same folder.
const EXPORTER: &str = "embedgate graph 1";

/// Where a digest is remembered, with the stamp of the files that it was computed from.
const FILE: &str = "embedgate.fingerprint";

/// Hexadecimal SHA-256 over weights, tokenizer, configuration and exporter version: equal fingerprints give equal
/// vectors. Remembered in the folder, so that a start need not read all weights; where the folder cannot be
/// written, they are read each time.
///
/// # Errors
/// A file that cannot be read.
pub fn fingerprint(
    folder: &ModelFolder,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<String, ImportError> {
    let (path, stamp) = (folder.root().join(FILE), stamp(folder)?);
    // A cached digest that cannot be used is no error: the digest is computed again.
    let known = file::read(&path, "", MAX_METADATA_BYTES).unwrap_or_default();
    if let Some((fingerprint, of)) = str::from_utf8(&known).unwrap_or_default().split_once('\n')
        && of == stamp
    {
        return Ok(fingerprint.to_owned());
    }
    let fingerprint = compute(folder, progress)?;
    // Model folders are often read-only, in containers above all; that costs time at each start and nothing else.
    let _ = remember(folder.root(), &path, &format!("{fingerprint}\n{stamp}"));
    Ok(fingerprint)
}

fn remember(root: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = temporary(root)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// The exporter's version, and what a manifest may have said in the place of the folder's files.
fn preamble(folder: &ModelFolder) -> String {
    format!("{EXPORTER}\n{} {:?} {}", folder.max_input_tokens(), folder.pooling(), folder.normalize())
}

/// Hexadecimal SHA-256 over the exporter's version, window and head, and name, size and content of each file.
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
    digest.update(preamble(folder));
    let mut done = 0;
    for path in files {
        let mut file = file::open(path, "it is part of the model")?;
        let size = file.metadata().map_err(ImportError::read(path, ""))?.len();
        // Length and terminator keep neighbours apart: no two different folders yield the same run of bytes.
        digest.update(format!("\n{}\0{size}\0", relative(root, path)));
        let mut report = |bytes| {
            done += bytes;
            progress(ImportProgress { stage: ImportStage::Checking, done, total });
        };
        copy(&mut file, &mut digest, &mut report).map_err(ImportError::read(path, ""))?;
    }
    Ok(hex(digest))
}

/// Name, size and time of change of each file: equal stamps mean that nothing was touched, so that a start need
/// not read the weights again.
pub(crate) fn stamp(folder: &ModelFolder) -> Result<String, ImportError> {
    let mut stamp = preamble(folder);
    for path in &folder.files {
        let metadata = fs::metadata(path).map_err(ImportError::read(path, "it is part of the model"))?;
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let changed = changed.unwrap_or_default().as_nanos();
        stamp += &format!("\n{} {} {changed}", relative(folder.root(), path), metadata.len());
    }
    Ok(stamp)
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// Feeds a reader to a digest, a mebibyte at a time; `report` is told each piece's size.
pub(crate) fn copy(
    reader: &mut impl Read,
    digest: &mut Sha256,
    report: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
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

/// The digest in lower-case hexadecimal.
pub(crate) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
