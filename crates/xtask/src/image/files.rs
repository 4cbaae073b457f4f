//! What is in the image: how large each part is, what may be executed, and what nobody may change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::container::PROGRAM;
use super::engine::Engine;

/// What the image may take, unpacked. All but some 60 MB is the model.
const CEILING: u64 = 165_000_000;

/// The parts, by how the paths of their files begin; the rest is the image's own.
const PARTS: [(&str, &str); 5] = [
    ("/opt/embedgate/models/", "model"),
    ("/opt/embedgate/lib/", "ONNX Runtime, for models that our own kernels do not know"),
    ("/opt/embedgate/bin/", "program"),
    ("/opt/embedgate/", "licences, bill of materials, settings"),
    ("/usr/lib/", "libraries of C and C++"),
];

/// Prints the sizes and judges the files.
///
/// # Errors
/// It is too large, holds a second program, or somebody but root may change a file.
pub(super) fn check(engine: &Engine, image: &str) -> Result<()> {
    engine.mounted(image, |root| {
        let mut found = Found::default();
        found.walk(root, "")?;
        let total: u64 = found.sizes.values().sum();
        for (part, bytes) in &found.sizes {
            println!("{bytes:>13} bytes  {part}");
        }
        println!("{total:>13} bytes  in all; at most {CEILING}");
        found.judge(total)
    })
}

/// What a walk through an image's files finds.
#[derive(Default)]
struct Found {
    sizes: BTreeMap<&'static str, u64>,
    /// Files that are executable and no libraries.
    programs: Vec<String>,
    /// Files that others than root may change, or that lend root's rights.
    loose: Vec<String>,
}

impl Found {
    fn walk(&mut self, root: &Path, folder: &str) -> Result<()> {
        let at = root.join(folder.trim_start_matches('/'));
        let cannot = || format!("cannot list {}", at.display());
        for entry in fs::read_dir(&at).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            let meta = entry.metadata().with_context(cannot)?;
            if meta.is_dir() {
                self.walk(root, &path)?;
            }
            if meta.is_file() {
                self.file(&path, meta.len(), meta.permissions().mode());
            }
            // A link has no rights of its own.
            if !meta.is_symlink() && (meta.uid() != 0 || meta.permissions().mode() & 0o6022 != 0) {
                self.loose.push(path);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str, bytes: u64, mode: u32) {
        let part = PARTS.iter().find(|(start, _)| path.starts_with(start)).map_or("users", |(_, part)| part);
        *self.sizes.entry(part).or_default() += bytes;
        let name = path.rsplit('/').next().unwrap_or(path);
        if mode & 0o111 != 0 && !name.contains(".so") {
            self.programs.push(path.to_owned());
        }
    }

    fn judge(&self, total: u64) -> Result<()> {
        ensure!(self.programs == [PROGRAM], "it holds the programs {:?}", self.programs);
        ensure!(self.loose.is_empty(), "others than root may change {:?}", self.loose);
        ensure!(total <= CEILING, "{total} bytes are more than {CEILING}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of an image with one file beside the program.
    fn said(path: &str, mode: u32, bytes: u64) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (path, mode) in [(PROGRAM, 0o755), (path, mode)] {
            let at = folder.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(&at, "abc").unwrap();
            fs::set_permissions(&at, PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut found = Found::default();
        found.walk(folder.path(), "").unwrap();
        // Whoever runs the tests owns the files.
        let loose = std::mem::take(&mut found.loose);
        found.loose.extend(loose.into_iter().filter(|_| mode & 0o6022 != 0));
        let total = found.sizes.values().sum::<u64>();
        found.judge(total + bytes).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn shells_loose_rights_and_fat_are_found() {
        assert_eq!(said("/usr/lib/libc.so.6", 0o755, 0), "");
        assert!(said("/bin/sh", 0o755, 0).contains("\"/bin/sh\""));
        assert!(said("/etc/passwd", 0o666, 0).contains("others than root may change"));
        assert!(said("/usr/lib/a.so", 0o4755, 0).contains("others than root may change"));
        assert!(said("/etc/passwd", 0o644, CEILING).contains("are more than"));
    }
}
