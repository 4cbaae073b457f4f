//! Rules for the documentation: links that resolve, and a README with the two commands.

use std::path::{Component, Path, PathBuf};

use super::SourceFile;

/// The commands that a newcomer needs.
const COMMANDS: [&str; 2] = ["cargo xtask serve", "cargo xtask test"];

pub(super) fn check(files: &[SourceFile], root: &Path) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, target) in links(file) {
            let Some(path) = resolve(&file.path, target) else {
                complaints.push(format!("{}:{number}: the link {target} leaves the project", file.path));
                continue;
            };
            if !root.join(&path).exists() {
                complaints.push(format!("{}:{number}: the link {target} leads nowhere", file.path));
            }
        }
    }
    let readme = files.iter().find(|file| file.path == "README.md");
    for command in COMMANDS {
        if !readme.is_some_and(|readme| readme.text.contains(command)) {
            complaints.push(format!("README.md does not show `{command}`"));
        }
    }
    complaints
}

/// Line number and target of every inline link and image to a file of the project; code blocks have none.
fn links(file: &SourceFile) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in file.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Every second piece between backticks is code.
        for text in line.split('`').step_by(2) {
            found.extend(targets(text).map(|target| (number, target)));
        }
    }
    found
}

fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', ' ']).next()?;
        let path = target.split('#').next()?;
        (!path.is_empty() && !path.contains("://") && !path.starts_with("mailto:")).then_some(path)
    })
}

/// A link's target relative to the root; `None` if it points above it.
fn resolve(from: &str, target: &str) -> Option<PathBuf> {
    let mut path = Path::new(from).parent().unwrap_or(Path::new("")).to_path_buf();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    #[test]
    fn dead_links_and_missing_commands_are_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("docs")).unwrap();
        std::fs::write(folder.path().join("docs/a.md"), "").unwrap();
        let text = "[ok](a.md#part) [web](https://example.com/x) [own](#part) `[code](no.md)`\n\
                    ```\n[code](no.md)\n```\n[dead](b.md)\n[out](../../c.md)\n[up](../docs/a.md)\n";
        let readme = "cargo xtask serve";
        let found = check(&[file("docs/x.md", text), file("README.md", readme)], folder.path());
        assert_eq!(
            found,
            [
                "docs/x.md:5: the link b.md leads nowhere",
                "docs/x.md:6: the link ../../c.md leaves the project",
                "README.md does not show `cargo xtask test`",
            ]
        );
    }
}
