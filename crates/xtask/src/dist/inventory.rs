//! The archive's bill of materials: the binary's dependencies, the library and the model.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::manifest::PackageManifest;
use crate::digest::hex;
use crate::sbom;
use testkit::workspace::{DEFAULT_MODEL, Workspace};

/// The model's largest file.
const WEIGHTS: &str = "model.safetensors";

/// The CycloneDX document of the archive.
pub(super) fn document(
    workspace: &Workspace,
    target: &str,
    manifest: &PackageManifest,
    runtime: &Path,
) -> Result<Value> {
    let mut document = sbom::document(workspace, target)?;
    let weights =
        manifest.files.get(WEIGHTS).with_context(|| format!("the manifest does not list {WEIGHTS}"))?;
    add(&mut document, vec![library(runtime)?, model(manifest, &weights.sha256)])?;
    Ok(document)
}

/// ONNX Runtime; its version is part of the file name behind the link.
fn library(runtime: &Path) -> Result<Value> {
    let link = runtime.join("libonnxruntime.so");
    let at = || format!("cannot read {}", link.display());
    let file = fs::read_link(&link).with_context(at)?;
    let version = file.to_string_lossy();
    let version = version
        .strip_prefix("libonnxruntime.so.")
        .context("the name of ONNX Runtime's file has no version")?;
    let mut hash = HashWriter(Sha256::new());
    io::copy(&mut File::open(&link).with_context(at)?, &mut hash).with_context(at)?;
    let digest = hex(hash.0);
    Ok(json!({
        "type": "library",
        "bom-ref": format!("pkg:generic/onnxruntime@{version}"),
        "name": "onnxruntime",
        "version": version,
        "purl": format!("pkg:generic/onnxruntime@{version}"),
        "licenses": [{"expression": "MIT"}],
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }))
}

fn model(manifest: &PackageManifest, digest: &str) -> Value {
    let purl = format!("pkg:huggingface/{}", manifest.hub_id);
    json!({
        "type": "machine-learning-model",
        "bom-ref": purl,
        "name": DEFAULT_MODEL,
        "purl": purl,
        "licenses": [{"expression": manifest.license}],
        "hashes": [{"alg": "SHA-256", "content": digest}],
    })
}

/// Adds components that the program depends on and that have no dependencies in the document.
fn add(document: &mut Value, components: Vec<Value>) -> Result<()> {
    let root = document["metadata"]["component"]["bom-ref"].clone();
    let refs: Vec<Value> = components.iter().map(|component| component["bom-ref"].clone()).collect();
    let dependencies = document["dependencies"].as_array_mut().context("a document without dependencies")?;
    let of_root = dependencies.iter_mut().find(|dependency| dependency["ref"] == root);
    let on = of_root.and_then(|dependency| dependency["dependsOn"].as_array_mut());
    on.context("a document without the program's dependencies")?.extend(refs.iter().cloned());
    dependencies.extend(refs.iter().map(|of| json!({"ref": of, "dependsOn": []})));
    document["components"].as_array_mut().context("a document without components")?.extend(components);
    Ok(())
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.0.update(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_listed_with_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libonnxruntime.so.1.2.3"), "abc").unwrap();
        std::os::unix::fs::symlink("libonnxruntime.so.1.2.3", folder.path().join("libonnxruntime.so"))
            .unwrap();
        let mut document = json!({
            "metadata": {"component": {"bom-ref": "a"}},
            "components": [],
            "dependencies": [{"ref": "a", "dependsOn": ["b"]}],
        });
        add(&mut document, vec![library(folder.path()).unwrap()]).unwrap();
        let component = &document["components"][0];
        assert_eq!(component["version"], "1.2.3");
        // SHA-256 of "abc", from FIPS 180-4's example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(component["hashes"][0]["content"], abc);
        let purl = "pkg:generic/onnxruntime@1.2.3";
        let expected = json!([{"ref": "a", "dependsOn": ["b", purl]}, {"ref": purl, "dependsOn": []}]);
        assert_eq!(document["dependencies"], expected);
        assert!(add(&mut json!({"dependencies": []}), Vec::new()).is_err());
    }
}
