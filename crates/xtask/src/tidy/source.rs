//! Rules for single files: names, openings, length, and words that belong to one place.

use super::SourceFile;

/// Files over the limit, each with the reason why it is one file.
const LONG: [(&str, &str); 0] = [];
/// Soft line cap: a longer file often has two reasons to exist. Not lower, so that the cap does not dictate the design.
const LINES: usize = 600;

/// Names that say nothing about why a file exists.
const EMPTY_NAMES: [&str; 4] = ["utils.rs", "util.rs", "common.rs", "helpers.rs"];

/// A word, the folder in which it is restricted, and the files there that may say it.
const WORDS: [(&str, &str, &[&str]); 3] = [
    // Who allows `unsafe` where the workspace denies it; crates/bert-cpu does so as a whole.
    ("unsafe_code", "crates/", &["mapped.rs", "source.rs"]),
    ("StatusCode", "crates/gateway/src/", &["error.rs"]),
    ("ort::", "crates/inference/src/", &["onnx.rs", "provider.rs"]),
];

/// What must not be left behind. Split, so that this file does not find itself.
const LEFTOVERS: [[&str; 2]; 5] =
    [["#[ig", "nore"], ["to", "do!("], ["unimpl", "emented!("], ["db", "g!("], ["FIX", "ME"]];

/// The project's own commands, which the user of a shipped program does not have.
const OWN_COMMANDS: [&str; 2] = ["cargo", "xtask"];

/// Files whose doc comments are the program's help.
const HELP: [&str; 2] = ["cli.rs", "settings.rs"];

/// Package indexes' hosts: whose mirror is used is each machine's own business.
const HOSTS: [[&str; 2]; 7] = [
    ["pypi", ".org"],
    ["pythonhosted", ".org"],
    ["registry.npmjs", ".org"],
    ["index.crates", ".io"],
    ["static.crates", ".io"],
    ["deb.debian", ".org"],
    ["registry.yarnpkg", ".com"],
];

/// First folders of paths that exist on one machine only.
const MACHINE_FOLDERS: [&str; 5] = ["work", "farm", "root", "home", "Users"];

pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    files.iter().flat_map(|file| everywhere(file).into_iter().chain(rust(file))).collect()
}

/// Rules for every text file.
fn everywhere(file: &SourceFile) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in file.lines() {
        let at = |what: String| format!("{}:{number}: {what}", file.path);
        for host in HOSTS.iter().map(|parts| parts.concat()).filter(|host| line.contains(host.as_str())) {
            complaints.push(at(format!("names the package index {host}; the user's own settings choose it")));
        }
        if let Some(path) = machine_path(line) {
            complaints.push(at(format!("{path}… is a path of one machine")));
        }
    }
    complaints
}

/// The start of a path into one of those folders, where a path may begin.
fn machine_path(line: &str) -> Option<String> {
    MACHINE_FOLDERS.iter().find_map(|folder| {
        let path = format!("/{folder}/");
        let found = line.match_indices(&path).any(|(index, _)| {
            let before = line[..index].chars().next_back();
            before.is_none_or(|before| !before.is_alphanumeric() && !"_.-}".contains(before))
        });
        found.then_some(path)
    })
}

