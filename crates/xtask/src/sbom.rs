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

use testkit::workspace::Workspace;

use crate::cargo_metadata::{Metadata, Package};

/// The package whose binary is described.
const ROOT: &str = "gateway";

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
    let text = format!("{:#}\n", document(workspace, &options.target)?);
    match &options.output {
        Some(path) => std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display())),
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

/// The document for a platform.
pub(crate) fn document(workspace: &Workspace, target: &str) -> Result<Value> {
    let metadata = Metadata::read(workspace, target)?;
    let path = workspace.root().join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lock: Lock = toml::from_str(&lock).context("cannot read Cargo.lock")?;
    let checksums: BTreeMap<_, _> =
        lock.package.into_iter().map(|locked| ((locked.name, locked.version), locked.checksum)).collect();
    describe(&metadata, &checksums)
}

type Checksums = BTreeMap<(String, String), Option<String>>;

fn describe(metadata: &Metadata, checksums: &Checksums) -> Result<Value> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let linked: BTreeMap<&str, Vec<&str>> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node.linked())).collect();
    let root = metadata.packages.iter().find(|package| package.name == ROOT && package.source.is_none());
    let root = root.with_context(|| format!("there is no package {ROOT}"))?;

    let (mut inside, mut open) = (BTreeSet::new(), vec![root.id.as_str()]);
    while let Some(id) = open.pop() {
        if inside.insert(id) {
            open.extend(linked.get(id).into_iter().flatten());
        }
    }
    let package =
        |id: &str| packages.get(id).copied().with_context(|| format!("Cargo names no package {id}"));
    let mut inside: Vec<&Package> = inside.into_iter().map(package).collect::<Result<_>>()?;
    inside.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));

    let components = inside.iter().filter(|package| package.id != root.id);
    let components: Vec<Value> = components.map(|package| package.component("library", checksums)).collect();
    let dependencies = inside.iter().map(|of| {
        let on = linked.get(of.id.as_str()).into_iter().flatten().map(|id| Ok(package(id)?.purl()));
        Ok(json!({"ref": of.purl(), "dependsOn": on.collect::<Result<BTreeSet<_>>>()?}))
    });
    let dependencies: Vec<Value> = dependencies.collect::<Result<_>>()?;
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root.component("application", checksums)},
        "components": components,
        "dependencies": dependencies,
    }))
}

impl Package {
    /// The package URL, by which tools identify it.
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn component(&self, kind: &str, checksums: &Checksums) -> Value {
        let mut component = json!({
            "type": kind,
            "bom-ref": self.purl(),
            "name": if self.name == ROOT { "embedgate" } else { &self.name },
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

    fn names(document: &Value) -> Vec<&str> {
        let components = document["components"].as_array().unwrap();
        components.iter().map(|component| component["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_document_lists_exactly_the_linked_crates() {
        let workspace = Workspace::locate().unwrap();
        let document = document(&workspace, "x86_64-unknown-linux-gnu").unwrap();
        let names = names(&document);
        for inside in ["actix-web", "bert-cpu", "ort", "serde", "tokenizers"] {
            assert!(names.contains(&inside), "{inside} is missing");
        }
        for outside in ["bolero", "insta", "proptest", "xtask", "gateway"] {
            assert!(!names.contains(&outside), "{outside} is not in the binary");
        }
        for component in document["components"].as_array().unwrap() {
            let name = component["name"].as_str().unwrap();
            assert!(component["licenses"][0]["expression"].is_string(), "{name} has no license");
            let ours = component["purl"].as_str().unwrap().ends_with(concat!("@", env!("CARGO_PKG_VERSION")))
                && component["hashes"].is_null();
            let digest = component["hashes"][0]["content"].as_str().unwrap_or_default();
            assert!(ours || digest.len() == 64, "{name} has no digest");
        }
        let known: Vec<&Value> = std::iter::once(&document["metadata"]["component"])
            .chain(document["components"].as_array().unwrap())
            .map(|component| &component["bom-ref"])
            .collect();
        for dependency in document["dependencies"].as_array().unwrap() {
            assert!(known.contains(&&dependency["ref"]));
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(known.contains(&on), "{on} is not described");
            }
        }
        assert_eq!(document, super::document(&workspace, "x86_64-unknown-linux-gnu").unwrap());
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
        let component = package.component("library", &Checksums::new());
        assert_eq!(component["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(component["purl"], "pkg:cargo/a@1.0.0");
    }
}
