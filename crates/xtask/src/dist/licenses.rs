//! Licenses of everything that is linked into the binary, with the texts that the authors published.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use testkit::files;

use crate::cargo_metadata::{Metadata, Package};

/// Prefixes of license file names, in capitals.
const PREFIXES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// One text: every third-party package with its license, then each distinct license file once.
pub(super) fn texts(metadata: &Metadata) -> Result<String> {
    let mut packages = metadata.linked()?;
    packages.retain(|package| package.source.is_some());
    write(&packages)
}

fn write(packages: &[&Package]) -> Result<String> {
    let mut list =
        String::from("Linked into embedgate in addition to Rust's standard library (MIT OR Apache-2.0):\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let license = package.license.as_deref().with_context(|| format!("{name} declares no license"))?;
        list += &format!("{name}: {license}\n");
        for text in license_files(package)? {
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

/// Texts of the package's license files, with normalized line ends and without outer blank lines.
fn license_files(package: &Package) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for path in files::list(package.manifest_path.parent().unwrap_or(Path::new("")))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
        if path.is_file() && PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            let text = String::from_utf8_lossy(&files::read(&path)?).replace("\r\n", "\n");
            texts.push(text.trim_matches('\n').to_owned());
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_text_is_listed_once_with_its_packages() {
        let folder = tempfile::tempdir().unwrap();
        let package = |name: &str, license: Option<&str>, file: &str| {
            let at = folder.path().join(name);
            fs::create_dir(&at).unwrap();
            fs::write(at.join(file), "Do what\r\nyou like.\n").unwrap();
            fs::write(at.join("lib.rs"), "no license").unwrap();
            Package {
                id: name.into(),
                repository: None,
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
        assert!(!text.contains("no license"));
        let c = package("c", None, "LICENSE");
        assert_eq!(write(&[&c]).unwrap_err().to_string(), "c 1.0.0 declares no license");
    }
}
