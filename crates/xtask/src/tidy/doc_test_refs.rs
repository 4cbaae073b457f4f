//! Rule for guarantees in the documentation: the referenced tests exist.
//!
//! A table whose last column is called `test` lists guarantees. Code in that column is a command of this program, a
//! path, or the name of a test.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser;

use super::SourceFile;
use crate::Cli;

/// The heading of the last column of such a table.
const HEAD: &str = "test";
/// Maximum number of attributes between `#[test]` and the function.
const MAX_ATTRIBUTES: usize = 4;

pub(super) fn check(files: &[SourceFile], root: &Path) -> Vec<String> {
    let tests: BTreeSet<&str> = files.iter().filter(|file| file.is_rust()).flat_map(tests).collect();
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("docs/") && file.path.ends_with(".md")) {
        for (number, cell) in references(file) {
            let mut complain = |what: String| complaints.push(format!("{}:{number}: {what}", file.path));
            if cell.is_empty() {
                complain("a guarantee without a test".into());
            }
            for name in cell.split('`').skip(1).step_by(2) {
                if !exists(name, &tests, root) {
                    complain(format!("there is no test, no file and no command `{name}`"));
                }
            }
        }
    }
    complaints
}

fn exists(name: &str, tests: &BTreeSet<&str>, root: &Path) -> bool {
    if name.starts_with("cargo xtask ") {
        let words = name.split(' ').skip(1);
        return Cli::try_parse_from(words).is_ok();
    }
    if name.contains('/') { root.join(name).exists() } else { tests.contains(name) }
}

/// Line number and last cell of every row of a table of guarantees.
fn references(file: &SourceFile) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut is_guarantees = None;
    for (number, line) in file.lines() {
        let Some(row) = line.trim().strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
            is_guarantees = None;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or(row).trim();
        match is_guarantees {
            None => is_guarantees = Some(last == HEAD),
            Some(true) if !last.starts_with("---") => found.push((number, last)),
            Some(_) => {}
        }
    }
    found
}

/// The names of a file's test functions.
fn tests(file: &SourceFile) -> Vec<&str> {
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let mut names = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((_, rest)) = line.split_once("fn ").filter(|_| !line.starts_with("//")) else { continue };
        let above = &lines[index.saturating_sub(MAX_ATTRIBUTES)..index];
        let mut attributes = above.iter().rev().take_while(|line| line.starts_with("#["));
        if attributes.any(|line| line.contains("test]")) {
            names.extend(rest.split(['(', '<']).next());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    #[test]
    fn a_guarantee_without_its_test_is_found() {
        let code = "#[test]\nfn it_holds() {}\n#[actix_web::test]\n#[cfg(unix)]\nasync fn it_waits() {}\n\
                    fn no_test() {}\n";
        let page = "| guarantee | test |\n|---|---|\n| a | `it_holds`, `it_waits` |\n| b | `it_broke` |\n\
                    | c | `no_test` |\n| d | |\n| e | `cargo xtask stress faults`, `docs/x.md` |\n\
                    | f | `cargo xtask pray` |\n| g | `docs/y.md` |\n\n| other | what |\n|---|---|\n\
                    | h | `anything` |\n";
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("docs")).unwrap();
        std::fs::write(folder.path().join("docs/x.md"), "").unwrap();
        let found = check(&[file("crates/a.rs", code), file("docs/x.md", page)], folder.path());
        let missing = |line: usize, name: &str| {
            format!("docs/x.md:{line}: there is no test, no file and no command `{name}`")
        };
        assert_eq!(
            found,
            [
                missing(4, "it_broke"),
                missing(5, "no_test"),
                "docs/x.md:6: a guarantee without a test".to_owned(),
                missing(8, "cargo xtask pray"),
                missing(9, "docs/y.md"),
            ]
        );
    }
}
