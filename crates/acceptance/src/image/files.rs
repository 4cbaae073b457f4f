//! The files of the image: sizes, programs and permissions.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::container::PROGRAM;
use super::engine::Engine;

/// Maximum size of the unpacked image. The model takes all but 75 MB.
const MAX_IMAGE_BYTES: u64 = 170_000_000;

/// Parts by path prefix; other files belong to the image itself.
const PARTS: [(&str, &str); 5] = [
    ("/opt/embedgate/models/", "model"),
    ("/opt/embedgate/lib/", "ONNX Runtime, for models without native kernels"),
    ("/opt/embedgate/bin/", "program"),
    ("/opt/embedgate/", "licenses, bill of materials, settings"),
    ("/usr/lib/", "libraries of C and C++"),
];

/// Prints the sizes and checks the files: size, a single program, and write permission for root only.
pub(super) fn check(engine: &Engine, image: &str) -> Result<()> {
    engine.mounted(image, |root| {
        let mut found = Inspection::default();
        found.walk(root, "")?;
        let total: u64 = found.sizes.values().sum();
        for (part, bytes) in &found.sizes {
            println!("{bytes:>13} bytes  {part}");
        }
        println!("{total:>13} bytes  in all; at most {MAX_IMAGE_BYTES}");
        found.judge(total)
    })
}

/// Findings of a walk through an image's files.
#[derive(Default)]
struct Inspection {
    sizes: BTreeMap<&'static str, u64>,
    /// Executable files except libraries.
    programs: Vec<String>,
    /// Files that users other than root may write, or that are setuid or setgid.
    writable: Vec<String>,
}

impl Inspection {
    fn walk(&mut self, root: &Path, folder: &str) -> Result<()> {
        for entry in testkit::files::list(&root.join(folder.trim_start_matches('/')))? {
            let path = format!("{folder}/{}", entry.file_name().unwrap_or_default().to_string_lossy());
            let meta = entry.symlink_metadata().with_context(|| format!("cannot inspect {path}"))?;
            if meta.is_dir() {
                self.walk(root, &path)?;
            }
            if meta.is_file() {
                self.file(&path, meta.len(), meta.permissions().mode());
            }
            // A link has no permissions of its own.
            if !meta.is_symlink() && (meta.uid() != 0 || meta.permissions().mode() & 0o6022 != 0) {
                self.writable.push(path);
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
        ensure!(self.programs == [PROGRAM], "it contains the programs {:?}", self.programs);
        ensure!(self.writable.is_empty(), "users other than root may write {:?}", self.writable);
        ensure!(total <= MAX_IMAGE_BYTES, "{total} bytes are more than {MAX_IMAGE_BYTES}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The error for an image with the program and one other file.
    fn error(path: &str, mode: u32, bytes: u64) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (path, mode) in [(PROGRAM, 0o755), (path, mode)] {
            let at = folder.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(&at, "abc").unwrap();
            fs::set_permissions(&at, PermissionsExt::from_mode(mode)).unwrap();
        }
        let mut found = Inspection::default();
        found.walk(folder.path(), "").unwrap();
        // The user that runs the tests owns the files.
        let writable = std::mem::take(&mut found.writable);
        found.writable.extend(writable.into_iter().filter(|_| mode & 0o6022 != 0));
        let total = found.sizes.values().sum::<u64>();
        found.judge(total + bytes).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn shells_permissions_and_size_are_checked() {
        assert_eq!(error("/usr/lib/libc.so.6", 0o755, 0), "");
        assert!(error("/bin/sh", 0o755, 0).contains("\"/bin/sh\""));
        assert!(error("/etc/passwd", 0o666, 0).contains("users other than root may write"));
        assert!(error("/usr/lib/a.so", 0o4755, 0).contains("users other than root may write"));
        assert!(error("/etc/passwd", 0o644, MAX_IMAGE_BYTES).contains("are more than"));
    }
}
