//! The parts of `cargo metadata` that the archive and its bill of materials need.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;
use testkit::process;
use testkit::workspace::Workspace;

/// The package of the shipped binary.
const SHIPPED: &str = "gateway";

#[derive(Deserialize)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
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
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
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

    /// The package of the shipped binary.
    pub(crate) fn shipped(&self) -> Result<&Package> {
        let is_shipped = |package: &&Package| package.name == SHIPPED && package.source.is_none();
        self.packages.iter().find(is_shipped).with_context(|| format!("there is no package {SHIPPED}"))
    }

    /// The packages that `package` links, without those of build scripts and tests.
    pub(crate) fn dependencies(&self, package: &Package) -> Result<Vec<&Package>> {
        let node = self.resolve.nodes.iter().find(|node| node.id == package.id);
        let all = node.into_iter().flat_map(|node| &node.deps);
        let linked = all.filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        let package = |dependency: &Dependency| {
            let found = self.packages.iter().find(|package| package.id == dependency.pkg);
            found.with_context(|| format!("Cargo names no package {}", dependency.pkg))
        };
        linked.map(package).collect()
    }

    /// The shipped package and everything that is linked into its binary, by name and version.
    pub(crate) fn linked(&self) -> Result<Vec<&Package>> {
        let mut linked = BTreeMap::new();
        let mut open = vec![self.shipped()?];
        while let Some(package) = open.pop() {
            if linked.insert((&package.name, &package.version), package).is_none() {
                open.extend(self.dependencies(package)?);
            }
        }
        Ok(linked.into_values().collect())
    }
}
