//! The archive's bill of materials: the binary's dependencies, the library and the model.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cargo_metadata::Metadata;
use crate::digest::HashingWriter;
use crate::sbom;
use crate::setup::model::Manifest;
use testkit::workspace::{DEFAULT_MODEL, Workspace};

/// The model's largest file.
const WEIGHTS: &str = "model.safetensors";

/// The CycloneDX document of the archive.
pub(super) fn document(
    workspace: &Workspace,
    metadata: &Metadata,
    manifest: &Manifest,
    runtime: &Path,
) -> Result<Value> {
    let weights =
        manifest.files.get(WEIGHTS).with_context(|| format!("the manifest does not list {WEIGHTS}"))?;
    sbom::document(workspace, metadata, vec![library(runtime)?, model(manifest, &weights.sha256)])
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
    let mut hash = HashingWriter::new(io::sink());
    io::copy(&mut File::open(&link).with_context(at)?, &mut hash).with_context(at)?;
    let (.., digest) = hash.finish();
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

fn model(manifest: &Manifest, digest: &str) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_listed_with_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libonnxruntime.so.1.2.3"), "abc").unwrap();
        std::os::unix::fs::symlink("libonnxruntime.so.1.2.3", folder.path().join("libonnxruntime.so"))
            .unwrap();
        let component = library(folder.path()).unwrap();
        assert_eq!(component["version"], "1.2.3");
        // SHA-256 of "abc", from FIPS 180-4's example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(component["hashes"][0]["content"], abc);
        assert_eq!(component["purl"], "pkg:generic/onnxruntime@1.2.3");
    }
}
