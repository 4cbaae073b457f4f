//! `cargo xtask sbom`: the contents of the `embedgate` binary as a CycloneDX document.
//!
//! Only linked crates are listed, without dependencies of builds and tests. The document is reproducible from the lock
//! file, byte for byte, so that it can be compared and signed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use testkit::files;
use testkit::workspace::Workspace;

use crate::cargo_metadata::{Metadata, Package};

/// Arguments of the command.
#[derive(Args)]
pub(crate) struct SbomArgs {
    /// Write the document to this file instead of printing it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The platform that the binary is built for
    #[arg(long, value_name = "TRIPLE", default_value = "x86_64-unknown-linux-gnu")]
    target: String,
}

/// Writes the document.
pub(crate) fn run(workspace: &Workspace, options: &SbomArgs) -> Result<()> {
    let metadata = Metadata::read(workspace, &options.target)?;
    let text = format!("{:#}\n", document(workspace, &metadata, Vec::new())?);
    match &options.output {
        Some(path) => files::write(path, text),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// The part of `Cargo.lock` that is read here.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

type Checksums = BTreeMap<(String, String), Option<String>>;

/// The document for the packages of `metadata`, and for `others`, which the program also depends on.
pub(crate) fn document(workspace: &Workspace, metadata: &Metadata, others: Vec<Value>) -> Result<Value> {
    let lock = files::read_text(&workspace.root().join("Cargo.lock"))?;
    let lock: Lock = toml::from_str(&lock).context("cannot parse Cargo.lock")?;
    let checksum = |locked: Locked| ((locked.name, locked.version), locked.checksum);
    let checksums: Checksums = lock.package.into_iter().map(checksum).collect();

    let root = metadata.shipped()?;
    let linked = metadata.linked()?;
    let other_refs: Vec<String> =
        others.iter().filter_map(|other| other["bom-ref"].as_str().map(str::to_owned)).collect();
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for package in linked {
        let on = metadata.dependencies(package)?;
        let mut on: BTreeSet<String> = on.into_iter().map(Package::purl).collect();
        if package.id == root.id {
            on.extend(other_refs.iter().cloned());
        } else {
            components.push(package.component("library", &package.name, &checksums));
        }
        dependencies.push(json!({"ref": package.purl(), "dependsOn": on}));
    }
    components.extend(others);
    dependencies.extend(other_refs.iter().map(|of| json!({"ref": of, "dependsOn": []})));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root.component("application", "embedgate", &checksums)},
        "components": components,
        "dependencies": dependencies,
    }))
}

impl Package {
    /// The package URL, by which tools identify it.
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn component(&self, kind: &str, name: &str, checksums: &Checksums) -> Value {
        let mut component = json!({
            "type": kind,
            "bom-ref": self.purl(),
            "name": name,
            "version": self.version,
            "purl": self.purl(),
        });
        if let Some(license) = &self.license {
            // Old manifests separate alternatives by a slash.
            component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        if let Some(url) = &self.repository {
            component["externalReferences"] = json!([{"type": "vcs", "url": url}]);
        }
        let checksum = checksums.get(&(self.name.clone(), self.version.clone()));
        if let Some(Some(checksum)) = checksum {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        component
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_exactly_the_linked_crates() {
        let document = || {
            let workspace = Workspace::locate().unwrap();
            let metadata = Metadata::read(&workspace, "x86_64-unknown-linux-gnu").unwrap();
            let model = json!({"bom-ref": "pkg:huggingface/m", "name": "m", "purl": "pkg:huggingface/m"});
            super::document(&workspace, &metadata, vec![model]).unwrap()
        };
        let (document, again) = (document(), document());
        let components = document["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
        for inside in ["actix-web", "bert-cpu", "ort", "serde", "tokenizers"] {
            assert!(names.contains(&inside), "{inside} is missing");
        }
        for outside in ["bolero", "insta", "proptest", "xtask", "gateway"] {
            assert!(!names.contains(&outside), "{outside} is not in the binary");
        }
        for component in components.iter().filter(|component| component["name"] != "m") {
            let name = component["name"].as_str().unwrap();
            assert!(component["licenses"][0]["expression"].is_string(), "{name} has no license");
            let ours = component["purl"].as_str().unwrap().ends_with(concat!("@", env!("CARGO_PKG_VERSION")))
                && component["hashes"].is_null();
            let digest = component["hashes"][0]["content"].as_str().unwrap_or_default();
            assert!(ours || digest.len() == 64, "{name} has no digest");
        }
        let known: Vec<&Value> = std::iter::once(&document["metadata"]["component"])
            .chain(components)
            .map(|component| &component["bom-ref"])
            .collect();
        for dependency in document["dependencies"].as_array().unwrap() {
            assert!(known.contains(&&dependency["ref"]));
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(known.contains(&on), "{on} is not described");
            }
        }
        assert_eq!(known.last().unwrap(), &"pkg:huggingface/m");
        assert_eq!(document["dependencies"].as_array().unwrap().len(), known.len());
        assert_eq!(document, again);
    }

    #[test]
    fn old_licenses_become_spdx_expressions() {
        let package = Package {
            id: String::new(),
            name: "a".to_owned(),
            version: "1.0.0".to_owned(),
            license: Some("MIT/Apache-2.0".to_owned()),
            repository: None,
            manifest_path: PathBuf::new(),
            source: None,
        };
        let component = package.component("library", "a", &Checksums::new());
        assert_eq!(component["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(component["purl"], "pkg:cargo/a@1.0.0");
    }
}
