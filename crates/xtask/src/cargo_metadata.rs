//! The parts of `cargo metadata` that the archive and its bill of materials need.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;
use testkit::process;
use testkit::workspace::Workspace;

#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) resolve: Resolve,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) manifest_path: PathBuf,
    /// `None` for crates of the workspace.
    pub(crate) source: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

#[derive(Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

impl Metadata {
    /// Packages and dependencies of the workspace on a platform.
    pub(crate) fn read(workspace: &Workspace, target: &str) -> Result<Self> {
        let mut cargo = process::cargo();
        cargo.args(["metadata", "--format-version=1", "--locked", "--filter-platform", target]);
        let metadata = process::capture(cargo.current_dir(workspace.root()))?;
        serde_json::from_str(&metadata).context("cannot parse Cargo's metadata")
    }
}

impl Node {
    /// Linked dependencies, without those of build scripts and tests.
    pub(crate) fn linked(&self) -> Vec<&str> {
        let ordinary = |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
        self.deps.iter().filter(ordinary).map(|dependency| dependency.pkg.as_str()).collect()
    }
}
