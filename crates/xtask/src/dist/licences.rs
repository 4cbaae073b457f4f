//! The licences of everything that is linked into the binary, with the texts that its authors published.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::process;
use crate::workspace::Workspace;

/// How such files begin, in capitals.
const BEGINNINGS: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// The part that we read of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    /// None for what lies in the workspace.
    source: Option<String>,
}

/// One text for people: every package of others with its licence, then each licence file once.
///
/// # Errors
/// Cargo cannot resolve the workspace, a package's files cannot be read, or a package tells no licence.
pub(super) fn texts(workspace: &Workspace, target: &str, inventory: &Value) -> Result<String> {
    let said = process::capture(
        process::cargo()
            .args(["metadata", "--format-version=1", "--locked", "--filter-platform", target])
            .current_dir(workspace.root()),
    )?;
    let metadata: Metadata = serde_json::from_str(&said).context("cannot read Cargo's metadata")?;
    let inside = inside(inventory);
    let linked = |package: &&Package| {
        package.source.is_some() && inside.contains(&(package.name.as_str(), package.version.as_str()))
    };
    let mut packages: Vec<&Package> = metadata.packages.iter().filter(linked).collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    write(&packages)
}

/// Name and version of everything that the inventory lists.
fn inside(inventory: &Value) -> BTreeSet<(&str, &str)> {
    let components = inventory["components"].as_array().into_iter().flatten();
    components
        .filter_map(|component| Some((component["name"].as_str()?, component["version"].as_str()?)))
        .collect()
}

fn write(packages: &[&Package]) -> Result<String> {
    let mut list =
        String::from("What is linked into embedgate beside Rust's standard library (MIT OR Apache-2.0):\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let license = package.license.as_deref().with_context(|| format!("{name} tells no licence"))?;
        list += &format!("{name}: {license}\n");
        for text in files(package)? {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    let mut texts: Vec<(String, Vec<String>)> = texts.into_iter().collect();
    texts.sort_by(|(_, a), (_, b)| a.cmp(b));
    for (text, of) in texts {
        list += &format!("\n{}\n{}\n\n{text}\n", "-".repeat(80), of.join(", "));
    }
    Ok(list)
}

/// What the package's licence files say, line ends and outer blank lines aside.
fn files(package: &Package) -> Result<Vec<String>> {
    let folder = package.manifest_path.parent().unwrap_or(Path::new(""));
    let at = || format!("cannot list {}", folder.display());
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).with_context(at)? {
        let path = entry.with_context(at)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
        if path.is_file() && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) {
            let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.push(String::from_utf8_lossy(&text).replace("\r\n", "\n").trim_matches('\n').to_owned());
        }
    }
    // The order in which a folder lists its files is nobody's promise.
    texts.sort();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_there_once_with_whom_it_covers() {
        let folder = tempfile::tempdir().unwrap();
        let package = |name: &str, license: Option<&str>, file: &str| {
            let at = folder.path().join(name);
            fs::create_dir(&at).unwrap();
            fs::write(at.join(file), "Do what\r\nyou like.\n").unwrap();
            fs::write(at.join("lib.rs"), "no licence").unwrap();
            Package {
                name: name.into(),
                version: "1.0.0".into(),
                license: license.map(str::to_owned),
                manifest_path: at.join("Cargo.toml"),
                source: Some("elsewhere".into()),
            }
        };
        let (a, b) = (package("a", Some("MIT"), "LICENSE-MIT"), package("b", Some("ISC"), "copying.md"));
        let text = write(&[&a, &b]).unwrap();
        assert!(text.contains("\na 1.0.0: MIT\nb 1.0.0: ISC\n"), "{text}");
        assert!(text.ends_with("\na 1.0.0, b 1.0.0\n\nDo what\nyou like.\n"), "{text}");
        assert_eq!(text.matches("Do what").count(), 1);
        assert!(!text.contains("no licence"));
        let c = package("c", None, "LICENSE");
        assert_eq!(write(&[&c]).unwrap_err().to_string(), "c 1.0.0 tells no licence");
    }
}
