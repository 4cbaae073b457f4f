//! Single files from a wheel: fetched by pip, checked by SHA-256, put in place by a rename.

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
use testkit::workspace::Workspace;

/// pip's options for the one Python whose wheels are pinned.
const PYTHON_TAGS: &[&str] = &["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"];

/// A wheel in the package index.
pub(super) struct Wheel<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    /// Platform tag; `None` for a wheel that is the same on all platforms.
    pub(super) platform_tag: Option<&'a str>,
    /// Lower-case hex.
    pub(super) sha256: &'a str,
    pub(super) bytes: u64,
}

/// A file in a wheel and its destination.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) target: PathBuf,
    /// Lower-case hex.
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// Mismatch between a file and its pinned length and hash.
#[derive(Debug, PartialEq)]
enum Mismatch {
    Missing,
    Length(u64),
    Hash(String),
}

/// Puts every member at its target, except those that already have the pinned hash.
pub(super) fn install(
    workspace: &Workspace,
    python: &Python<'_>,
    wheel: &Wheel<'_>,
    members: &[Member],
) -> Result<()> {
    let mut wanted = Vec::new();
    for member in members {
        match mismatch(&member.target, member.bytes, &member.sha256)? {
            None => continue,
            Some(Mismatch::Missing) => {}
            Some(found) => {
                let path = workspace.display(&member.target);
                eprintln!("{path} is damaged ({}); fetching it again", found.describe(member.bytes));
            }
        }
        wanted.push(member);
    }
    if wanted.is_empty() {
        return Ok(());
    }

    // On the same disk as the targets, and emptied first: remains of an interrupted run are useless.
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

/// Downloads the wheel into `scratch` and checks it. If it differs, the second attempt bypasses pip's cache.
fn fetch(python: &Python<'_>, wheel: &Wheel<'_>, scratch: &Path) -> Result<PathBuf> {
    let mut last = None;
    for cache in [&[][..], &["--no-cache-dir"]] {
        remove(scratch)?;
        fs::create_dir_all(scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        download(python, wheel, scratch, cache)?;
        let file = only_wheel(scratch)?;
        let Some(found) = mismatch(&file, wheel.bytes, wheel.sha256)? else { return Ok(file) };
        last = Some(found);
    }
    let found = last.map_or_else(String::new, |found| found.describe(wheel.bytes));
    bail!(
        "twice, the package index gave another file than the pinned {} {} ({found}; pinned sha256 {})",
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
        .args(wheel.platform_tag.iter().flat_map(|tag| ["--platform", tag]))
        .args(if wheel.platform_tag.is_some() { PYTHON_TAGS } else { &[] })
        .arg("--dest")
        .arg(scratch)
        .arg(format!("{}=={}", wheel.package, wheel.version))
        // pip collects the file here before it moves it; the progress bar reads its size.
        .env("TMPDIR", scratch);

    let begun = Instant::now();
    let bar = progress_bar(&what, wheel.bytes);
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bar.set_position(size_below(scratch).min(wheel.bytes));
                thread::sleep(Duration::from_millis(100));
            }
        });
        let result = testkit::process::capture(&mut pip);
        done.store(true, Ordering::Relaxed);
        result
    });
    bar.finish_and_clear();
    result.with_context(|| format!("cannot fetch {what} with pip, whose own settings say from where"))?;
    eprintln!("fetched {what}: {:.1} MB in {:.1} s", megabytes(wheel.bytes), begun.elapsed().as_secs_f64());
    Ok(())
}

/// A progress bar on a terminal; elsewhere one line.
fn progress_bar(what: &str, bytes: u64) -> ProgressBar {
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

/// Bytes of all files below `folder`. pip may remove some of them at the same time; those count 0.
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

/// Writes next to the target under a temporary name, hashing on the way, and renames if the hash matches.
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

/// Compares a file with its pinned length and hash; `None` if both match.
fn mismatch(path: &Path, bytes: u64, sha256: &str) -> Result<Option<Mismatch>> {
    let length = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Mismatch::Missing)),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if length != bytes {
        return Ok(Some(Mismatch::Length(length)));
    }
    let (_, found) = copy_hashed(&mut open(path)?, &mut io::sink())
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok((found != sha256).then_some(Mismatch::Hash(found)))
}

impl Mismatch {
    fn describe(&self, bytes: u64) -> String {
        match self {
            Self::Missing => "it is missing".into(),
            Self::Length(length) => format!("{length} bytes instead of {bytes}"),
            Self::Hash(found) => format!("its sha256 is {found}"),
        }
    }
}

/// Copies to the end; returns the count and the lower-case hex SHA-256.
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

/// Removes a file or a folder with its content, if present.
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
    fn a_file_matches_by_length_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        assert_eq!(mismatch(&path, 3, ABC).unwrap(), Some(Mismatch::Missing));
        fs::write(&path, "abc").unwrap();
        assert_eq!(mismatch(&path, 3, ABC).unwrap(), None);
        fs::write(&path, "ab").unwrap();
        assert_eq!(mismatch(&path, 3, ABC).unwrap(), Some(Mismatch::Length(2)));
        fs::write(&path, "abd").unwrap();
        assert!(matches!(mismatch(&path, 3, ABC).unwrap(), Some(Mismatch::Hash(found)) if found != ABC));
    }

    #[test]
    fn a_member_is_placed_completely_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let member = member(folder.path());
        let error = place(&b"abd"[..], &member).unwrap_err();
        assert!(error.to_string().contains("a/abc in the wheel has 3 bytes"), "{error}");
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 0, "no partial file remains");
        place(&b"abc"[..], &member).unwrap();
        assert_eq!(fs::read_to_string(&member.target).unwrap(), "abc");
    }

    #[test]
    fn sizes_include_subfolders() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pip-unpack")).unwrap();
        fs::write(folder.path().join("pip-unpack/part"), "12345").unwrap();
        fs::write(folder.path().join("whole"), "123").unwrap();
        assert_eq!(size_below(folder.path()), 8);
    }
}