/// Rules for Rust.
fn rust(file: &SourceFile) -> Vec<String> {
    let mut complaints = Vec::new();
    if !file.is_rust() {
        return complaints;
    }
    let mut complain = |what: String| complaints.push(format!("{}: {what}", file.path));
    if EMPTY_NAMES.contains(&file.name()) {
        complain("name the file for what it knows".into());
    }
    if !file.text.starts_with("//! ") {
        complain("begin with `//!` and the file's one reason to exist".into());
    }
    let lines = file.text.lines().count();
    let allowed = LONG.iter().any(|(path, _)| *path == file.path);
    if lines > LINES && !allowed {
        complain(format!("{lines} lines; split it at {LINES}, or give the reason in tidy/source.rs"));
    }
    if lines <= LINES && allowed {
        complain("no longer over the limit; take it off the list in tidy/source.rs".into());
    }
    for (number, line) in file.lines() {
        for word in LEFTOVERS.iter().map(|parts| parts.concat()).filter(|word| line.contains(word.as_str())) {
            complaints.push(format!("{}:{number}: {word} is left behind", file.path));
        }
        if advises_own_commands(file, line) {
            complaints.push(format!(
                "{}:{number}: a shipped program must not advise `{}`",
                file.path,
                OWN_COMMANDS.join(" ")
            ));
        }
        for (word, folder, files) in WORDS {
            let restricted = file.path.starts_with(folder) && !files.contains(&file.name());
            // An error keeps its real source wherever it is declared.
            let line = line.replace("ort::Error", "");
            if restricted && !line.trim_start().starts_with("//") && says(&line, word) {
                complaints.push(format!(
                    "{}:{number}: only {} may name {word}",
                    file.path,
                    files.join(" and ")
                ));
            }
        }
    }
    complaints
}

/// Returns true if a line of a shipped crate names the project's own commands anywhere but in a comment.
fn advises_own_commands(file: &SourceFile, line: &str) -> bool {
    let shipped = file.path.contains("/src/") && !file.path.starts_with("crates/xtask/");
    let comment = line.trim_start().starts_with("//") && !HELP.contains(&file.name());
    shipped && !comment && line.contains(&OWN_COMMANDS.join(" "))
}

/// Whether `line` has `word` where a word begins.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(index, _)| {
        let before = line[..index].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_')
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        check(&[file(path, text)])
    }

    #[test]
    fn each_rule_finds_its_fault() {
        let leftover = format!("//! A.\n{}!()\n", LEFTOVERS[1].concat().trim_end_matches("!("));
        let host = format!("//! A.\n// {}\n", HOSTS[0].concat());
        let advice = format!("//! A.\n#[error(\"run `{} setup`\")]\n", OWN_COMMANDS.join(" "));
        let help = format!("//! A.\n/// After {}.\n", OWN_COMMANDS.join(" "));
        let path = format!("//! A.\n// see /{}/main\n", MACHINE_FOLDERS[0]);
        for (name, text, wrong) in [
            ("crates/x/src/utils.rs", "//! A.\n", "for what it knows"),
            ("crates/x/src/a.rs", "use b;\n", "begin with"),
            ("crates/x/src/a.rs", &"//! A.\n".repeat(601), "601 lines"),
            ("crates/x/src/a.rs", &leftover.replace("!()", "!(1)"), "left behind"),
            ("crates/x/src/a.rs", &host, "package index"),
            ("docs/a.md", &path, "path of one machine"),
            ("crates/gateway/src/routes.rs", "//! A.\nuse actix_web::http::StatusCode;\n", "only error.rs"),
            ("crates/inference/src/engine.rs", "//! A.\nuse ort::Session;\n", "only onnx.rs"),
            ("crates/gateway/src/a.rs", "//! A.\n#[allow(unsafe_code)]\n", "only mapped.rs"),
            ("crates/gateway/src/a.rs", &advice, "must not advise"),
            ("crates/gateway/src/cli.rs", &help, "must not advise"),
        ] {
            let found = complaints(name, text);
            assert!(found.len() == 1 && found[0].contains(wrong), "{name} {wrong}: {found:?}");
        }
    }

    #[test]
    fn what_only_looks_alike_is_left_alone() {
        for (name, text) in [
            (
                "crates/inference/src/engine.rs",
                "//! A.\nimport::x();\n// ort::Session\nsource: ort::Error,\n",
            ),
            ("crates/inference/src/onnx.rs", "//! A.\nuse ort::Session;\n"),
            ("crates/gateway/src/error.rs", "//! A.\nuse actix_web::http::StatusCode;\n"),
            ("docs/a.md", "a/work/b ./home/c ${HOME}/root/x\n"),
        ] {
            assert_eq!(complaints(name, text), Vec::<String>::new(), "{name}");
        }
    }
}
