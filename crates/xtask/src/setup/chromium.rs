//! A Chromium for the checks of the page at `/`: the machine's own, or Debian's package.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use testkit::process::capture;

use super::apt;

/// Names of the program. Debian's and Fedora's have none but the first.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
/// The browser, and the font that the page names first: with it, screenshots are the same on every machine.
const PACKAGES: [&str; 2] = ["chromium", "fonts-inter"];
const HINT: &str = "no browser for the checks of the page: install chromium";

/// Returns the path of a Chromium that starts.
///
/// # Errors
/// There is none, and Debian's package cannot be installed.
pub fn install() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    apt::install(&PACKAGES).context(HINT)?;
    match find() {
        Some(found) => Ok(found),
        None => bail!(HINT),
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates =
        NAMES.iter().flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    candidates.find(|candidate| runs(candidate))
}

fn runs(browser: &Path) -> bool {
    browser.is_file() && capture(Command::new(browser).arg("--version")).is_ok()
}
