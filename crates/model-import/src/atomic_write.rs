//! Files that appear under their final name only when they are complete.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use tempfile::NamedTempFile;

const PREFIX: &str = ".embedgate-";
const SUFFIX: &str = ".partial";

/// Creates a file in `root` that is removed when dropped, unless it has been renamed. Its mode is 0666 less the umask,
/// because the server may run as another user than the importer.
///
/// The file stays locked while its writer lives, so that [`remove_stale_temporaries`] can tell it from one that a
/// killed process left.
pub(crate) fn temporary(root: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    loop {
        let file = builder.tempfile_in(root)?;
        // Another process may have removed the file before it was locked; then a new one is created. On a file system
        // without locks, no process removes temporary files.
        if file.as_file().lock().is_err() || file.path().exists() {
            return Ok(file);
        }
    }
}

/// Writes a small file, replacing an earlier one.
pub(crate) fn write(root: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = temporary(root)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// Removes the temporary files in `root` that no process is writing. A killed process leaves its own behind, and each
/// has the size of the weights. A file that cannot be removed is left for the next import.
pub(crate) fn remove_stale_temporaries(root: &Path) {
    for path in fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Only regular files are opened: opening a named pipe could block without end.
        if name.starts_with(PREFIX)
            && name.ends_with(SUFFIX)
            && path.is_file()
            && let Ok(file) = fs::File::open(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
}
