//! Rules for prose: no archaic words in comments and documentation, and doc comments that open with a noun phrase or a
//! verb.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::SourceFile;
use super::module_cycles;

/// Words that engineers do not use, or that leave the subject open.
const ARCHAIC: [&str; 11] = [
    "whoever",
    "whom",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "anew",
    "shall",
    "beneath",
    "beside",
    "alike",
];
/// First words of a doc comment that hide the subject in a clause.
const OPENINGS: [&str; 5] = ["What", "Who", "Whether", "Where", "How"];
/// Texts of others, recorded data and generated files.
const FOREIGN: [&str; 6] =
    ["LICENSE", "Cargo.lock", "package-lock.json", "/captures/", "/data/", "/__fuzz__/"];
/// Folders and files that are not checked yet.
const PENDING: &[&str] = &["README.md", "config/", "crates/gateway/", "deploy/", "docs/"];

pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let is_pending = |file: &&SourceFile| PENDING.iter().any(|prefix| file.path.starts_with(prefix));
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| !is_pending(file)) {
        let prose = Prose::of(file);
        complaints.extend(prose.archaic.iter().map(|(number, word)| {
            format!("{}:{number}: `{word}`: name the subject, in the words of today", file.path)
        }));
        complaints.extend(prose.openings.iter().map(|number| {
            format!("{}:{number}: open the doc comment with a noun phrase or a verb", file.path)
        }));
    }
    complaints
}

/// Figures of the prose in a file or folder.
#[derive(Default)]
struct Prose {
    words: usize,
    archaic: Vec<(usize, String)>,
    doc_comments: usize,
    /// Lines of doc comments with a wrong opening.
    openings: Vec<usize>,
}

impl Prose {
    fn of(file: &SourceFile) -> Self {
        let mut prose = Self::default();
        if FOREIGN.iter().any(|part| file.path.contains(part)) {
            return prose;
        }
        let (mut in_code, mut mark_before) = (false, None);
        for (number, line) in file.lines() {
            let Some(text) = prose_of(file, line) else {
                mark_before = None;
                continue;
            };
            if text.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            if in_code {
                continue;
            }
            prose.count(number, text);
            let mut marks = ["///", "//!"].into_iter();
            let mark = marks.find(|mark| file.is_rust() && line.trim_start().starts_with(mark));
            if mark.is_some() && mark != mark_before {
                prose.doc_comments += 1;
                let first = text.trim_start_matches(['/', '!', ' ']).split([' ', ',']).next();
                if first.is_some_and(|first| OPENINGS.contains(&first)) {
                    prose.openings.push(number);
                }
            }
            mark_before = mark;
        }
        prose
    }

    fn count(&mut self, number: usize, text: &str) {
        let words = text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
        for word in words {
            self.words += 1;
            let word = word.to_lowercase();
            if ARCHAIC.contains(&word.as_str()) {
                self.archaic.push((number, word));
            }
        }
    }
}

/// The prose in a line: the comment in code, everything in Markdown.
fn prose_of<'a>(file: &SourceFile, line: &'a str) -> Option<&'a str> {
    let extension = file.name().rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        "md" | "txt" if !file.path.contains("requirements") => Some(line),
        "rs" | "mjs" => comment(line, "//")
            .filter(|comment| !comment.contains("://") || line.trim_start().starts_with("//")),
        "toml" | "yaml" | "yml" | "py" | "sh" | "service" | "tpl" | "" => comment(line, "#"),
        _ => None,
    }
}

/// The part of a line from the mark of a comment on.
fn comment<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    let start = line.trim_start();
    if start.starts_with(mark) {
        return Some(start);
    }
    let at = line.find(&format!(" {mark} "))?;
    Some(&line[at..])
}

/// A table of the figures for each crate and folder, and the module cycles.
pub(super) fn report(files: &[SourceFile]) -> String {
    let mut groups: BTreeMap<String, Prose> = BTreeMap::new();
    for file in files {
        let found = Prose::of(file);
        let parts: Vec<&str> = file.path.split('/').collect();
        let depth = if parts[0] == "crates" { 2 } else { 1 };
        let group = groups.entry(parts[..depth.min(parts.len())].join("/")).or_default();
        group.words += found.words;
        group.doc_comments += found.doc_comments;
        group.archaic.extend(found.archaic);
        group.openings.extend(found.openings);
    }
    let mut text = format!(
        "{:28} {:>8} {:>8} {:>11} {:>13} {:>9} {:>6}\n",
        "", "words", "archaic", "per 10,000", "doc comments", "openings", "share"
    );
    for (name, prose) in groups.iter().filter(|(_, prose)| prose.words > 0) {
        let _ = writeln!(
            text,
            "{name:28} {:>8} {:>8} {:>11.1} {:>13} {:>9} {:>5.1}%",
            prose.words,
            prose.archaic.len(),
            prose.archaic.len() as f64 * 1e4 / prose.words as f64,
            prose.doc_comments,
            prose.openings.len(),
            prose.openings.len() as f64 * 100.0 / prose.doc_comments.max(1) as f64
        );
    }
    for (_, cycle) in module_cycles::cycles(files) {
        let _ = writeln!(text, "{cycle}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    #[test]
    fn archaic_words_and_openings_are_found_in_prose_alone() {
        let word = ARCHAIC[2];
        let rust = format!(
            "//! A.\n/// Whether it is.\n///\n/// Where is fine here.\nfn f() {{ g(\"{word}\") }} // {word}!\n"
        );
        let markdown = format!("One {word}.\n```\n{word}\n```\n");
        let files = [
            file("crates/x/src/a.rs", &rust),
            file("crates/x/a.md", &markdown),
            file("crates/x/Cargo.toml", &format!("a = 1 # {word}\nb = \"{word}\"\n")),
            file("crates/x/data/b.md", word),
        ];
        let found: Vec<String> =
            check(&files).iter().map(|line| line.splitn(3, ": ").take(1).collect()).collect();
        assert_eq!(
            found,
            ["crates/x/src/a.rs:5", "crates/x/src/a.rs:2", "crates/x/a.md:1", "crates/x/Cargo.toml:1"]
        );
        assert!(report(&files).contains("crates/x "), "{}", report(&files));
    }
}
