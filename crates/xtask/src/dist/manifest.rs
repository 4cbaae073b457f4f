//! The part of a model's manifest that the archive needs.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;
use testkit::workspace::{DEFAULT_MODEL, Workspace};

#[derive(Deserialize)]
pub(super) struct PackageManifest {
    pub(super) hub_id: String,
    pub(super) license: String,
    pub(super) files: BTreeMap<String, ManifestFile>,
}

#[derive(Deserialize)]
pub(super) struct ManifestFile {
    pub(super) sha256: String,
}

impl PackageManifest {
    /// The default model's manifest.
    pub(super) fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.model(DEFAULT_MODEL).join("model.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in {}", path.display()))
    }
}
