//! The house rules, checked by `cargo xtask tidy` and by this crate's own test.
//!
//! A rule is a function from the tree to complaints. Each complaint names the file, the line where there is
//! one, and what to do instead.

mod arrows;
mod docs;
mod promises;
mod source;

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::process::capture;
use crate::workspace::Workspace;

/// A tracked text file, or one that is about to be.
struct SourceFile {
    /// Relative to the root, with forward slashes.
    path: String,
    text: String,
}

impl SourceFile {
    /// Line numbers, from 1, with their text.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Prints every complaint; the exit code says whether there was one.
///
/// # Errors
/// The tree cannot be read.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let complaints = complaints(workspace)?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn complaints(workspace: &Workspace) -> Result<Vec<String>> {
    let files = files(workspace)?;
    let mut complaints = arrows::check(&files)?;
    complaints.extend(source::check(&files));
    complaints.extend(docs::check(&files, workspace.root()));
    complaints.extend(promises::check(&files, workspace.root()));
    Ok(complaints)
}

/// Everything that git tracks or would add; binary files are left out.
fn files(workspace: &Workspace) -> Result<Vec<SourceFile>> {
    let listed = capture(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(workspace.root()),
    )
    .context("the house rules are checked in a git checkout")?;
    let mut files = Vec::new();
    for path in listed.split_terminator('\0') {
        // A file that is tracked, but deleted and not yet committed, has no content to judge.
        let Ok(content) = fs::read(workspace.root().join(path)) else { continue };
        if let Ok(text) = String::from_utf8(content) {
            files.push(SourceFile { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let complaints = complaints(&Workspace::locate().unwrap()).unwrap();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }

    /// Runs one rule over made-up files.
    pub(super) fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.into() }
    }
}
