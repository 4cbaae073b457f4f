//! Rule for crates: the allowed dependencies between the crates of the workspace.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::SourceFile;

/// Crates of the workspace that a crate may depend on.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("acceptance", &["testkit", "xtask"]),
    ("bench", &["bert-cpu", "encoder-spec", "model-import", "testkit", "xtask"]),
    ("bert-cpu", &["encoder-spec"]),
    ("encoder-spec", &[]),
    ("gateway", &["bert-cpu", "encoder-spec", "inference", "model-hub", "model-import", "openai-schema"]),
    ("inference", &["bert-cpu", "encoder-spec"]),
    ("model-hub", &[]),
    ("model-import", &["encoder-spec"]),
    ("openai-schema", &[]),
    ("stress", &["bench", "testkit", "xtask"]),
    ("testkit", &[]),
    ("xtask", &["testkit"]),
];

/// Dependencies for tests alone: the engine is tested on graphs that the importer wrote.
const ALLOWED_IN_TESTS: [(&str, &str); 3] =
    [("gateway", "testkit"), ("inference", "model-import"), ("model-hub", "testkit")];

/// The crate with its own lints: only it may contain `unsafe`.
const OWN_LINTS: &str = "bert-cpu";

/// Packages that only one crate may use, because wrapping them is its purpose.
const OWNED: [(&str, &[&str]); 4] = [
    ("inference", &["ort", "ort-sys", "ndarray", "tokenizers"]),
    (
        "gateway",
        &[
            "actix-web",
            "actix-http",
            "actix-rt",
            "prometheus",
            "tiktoken-rs",
            "tracing-subscriber",
            "subtle",
            "redis",
        ],
    ),
    ("model-import", &["prost", "safetensors", "memmap2"]),
    ("xtask", &["indicatif"]),
];

/// Checks every `crates/*/Cargo.toml`.
pub(super) fn check(files: &[SourceFile]) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let Some(name) = crate_of(&file.path) else { continue };
        let mut complain = |what: String| complaints.push(format!("{}: {what}", file.path));
        let manifest: Table = file.text.parse().with_context(|| format!("in {}", file.path))?;
        let package = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        if package != Some(name) {
            complain(format!("the package must be named after its folder, {name}"));
        }
        let Some((name, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            complain("a new crate needs its row in crates/xtask/src/tidy/crate_deps.rs".into());
            continue;
        };
        seen.insert(*name);
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
        if lints != Some(true) && *name != OWN_LINTS {
            complain("the crate must inherit the workspace's lints, which deny `unsafe`".into());
        }
        let is_forbidden = |other: &str| is_ours(other) && !allowed.contains(&other);
        let runtime = dependencies(&manifest, &["dependencies", "build-dependencies"]);
        for other in runtime.iter().filter(|other| is_forbidden(other)) {
            complain(format!("{name} must not depend on {other}"));
        }
        for other in dependencies(&manifest, &["dev-dependencies"]) {
            if is_forbidden(&other) && !ALLOWED_IN_TESTS.contains(&(*name, other.as_str())) {
                complain(format!("{name} must not depend on {other}, not even in tests"));
            }
        }
        for (owner, packages) in OWNED.iter().filter(|(owner, _)| owner != name) {
            for package in runtime.iter().filter(|package| packages.contains(&package.as_str())) {
                complain(format!("only {owner} may use {package}"));
            }
        }
    }
    for (name, _) in ALLOWED.iter().filter(|(name, _)| !seen.contains(name)) {
        complaints
            .push(format!("crates/{name}/Cargo.toml is missing, but has a row of allowed dependencies"));
    }
    Ok(complaints)
}

/// `crates/NAME/Cargo.toml` → `NAME`.
fn crate_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
    (!name.contains('/')).then_some(name)
}

fn is_ours(package: &str) -> bool {
    ALLOWED.iter().any(|(name, _)| *name == package)
}

/// Package names in the given tables, those of `[target.…]` included, renamed ones by their real name.
fn dependencies(manifest: &Table, tables: &[&str]) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    let places = std::iter::once(manifest).chain(targets.filter_map(|(_, target)| target.as_table()));
    places
        .flat_map(|place| tables.iter().filter_map(|table| place.get(*table)?.as_table()))
        .flatten()
        .map(|(key, value)| value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    fn complaints(path: &str, manifest: &str) -> Vec<String> {
        let mut found = check(&[file(path, manifest)]).unwrap();
        found.retain(|complaint| !complaint.contains("is missing"));
        found
    }

    #[test]
    fn forbidden_dependencies_are_found_in_every_table() {
        let package = "[package]\nname = \"inference\"\n[lints]\nworkspace = true\n";
        for (table, wrong) in [
            ("[dependencies]\nopenai-schema.workspace = true", "inference must not depend on openai-schema"),
            ("[dependencies]\nmodel-import.workspace = true", "inference must not depend on model-import"),
            ("[dev-dependencies]\ngateway.workspace = true", "not even in tests"),
            (
                "[dependencies]\nx = { package = \"actix-web\", version = \"4\" }",
                "only gateway may use actix-web",
            ),
            ("[target.'cfg(unix)'.dependencies]\nprometheus = \"1\"", "only gateway may use prometheus"),
        ] {
            let found = complaints("crates/inference/Cargo.toml", &format!("{package}{table}\n"));
            assert!(found.len() == 1 && found[0].contains(wrong), "{table}: {found:?}");
        }
        let fine = format!(
            "{package}[dependencies]\nort = \"2\"\n[dev-dependencies]\nmodel-import.workspace = true\n"
        );
        assert_eq!(complaints("crates/inference/Cargo.toml", &fine), Vec::<String>::new());
        let lax = complaints("crates/inference/Cargo.toml", "[package]\nname = \"inference\"\n");
        assert!(lax.len() == 1 && lax[0].contains("deny `unsafe`"), "{lax:?}");
    }

    #[test]
    fn new_and_missing_crates_are_found() {
        let found = complaints("crates/extra/Cargo.toml", "[package]\nname = \"extra\"\n");
        assert!(found[0].contains("needs its row"), "{found:?}");
        let lost = check(&[]).unwrap();
        assert_eq!(lost.len(), ALLOWED.len());
    }
}
