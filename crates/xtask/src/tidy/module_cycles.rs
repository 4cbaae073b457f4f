//! Rule for modules: no dependency cycle between the modules of a crate, except between parent and child.
//!
//! For every module, the dependencies between the subtrees of its children must be acyclic. A path through a re-export
//! counts as a dependency on the module that declares the item.

use std::collections::{BTreeMap, BTreeSet};

use super::SourceFile;
use super::rust_code::code;

/// Maximum length of a chain of re-exports.
const MAX_REEXPORTS: usize = 8;

type Path = Vec<String>;

pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let crates: BTreeSet<&str> = files.iter().filter_map(SourceFile::crate_name).collect();
    let mut found = Vec::new();
    for name in crates {
        let of_crate = files.iter().filter(|file| file.is_rust() && file.crate_name() == Some(name));
        found.extend(Modules::new(of_crate).cycles(name));
    }
    found
}

/// The modules of a crate by path; the root is empty.
struct Modules {
    by_path: BTreeMap<Path, Module>,
}

struct Module {
    file: String,
    /// Absolute paths, segment by segment, that the code names.
    paths: BTreeSet<Path>,
    /// Names that `use` brings into the module, with their absolute paths.
    imports: BTreeMap<String, Path>,
}

impl Modules {
    fn new<'a>(files: impl Iterator<Item = &'a SourceFile>) -> Self {
        let sources: Vec<(Path, &SourceFile, String)> =
            files.map(|file| (module_path(&file.path), file, code(&file.text))).collect();
        // Modules that only tests compile are declared in code that `code` removed.
        let declared = |path: &Path| {
            let Some((name, parent)) = path.split_last() else { return true };
            let declaration = format!("mod {name}");
            let is_declared = |code: &str| {
                code.lines().any(|line| {
                    line.split_once(&declaration)
                        .is_some_and(|(_, rest)| rest.starts_with(';') || rest.starts_with(" {"))
                })
            };
            sources.iter().any(|(of, _, code)| of == parent && is_declared(code))
        };
        let kept: Vec<_> = sources.iter().filter(|(path, ..)| declared(path)).collect();
        let names: BTreeSet<&Path> = kept.iter().map(|(path, ..)| path).collect();
        let module = |(path, file, code): &&(Path, &SourceFile, String)| {
            let (mut paths, mut imports) = (BTreeSet::new(), BTreeMap::new());
            for (is_use, words, alias) in paths_in(code) {
                let Some(absolute) = absolute(path, &words, is_use, &names) else { continue };
                if is_use {
                    imports.insert(alias, absolute.clone());
                }
                paths.insert(absolute);
            }
            (path.clone(), Module { file: file.path.clone(), paths, imports })
        };
        Self { by_path: kept.iter().map(module).collect() }
    }

    /// The module that declares the item of an absolute path.
    fn resolve(&self, path: &Path) -> Path {
        let mut path = path.clone();
        for _ in 0..MAX_REEXPORTS {
            let depth =
                (0..=path.len()).rev().find(|depth| self.by_path.contains_key(&path[..*depth])).unwrap_or(0);
            let (module, rest) = path.split_at(depth);
            let import = rest.first().and_then(|name| self.by_path.get(module)?.imports.get(name));
            match import {
                Some(import) if *import != path => path = [import.as_slice(), &rest[1..]].concat(),
                _ => return module.to_vec(),
            }
        }
        Vec::new()
    }

    /// A line for each strongly connected set of siblings.
    fn cycles(&self, name: &str) -> Vec<String> {
        // Parent module → sibling → siblings that it depends on, with the file of one dependency.
        let mut levels: BTreeMap<Path, BTreeMap<String, BTreeMap<String, String>>> = BTreeMap::new();
        for (from, module) in &self.by_path {
            for path in &module.paths {
                let to = self.resolve(path);
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
                    let level = levels.entry(from[..common].to_vec()).or_default();
                    level
                        .entry(a.clone())
                        .or_default()
                        .entry(b.clone())
                        .or_insert_with(|| module.file.clone());
                }
            }
        }
        let mut found = Vec::new();
        for (parent, edges) in &levels {
            let mut reported = BTreeSet::new();
            for start in edges.keys() {
                if reported.contains(start) {
                    continue;
                }
                if let Some(cycle) = shortest_cycle(edges, start) {
                    let steps = cycle.iter().zip(cycle.iter().cycle().skip(1));
                    let steps: Vec<String> =
                        steps.map(|(a, b)| format!("{a} → {b} ({})", edges[a][b])).collect();
                    let place = [&[name.to_owned()], parent.as_slice()].concat().join("::");
                    found.push(format!("{place}: module cycle: {}", steps.join(", ")));
                    reported.extend(cycle);
                }
            }
        }
        found
    }
}

fn shortest_cycle(edges: &BTreeMap<String, BTreeMap<String, String>>, start: &str) -> Option<Vec<String>> {
    let mut trails = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    let mut next = 0;
    while let Some(trail) = trails.get(next).cloned() {
        next += 1;
        for to in trail.last().and_then(|last| edges.get(last)).into_iter().flat_map(BTreeMap::keys) {
            if to == start {
                return Some(trail);
            }
            if seen.insert(to.clone()) {
                trails.push([trail.as_slice(), std::slice::from_ref(to)].concat());
            }
        }
    }
    None
}

