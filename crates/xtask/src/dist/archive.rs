//! Writes files into a compressed tar archive, the same bytes for the same content, or into a folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};
use testkit::files;

use super::contents::{Content, Entry};
use crate::digest::HashingWriter;

/// Modification time of every file: 1980-01-01 in seconds since 1970. Zip files and some tools cannot store an earlier
/// time.
const MODIFIED: u64 = 315_532_800;

/// A finished archive.
pub struct Archive {
    /// Its path.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// Writes `NAME.tar.gz` into `folder`, with everything in a folder NAME.
pub(super) fn write(entries: &[Entry], name: &str, folder: &Path) -> Result<Archive> {
    let path = folder.join(format!("{name}.tar.gz"));
    let at = || format!("cannot write {}", path.display());
    let file = HashingWriter::new(File::create(&path).with_context(at)?);
    // The compressor's header holds no name and no time.
    let mut archive = Builder::new(GzEncoder::new(BufWriter::new(file), Compression::default()));
    for folder in folders(entries) {
        let mut header = header(EntryType::Directory, 0o755, 0);
        archive.append_data(&mut header, format!("{name}/{folder}"), io::empty()).with_context(at)?;
    }
    for entry in entries {
        add(&mut archive, entry, name).with_context(|| format!("cannot pack {}", entry.path))?;
    }
    let compressor = archive.into_inner().with_context(at)?;
    let mut file = compressor.finish().with_context(at)?;
    file.flush().with_context(at)?;
    let (file, bytes, sha256) = file.into_inner().map_err(io::IntoInnerError::into_error)?.finish();
    file.sync_all().with_context(at)?;
    Ok(Archive { path, bytes, sha256 })
}

/// Writes the files into `folder`, which must be empty or missing.
pub(super) fn lay_out(entries: &[Entry], folder: &Path) -> Result<()> {
    files::create_folder(folder)?;
    ensure!(files::list(folder)?.is_empty(), "{} is not empty", folder.display());
    for inner in folders(entries) {
        let path = folder.join(inner);
        files::create_folder(&path)?;
        // Independent of the umask: the image is built from these.
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755))
            .with_context(|| format!("cannot set the permissions of {}", path.display()))?;
    }
    for entry in entries {
        let path = folder.join(&entry.path);
        place(entry, &path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The folders of the entries, each before its content; the first is the archive's own.
fn folders(entries: &[Entry]) -> BTreeSet<String> {
    let parents = entries.iter().flat_map(|entry| Path::new(&entry.path).ancestors().skip(1));
    parents.map(|folder| format!("{}/", folder.display()).trim_start_matches('/').to_owned()).collect()
}

fn add(archive: &mut Builder<impl Write>, entry: &Entry, name: &str) -> Result<()> {
    let path = format!("{name}/{}", entry.path);
    let mode = if entry.executable { 0o755 } else { 0o644 };
    match &entry.content {
        Content::Link(to) => {
            let mut header = header(EntryType::Symlink, 0o777, 0);
            archive.append_link(&mut header, path, to)?;
        }
        Content::Text(text) => {
            let mut header = header(EntryType::Regular, mode, text.len() as u64);
            archive.append_data(&mut header, path, text.as_bytes())?;
        }
        Content::File(from) => {
            let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
            let bytes = file.metadata()?.len();
            // A file that grows while it is read must not overwrite the next entry.
            archive.append_data(&mut header(EntryType::Regular, mode, bytes), path, file.take(bytes))?;
        }
    }
    Ok(())
}

fn header(kind: EntryType, mode: u32, bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_mtime(MODIFIED);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn place(entry: &Entry, path: &Path) -> Result<()> {
    match &entry.content {
        Content::Link(to) => return Ok(symlink(to, path)?),
        Content::Text(text) => fs::write(path, text)?,
        Content::File(from) => drop(fs::copy(from, path)?),
    }
    let mode = if entry.executable { 0o755 } else { 0o644 };
    Ok(fs::set_permissions(path, PermissionsExt::from_mode(mode))?)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use flate2::read::GzDecoder;

    use super::*;

    /// Writes a program to `folder`; returns entries for it, a link and a text.
    fn entries(folder: &Path) -> Vec<Entry> {
        let program = folder.join("program");
        fs::write(&program, "code").unwrap();
        let entry = |path: &str, content| Entry { path: path.into(), content, executable: false };
        vec![
            Entry { executable: true, ..entry("bin/a", Content::File(program)) },
            entry("lib/l.so", Content::Link("l.so.1".into())),
            entry("read me", Content::Text("words".into())),
        ]
    }

    #[test]
    fn archives_of_the_same_content_are_identical() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        let entries = entries(folder.path());
        let write = || write(&entries, "x-1", folder.path()).unwrap();
        let first = write();
        let bytes = fs::read(&first.path).unwrap();

        let other_day = SystemTime::now() - Duration::from_secs(1_000_000);
        File::options().write(true).open(&program).unwrap().set_modified(other_day).unwrap();
        let second = write();
        assert_eq!(fs::read(&second.path).unwrap(), bytes);
        assert_eq!((&first.sha256, first.bytes), (&second.sha256, bytes.len() as u64));

        fs::write(&program, "edoc").unwrap();
        assert_ne!(write().sha256, first.sha256);
    }

    #[test]
    fn an_archive_contains_folders_modes_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let archive = write(&entries(folder.path()), "x-1", folder.path()).unwrap();
        let mut found = Vec::new();
        for entry in tar::Archive::new(GzDecoder::new(File::open(archive.path).unwrap())).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let header = entry.header();
            assert_eq!(
                (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()),
                (MODIFIED, 0, 0)
            );
            let path = entry.path().unwrap().display().to_string();
            found.push((path, header.mode().unwrap(), link.unwrap_or(content)));
        }
        let expected = [
            ("x-1/", 0o755, ""),
            ("x-1/bin/", 0o755, ""),
            ("x-1/lib/", 0o755, ""),
            ("x-1/bin/a", 0o755, "code"),
            ("x-1/lib/l.so", 0o777, "l.so.1"),
            ("x-1/read me", 0o644, "words"),
        ];
        assert_eq!(found, expected.map(|(path, mode, content)| (path.to_owned(), mode, content.to_owned())));
    }

    #[test]
    fn files_are_written_to_an_empty_folder_only() {
        let folder = tempfile::tempdir().unwrap();
        let (entries, to) = (entries(folder.path()), folder.path().join("to/here"));
        lay_out(&entries, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("bin/a")).unwrap(), "code");
        assert_eq!(fs::read_link(to.join("lib/l.so")).unwrap(), Path::new("l.so.1"));
        assert!(lay_out(&entries, &to).unwrap_err().to_string().ends_with("is not empty"));
    }
}
