//! Model folders from archives and other folders, for places without a network.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::EntryType;

use crate::{HubError, cache::create_parent, place};

/// Limits of an archive, which is untrusted input: a small one can unpack to any size.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveLimits {
    /// Number of files.
    pub max_files: usize,
    /// Bytes of all files.
    pub max_bytes: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self { max_files: 10_000, max_bytes: 64 << 30 }
    }
}

/// Unpacks `source` into the folder `target`: a `.tar`, `.tar.gz` or `.zip`, recognized by its content, or a folder,
/// which is copied. If everything in it is in one folder, this folder is left out. Files of `target` with other names
/// stay.
///
/// # Errors
/// [`HubError::Archive`] for an archive that is damaged, exceeds `limits`, leaves the folder or holds anything but
/// files and folders; [`HubError::Io`].
pub fn unpack(source: &Path, target: &Path, limits: ArchiveLimits) -> Result<(), HubError> {
    if source.is_dir() {
        let mut files = Vec::new();
        list(source, source, &mut files, limits)?;
        place::sort_description_last(&mut files);
        return files.iter().try_for_each(|file| place::copy(source, file, target));
    }
    create_parent(target)?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // In the target's folder, so that the files can be renamed.
    let scratch = tempfile::Builder::new().prefix(".embedgate-").tempdir_in(parent);
    let scratch = scratch.map_err(HubError::io("write to", parent))?;
    let mut unpacker = Unpacker { source, root: scratch.path(), limits, files: BTreeSet::new(), bytes: 0 };
    unpacker.unpack()?;
    let mut files: Vec<String> = unpacker.files.into_iter().collect();
    let top = common_folder(&files);
    if files.is_empty() {
        return Err(refused(source, "it holds no files"));
    }
    let inner = |file: &str| file[top.len()..].to_owned();
    files.sort_by_key(|file| inner(file) == "config.json");
    files.iter().try_for_each(|file| place::rename(&scratch.path().join(file), &target.join(inner(file))))
}

/// The state of unpacking.
struct Unpacker<'a> {
    source: &'a Path,
    root: &'a Path,
    limits: ArchiveLimits,
    files: BTreeSet<String>,
    bytes: u64,
}

impl Unpacker<'_> {
    fn unpack(&mut self) -> Result<(), HubError> {
        let read = || HubError::io("read", self.source);
        let mut file = File::open(self.source).map_err(read())?;
        let mut start = [0; 4];
        let length = file.read(&mut start).map_err(read())?;
        file.rewind().map_err(read())?;
        let file = io::BufReader::new(file);
        match &start[..length] {
            [0x1f, 0x8b, ..] => self.tar(MultiGzDecoder::new(file)),
            b"PK\x03\x04" => self.zip(file),
            _ => self.tar(file),
        }
    }

    fn tar(&mut self, content: impl Read) -> Result<(), HubError> {
        let source = self.source;
        let damaged =
            |error: io::Error| refused(source, &format!("it is no tar archive, or damaged ({error})"));
        let mut archive = tar::Archive::new(content);
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            match entry.header().entry_type() {
                EntryType::Directory | EntryType::XGlobalHeader => {}
                EntryType::Regular | EntryType::Continuous => {
                    let size = entry.size();
                    self.write(&name, &mut entry, size)?;
                }
                _ => return Err(refused(source, &format!("{name:?} is neither a file nor a folder"))),
            }
        }
        // The compressed stream ends with its checksum, after the archive's own end.
        let mut rest = archive.into_inner().take(self.limits.max_bytes);
        io::copy(&mut rest, &mut io::sink()).map_err(damaged).map(drop)
    }

    fn zip(&mut self, content: impl Read + Seek) -> Result<(), HubError> {
        let source = self.source;
        let damaged =
            |error: zip::result::ZipError| refused(source, &format!("it is a damaged zip archive ({error})"));
        let mut archive = zip::ZipArchive::new(content).map_err(damaged)?;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            if entry.is_symlink() {
                return Err(refused(source, &format!("{name:?} is neither a file nor a folder")));
            }
            if entry.is_file() {
                let size = entry.size();
                self.write(&name, &mut entry, size)?;
            }
        }
        Ok(())
    }

    /// Writes one file of `size` bytes below the root.
    fn write(&mut self, name: &str, content: &mut impl Read, size: u64) -> Result<(), HubError> {
        let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let leaves = name.starts_with('/') || parts.contains(&"..") || name.contains(['\\', ':', '\0']);
        if leaves || parts.is_empty() {
            return Err(refused(self.source, &format!("the path {name:?} leaves the folder")));
        }
        let relative = parts.join("/");
        let path = self.root.join(&relative);
        if !self.files.insert(relative) {
            return Err(refused(self.source, &format!("it holds {name:?} twice")));
        }
        if self.files.len() > self.limits.max_files {
            return Err(refused(self.source, &format!("it holds more than {} files", self.limits.max_files)));
        }
        create_parent(&path)?;
        let mut file = File::create_new(&path).map_err(HubError::io("write", &path))?;
        let room = self.limits.max_bytes - self.bytes;
        let written = io::copy(&mut content.take(room.saturating_add(1)), &mut file).map_err(|error| {
            refused(self.source, &format!("{name:?} is damaged, or cannot be written ({error})"))
        })?;
        if written > room {
            let max = self.limits.max_bytes;
            return Err(refused(self.source, &format!("its files take more than {max} bytes")));
        }
        if written != size {
            return Err(refused(
                self.source,
                &format!("{name:?} is damaged: it has {written} of {size} bytes"),
            ));
        }
        self.bytes += written;
        Ok(())
    }
}

/// Returns the first folder of all paths, with its slash, or nothing.
fn common_folder(files: &[String]) -> String {
    let first = files.first().and_then(|file| file.split_once('/')).map(|(folder, _)| format!("{folder}/"));
    // A module's folder is not the model's.
    first.filter(|top| files.iter().all(|file| file.starts_with(top.as_str()))).unwrap_or_default()
}

/// Collects the files below `folder`, hidden ones left out, by path relative to `root`.
fn list(root: &Path, folder: &Path, files: &mut Vec<String>, limits: ArchiveLimits) -> Result<(), HubError> {
    for entry in fs::read_dir(folder).map_err(HubError::io("read", folder))? {
        let entry = entry.map_err(HubError::io("read", folder))?;
        let path: PathBuf = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links are followed: a snapshot of a hub's cache consists of them.
        let kind = fs::metadata(&path).map_err(HubError::io("read", &path))?;
        if kind.is_dir() {
            list(root, &path, files, limits)?;
        } else if kind.is_file() {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            let relative = relative.to_str().ok_or_else(|| refused(&path, "its name is not UTF-8"))?;
            files.push(relative.replace('\\', "/"));
        } else {
            return Err(refused(&path, "it is neither a file nor a folder"));
        }
        if files.len() > limits.max_files {
            return Err(refused(root, &format!("it holds more than {} files", limits.max_files)));
        }
    }
    Ok(())
}

fn refused(path: &Path, reason: &str) -> HubError {
    HubError::Archive { path: path.to_owned(), reason: reason.to_owned() }
}
