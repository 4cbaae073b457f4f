//! Rule for names: a type's name means one thing in a crate.

use std::collections::BTreeMap;

use super::SourceFile;
use super::rust_code::code;

const KEYWORDS: [&str; 5] = ["struct", "enum", "union", "trait", "type"];

pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let mut types: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let Some(name) = file.crate_name() else { continue };
        for type_name in declared(&code(&file.text)) {
            types.entry((name, type_name)).or_default().push(&file.path);
        }
    }
    let mut complaints = Vec::new();
    for ((_, name), mut paths) in types {
        // Alternatives under `cfg` are in one file.
        paths.dedup();
        if let [first, .., last] = paths.as_slice() {
            complaints.push(format!("{last}: {first} has a type {name}, too: give one of them another name"));
        }
    }
    complaints
}

/// Names of the types that are declared at the top level.
fn declared(code: &str) -> Vec<String> {
    let name = |line: &str| {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| word.starts_with("pub") || *word == "in" || word.ends_with(')'));
        let keyword = words.next()?;
        let name = words.next()?;
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        KEYWORDS.contains(&keyword).then(|| name[..end].to_owned())
    };
    code.lines().filter(|line| !line.starts_with(' ')).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    #[test]
    fn a_name_with_two_meanings_is_found() {
        let files = [
            file(
                "crates/x/src/a.rs",
                "pub(crate) struct Plan<T> {}\nimpl Iterator for Plan {\n    type Item = u8;\n}\n",
            ),
            file(
                "crates/x/src/b.rs",
                "// struct Plan;\n#[cfg(unix)]\nenum Step {}\n#[cfg(windows)]\nenum Step {}\n",
            ),
            file("crates/x/src/c.rs", "pub(in crate::c) trait Plan {}\ntype Item = u8;\n"),
            file("crates/y/src/a.rs", "pub struct Plan;\n"),
        ];
        let found = check(&files);
        assert_eq!(
            found,
            ["crates/x/src/c.rs: crates/x/src/a.rs has a type Plan, too: give one of them another name"]
        );
    }
}
