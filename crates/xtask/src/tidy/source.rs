//! Rules for single files: names, module comments, length, and restricted words.

use super::SourceFile;

/// Maximum number of lines: a longer file often has two purposes.
const MAX_LINES: usize = 600;
/// Maximum number of characters of a line. rustfmt does not wrap comments and string literals.
const MAX_COLUMNS: usize = 120;

/// File names without a meaning.
const EMPTY_NAMES: [&str; 4] = ["utils.rs", "util.rs", "common.rs", "helpers.rs"];

/// A word, the folder in which it is restricted, and the files there that may contain it.
const RESTRICTED_CALLS: [(&str, &str, &[&str]); 3] = [
    // Files that allow `unsafe`, which the workspace denies; all of crates/bert-cpu does.
    ("unsafe_code", "crates/", &["mapped.rs", "source.rs"]),
    ("StatusCode", "crates/gateway/src/", &["error.rs"]),
    ("ort::", "crates/inference/src/", &["onnx.rs", "provider.rs"]),
];

/// Part of an ignored test without a reason. Split, as below.
const IGNORED_WITHOUT_REASON: [&str; 2] = ["ign", "ore)]"];

/// Tokens that must not be committed. Split, so that this file does not contain them.
const FORBIDDEN_TOKENS: [[&str; 2]; 6] = [
    ["NOT R", "UN: "],
    ["#[ig", "nore"],
    ["to", "do!("],
    ["unimpl", "emented!("],
    ["db", "g!("],
    ["FIX", "ME"],
];

/// The developers' commands, which the user of a shipped program does not have.
const DEVELOPER_COMMANDS: [&str; 2] = ["cargo", "xtask"];

/// Crates that are not shipped.
const TOOLS: [&str; 5] =
    ["crates/acceptance/", "crates/bench/", "crates/stress/", "crates/testkit/", "crates/xtask/"];

/// Files whose doc comments are the program's help.
const HELP_FILES: [&str; 2] = ["cli.rs", "settings.rs"];

/// Hosts of package indexes: each machine configures its own mirror.
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

/// The start of a path into one of those folders.
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
        complain("name the file after its content".into());
    }
    if !file.text.starts_with("//! ") {
        complain("begin with `//!` and the file's purpose".into());
    }
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        complain(format!("{lines} lines; split it: at most {MAX_LINES}"));
    }
    let tokens = FORBIDDEN_TOKENS.map(|parts| parts.concat());
    for (number, line) in file.lines() {
        let mut complain = |what: String| complaints.push(format!("{}:{number}: {what}", file.path));
        let is_comment = line.trim_start().starts_with("//");
        let columns = line.chars().count();
        // Expected responses in tests are literals of one line.
        if columns > MAX_COLUMNS && (is_comment || !file.path.contains("/tests/")) {
            complain(format!("{columns} columns; wrap at {MAX_COLUMNS}"));
        }
        for word in tokens.iter().filter(|word| line.contains(word.as_str())) {
            complain(format!("{word} is left behind"));
        }
        if line.contains("cfg_attr(") && line.contains(&IGNORED_WITHOUT_REASON.concat()) {
            complain("give the reason: `ignore = \"…\"`".into());
        }
        if advises_developer_commands(file, line) {
            complain(format!("a shipped program must not advise `{}`", DEVELOPER_COMMANDS.join(" ")));
        }
        for (word, folder, files) in RESTRICTED_CALLS {
            let restricted = file.path.starts_with(folder) && !files.contains(&file.name());
            // Errors name their source's type in any file.
            if restricted && !is_comment && has_word(&line.replace("ort::Error", ""), word) {
                complain(format!("only {} may name {word}", files.join(" and ")));
            }
        }
    }
    complaints
}

/// Returns true if a line of a shipped crate names the developers' commands outside of comments.
fn advises_developer_commands(file: &SourceFile, line: &str) -> bool {
    let shipped = file.path.contains("/src/") && !TOOLS.iter().any(|tool| file.path.starts_with(tool));
    let comment = line.trim_start().starts_with("//") && !HELP_FILES.contains(&file.name());
    shipped && !comment && line.contains(&DEVELOPER_COMMANDS.join(" "))
}

/// Returns true if `line` contains `word` at the start of a word.
fn has_word(line: &str, word: &str) -> bool {
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
    fn each_rule_finds_its_violation() {
        let leftover = format!("//! A.\n{}!()\n", FORBIDDEN_TOKENS[2].concat().trim_end_matches("!("));
        let host = format!("//! A.\n// {}\n", HOSTS[0].concat());
        let advice = format!("//! A.\n#[error(\"run `{} setup`\")]\n", DEVELOPER_COMMANDS.join(" "));
        let help = format!("//! A.\n/// After {}.\n", DEVELOPER_COMMANDS.join(" "));
        let ignored = format!("//! A.\n#[cfg_attr(windows, {}\n", IGNORED_WITHOUT_REASON.concat());
        let path = format!("//! A.\n// see /{}/main\n", MACHINE_FOLDERS[0]);
        let wide = format!("//! A.\n// {}\n", "é".repeat(MAX_COLUMNS - 2));
        for (name, text, wrong) in [
            ("crates/x/src/utils.rs", "//! A.\n", "after its content"),
            ("crates/x/src/a.rs", "use b;\n", "begin with"),
            ("crates/x/src/a.rs", &"//! A.\n".repeat(601), "601 lines"),
            ("crates/x/tests/a.rs", &wide, "121 columns"),
            ("crates/x/src/a.rs", &leftover.replace("!()", "!(1)"), "left behind"),
            ("crates/x/src/a.rs", &host, "package index"),
            ("docs/a.md", &path, "path of one machine"),
            ("crates/gateway/src/routes.rs", "//! A.\nuse actix_web::http::StatusCode;\n", "only error.rs"),
            ("crates/inference/src/engine.rs", "//! A.\nuse ort::Session;\n", "only onnx.rs"),
            ("crates/gateway/src/a.rs", "//! A.\n#[allow(unsafe_code)]\n", "only mapped.rs"),
            ("crates/gateway/src/a.rs", &advice, "must not advise"),
            ("crates/x/tests/a.rs", &ignored, "give the reason"),
            ("crates/gateway/src/cli.rs", &help, "must not advise"),
        ] {
            let found = complaints(name, text);
            assert!(found.len() == 1 && found[0].contains(wrong), "{name} {wrong}: {found:?}");
        }
    }

    #[test]
    fn similar_text_is_accepted() {
        let wide = format!("//! A.\n//{}\n\"{}\"\n", "é".repeat(MAX_COLUMNS - 2), "x".repeat(MAX_COLUMNS));
        for (name, text) in [
            ("crates/x/tests/a.rs", wide.as_str()),
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
