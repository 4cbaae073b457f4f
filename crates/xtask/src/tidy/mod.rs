//! The project's rules, checked by `cargo xtask tidy` and by this crate's test.
//!
//! A rule is a function from the tree to complaints. Each complaint names the file, the line if there is one, and the
//! remedy.

mod commits;
mod crate_deps;
mod doc_test_refs;
mod docs;
mod language;
mod module_cycles;
mod rust_code;
mod source;
mod type_names;

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use testkit::process::capture;
use testkit::workspace::Workspace;

/// A text file that git tracks or would add.
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

    /// Name of the crate in whose `src` the file is.
    fn crate_name(&self) -> Option<&str> {
        let (name, rest) = self.path.strip_prefix("crates/")?.split_once('/')?;
        rest.starts_with("src/").then_some(name)
    }
}

/// Prints all complaints; the exit code is 0 if there is none.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let complaints = complaints(workspace)?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn complaints(workspace: &Workspace) -> Result<Vec<String>> {
    let files = files(workspace)?;
    let mut complaints = crate_deps::check(&files)?;
    complaints.extend(source::check(&files));
    complaints.extend(docs::check(&files, workspace.root()));
    complaints.extend(doc_test_refs::check(&files, workspace.root()));
    complaints.extend(language::check(&files));
    complaints.extend(module_cycles::check(&files));
    complaints.extend(type_names::check(&files));
    complaints.extend(commits::check(workspace.root()));
    Ok(complaints)
}

/// All files that git tracks or would add, except those that are not UTF-8.
fn files(workspace: &Workspace) -> Result<Vec<SourceFile>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed =
        capture(git.current_dir(workspace.root())).context("the project's rules need a git checkout")?;
    let mut files = Vec::new();
    for path in listed.split_terminator('\0') {
        // A tracked file may be deleted and not yet committed.
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

    /// A file for the tests of a rule.
    pub(super) fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.into() }
    }
}
