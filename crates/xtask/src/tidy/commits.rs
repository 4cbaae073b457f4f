//! Rule for the history: subjects of commits have at most 72 characters.

use std::path::Path;
use std::process::Command;

use testkit::process::capture;

/// The last commit before the rule.
const BASE: &str = "e0eb339a2acebcecb59b4a900c78349d0984ff5c";
/// Commits with longer subjects that were merged while the rule was introduced.
const EXEMPT: [&str; 3] = [
    "060d56d2cd758fbfdff9e34956efe703ea1bcaed",
    "3d742032188da996f8ca5a96fa108ffca7f2dd58",
    "a1fe4b952f8cd47f2b60f42541bd8ac365900cf4",
];
/// Maximum length of a subject, so that `git log --oneline` fits a terminal.
const MAX_SUBJECT: usize = 72;

pub(super) fn check(root: &Path) -> Vec<String> {
    let mut git = Command::new("git");
    git.args(["log", "--no-merges", "--format=%H %s", &format!("{BASE}..HEAD")]).current_dir(root);
    match capture(&mut git) {
        Ok(log) => too_long(&log),
        Err(_) => {
            println!("commit subjects are not checked: this clone does not contain commit {BASE}");
            Vec::new()
        }
    }
}

fn too_long(log: &str) -> Vec<String> {
    let commits = log.lines().filter_map(|line| line.split_once(' '));
    commits
        .map(|(id, subject)| (id, subject, subject.chars().count()))
        .filter(|(id, _, length)| *length > MAX_SUBJECT && !EXEMPT.contains(id))
        .map(|(id, subject, length)| {
            format!("commit {id}: the subject has {length} characters, at most {MAX_SUBJECT}: {subject}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_subjects_are_found() {
        let fits = "x".repeat(MAX_SUBJECT);
        assert_eq!(too_long(&format!("abc {fits}\ndef y\n")), Vec::<String>::new());
        assert!(too_long(&format!("abc {fits}é\n"))[0].contains("has 73 characters"));
        // A folder without the history is not an error.
        assert_eq!(check(tempfile::tempdir().unwrap().path()), Vec::<String>::new());
    }
}