/// `crates/x/src/a/mod.rs` and `crates/x/src/a.rs` → `[a]`.
fn module_path(file: &str) -> Path {
    let inside = file.split_once("/src/").map_or(file, |(_, inside)| inside);
    let name = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut path: Path = name.split('/').map(str::to_owned).collect();
    let is_root = path.len() == 1 && (name == "lib" || name == "main");
    if is_root || path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    path
}

/// An absolute path, or `None` for another crate's item.
fn absolute(module: &Path, words: &[String], is_use: bool, names: &BTreeSet<&Path>) -> Option<Path> {
    let mut base = module.clone();
    let mut rest = words;
    match words.first()?.as_str() {
        "crate" => (base, rest) = (Vec::new(), &words[1..]),
        "self" => rest = &words[1..],
        "super" => {
            while rest.first().is_some_and(|word| word == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        child => {
            let path = [module.as_slice(), &[child.to_owned()]].concat();
            if !is_use || !names.contains(&path) {
                return None;
            }
        }
    }
    Some([base.as_slice(), rest].concat())
}

/// All paths of `use` with the names that they introduce, and all paths that start with `crate`, `self` or `super`.
fn paths_in(code: &str) -> Vec<(bool, Path, String)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(is_name) {
        let (before, word) = rest.split_at(at);
        let is_start = !before.trim_end().ends_with("::");
        if let Some(tree) = word.strip_prefix("use ") {
            let (tree, after) = tree.split_once(';').unwrap_or((tree, ""));
            expand(tree, &[], &mut found);
            rest = after;
        } else if is_start && ["crate::", "self::", "super::"].iter().any(|root| word.starts_with(root)) {
            let end = word.find(|c: char| !is_name(c) && c != ':').unwrap_or(word.len());
            found.push((false, segments(word[..end].trim_end_matches(':')), String::new()));
            rest = &word[end..];
        } else {
            rest = word.trim_start_matches(is_name);
        }
    }
    found
}

/// Adds the paths of a tree such as `a::b::{c, d as e}`.
fn expand(tree: &str, prefix: &[String], found: &mut Vec<(bool, Path, String)>) {
    if let Some((head, group)) = tree.split_once('{') {
        let prefix = [prefix, &segments(head)].concat();
        let group = group.trim_end().strip_suffix('}').unwrap_or(group);
        let mut depth = 0;
        let is_separator = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        };
        for part in group.split(is_separator).filter(|part| !part.trim().is_empty()) {
            expand(part, &prefix, found);
        }
        return;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut path = [prefix, &segments(path)].concat();
    // `use a::{self}` introduces `a`.
    if path.len() > 1 && path.ends_with(&["self".to_owned()]) {
        path.pop();
    }
    let name = if alias.is_empty() { path.last().map_or("", String::as_str) } else { alias.trim() };
    found.push((true, path.clone(), name.to_owned()));
}

/// `a::b::*` → `[a, b]`.
fn segments(path: &str) -> Path {
    let names = path.split("::").map(str::trim).filter(|name| !name.is_empty() && *name != "*");
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> =
            files.iter().map(|(path, text)| file(&format!("crates/x/src/{path}"), text)).collect();
        check(&files)
    }

    #[test]
    fn siblings_may_depend_one_way() {
        let root = ("lib.rs", "mod a;\nmod b;\npub use a::A;\n");
        let one_way = [root, ("a.rs", "pub struct A;\n"), ("b.rs", "use crate::A;\nuse std::fmt;\n")];
        assert_eq!(found(&one_way), Vec::<String>::new());
        let parent_and_child =
            [("lib.rs", "mod a;\nconst C: u8 = a::D;\n"), ("a.rs", "use crate::C;\npub const D: u8 = 1;\n")];
        assert_eq!(found(&parent_and_child), Vec::<String>::new());
    }

    #[test]
    fn cycles_are_found_through_groups_expressions_and_reexports() {
        let root = ("lib.rs", "mod a;\nmod b;\npub use a::A;\n");
        for (a, b) in [
            ("use crate::{b::{B, C as D}};\n", "use super::a;\n"),
            ("fn f() -> crate::b::B {}\n", "use crate::A;\n"),
            ("use super::b::B;\n", "fn f() { super::a::g(); }\n"),
        ] {
            let cycle = found(&[root, ("a.rs", a), ("b.rs", b)]);
            assert_eq!(
                cycle,
                ["x: module cycle: a → b (crates/x/src/a.rs), b → a (crates/x/src/b.rs)"],
                "{a} {b}"
            );
        }
    }

    #[test]
    fn subtrees_count_as_one_and_tests_do_not_count() {
        let root = ("lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod t;\n");
        let subtrees = [
            root,
            ("a/mod.rs", "mod c;\npub struct A;\n"),
            ("a/c.rs", "use crate::b::B;\n"),
            ("b.rs", "use crate::a::A;\n"),
        ];
        assert_eq!(found(&subtrees).len(), 1);
        let tests = [
            root,
            ("a.rs", "#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}\n"),
            ("b.rs", "use crate::a::A;\n// crate::t::T\n"),
            ("t.rs", "use crate::b::B;\n"),
        ];
        assert_eq!(found(&tests), Vec::<String>::new());
    }
}
