//! The archive's bill of materials: what the binary holds, and the library and the model that go along.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::contents::ModelManifest;
use crate::digest::hex;
use crate::sbom;
use crate::workspace::{DEFAULT_MODEL, Workspace};

/// The file that is most of the model.
const WEIGHTS: &str = "model.safetensors";

/// The whole as a CycloneDX document.
///
/// # Errors
/// Cargo cannot resolve the workspace, the library cannot be read, or the manifest does not list the weights.
pub(super) fn document(
    workspace: &Workspace,
    target: &str,
    manifest: &ModelManifest,
    runtime: &Path,
) -> Result<Value> {
    let mut document = sbom::document(workspace, target)?;
    let weights =
        manifest.files.get(WEIGHTS).with_context(|| format!("the manifest does not list {WEIGHTS}"))?;
    add(&mut document, vec![library(runtime)?, model(manifest, &weights.sha256)])?;
    Ok(document)
}

/// ONNX Runtime, by the file that its customary name leads to.
fn library(runtime: &Path) -> Result<Value> {
    let link = runtime.join("libonnxruntime.so");
    let at = || format!("cannot read {}", link.display());
    let file = fs::read_link(&link).with_context(at)?;
    let version = file.to_string_lossy();
    let version =
        version.strip_prefix("libonnxruntime.so.").context("ONNX Runtime's file tells no version")?;
    let mut hash = Hashing(Sha256::new());
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

fn model(manifest: &ModelManifest, digest: &str) -> Value {
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

/// Adds components on which the program depends and which depend on nothing that is described.
fn add(document: &mut Value, components: Vec<Value>) -> Result<()> {
    let root = document["metadata"]["component"]["bom-ref"].clone();
    let refs: Vec<Value> = components.iter().map(|component| component["bom-ref"].clone()).collect();
    let dependencies = document["dependencies"].as_array_mut().context("a bill without dependencies")?;
    let of_root = dependencies.iter_mut().find(|dependency| dependency["ref"] == root);
    let on = of_root.and_then(|dependency| dependency["dependsOn"].as_array_mut());
    on.context("a bill that does not say what the program needs")?.extend(refs.iter().cloned());
    dependencies.extend(refs.iter().map(|of| json!({"ref": of, "dependsOn": []})));
    document["components"].as_array_mut().context("a bill without components")?.extend(components);
    Ok(())
}

struct Hashing(Sha256);

impl io::Write for Hashing {
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
    fn what_goes_along_is_listed_with_its_digest() {
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
