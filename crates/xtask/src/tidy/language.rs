//! Rules for prose: no archaic words in comments and documentation, and doc comments that open with a noun phrase or a
//! verb.

use super::SourceFile;

/// Archaic words, and indefinite persons, which leave the subject open.
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

pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let ours = files.iter().filter(|file| !FOREIGN.iter().any(|part| file.path.contains(part)));
    ours.flat_map(complaints).collect()
}

fn complaints(file: &SourceFile) -> Vec<String> {
    let mut complaints = Vec::new();
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
        let mut complain = |what: &str| complaints.push(format!("{}:{number}: {what}", file.path));
        for word in text.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase) {
            if ARCHAIC.contains(&word.as_str()) {
                complain(&format!("`{word}`: name the subject, in current English"));
            }
        }
        let mut marks = ["///", "//!"].into_iter();
        let mark = marks.find(|mark| file.is_rust() && line.trim_start().starts_with(mark));
        if mark.is_some() && mark != mark_before {
            let first = text.trim_start_matches(['/', '!', ' ']).split([' ', ',']).next();
            if first.is_some_and(|first| OPENINGS.contains(&first)) {
                complain("open the doc comment with a noun phrase or a verb");
            }
        }
        mark_before = mark;
    }
    complaints
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
            ["crates/x/src/a.rs:2", "crates/x/src/a.rs:5", "crates/x/a.md:1", "crates/x/Cargo.toml:1"]
        );
    }
}
