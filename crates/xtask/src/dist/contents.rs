//! What belongs into an archive: the list of its files, each with where its content comes from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Platform, inventory, licences};
use crate::workspace::{DEFAULT_MODEL, Workspace};

/// The licence whose text stands in our own LICENSE.
const OWN_LICENSE: &str = "Apache-2.0";
/// ONNX Runtime's graph of the model, which embedgate's own kernels do not need, and its weights.
const GRAPH: [&str; 2] = ["embedgate.onnx", "embedgate.onnx.data"];
/// Processors that these are for.
const OWN_KERNELS: [&str; 2] = ["x86_64", "aarch64"];

/// Which of ONNX Runtime's builds goes along.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// For processors.
    Processor,
    /// For NVIDIA's CUDA.
    Cuda,
}

/// One file.
#[derive(Debug)]
pub(super) struct Entry {
    /// Below the archive's one folder.
    pub(super) path: String,
    pub(super) content: Content,
    pub(super) executable: bool,
}

#[derive(Debug)]
pub(super) enum Content {
    /// What that file holds.
    File(PathBuf),
    Text(String),
    /// A link to a file beside it.
    Link(String),
}

/// The part that we read of a model's manifest.
#[derive(Deserialize)]
pub(super) struct ModelManifest {
    pub(super) hub_id: String,
    pub(super) license: String,
    pub(super) files: BTreeMap<String, ManifestFile>,
}

#[derive(Deserialize)]
pub(super) struct ManifestFile {
    pub(super) sha256: String,
}

/// Every file, sorted by path.
///
/// # Errors
/// Something was not fetched, built or imported, or a licence is not known.
pub(super) fn list(workspace: &Workspace, platform: &Platform, variant: Variant) -> Result<Vec<Entry>> {
    let root = workspace.root();
    let (runtime, target) = (&platform.onnxruntime, platform.target());
    let mut entries = vec![
        Entry { executable: true, ..file("bin/embedgate", platform.binary.clone()) },
        file("share/LICENSE", root.join("LICENSE")),
        file("config/embedgate.toml", root.join("config/embedgate.toml")),
        file("share/embedgate.service", root.join("deploy/systemd/embedgate.service")),
        file("share/licences/onnxruntime/LICENSE", runtime.join("LICENSE")),
        file("share/licences/onnxruntime/ThirdPartyNotices.txt", runtime.join("ThirdPartyNotices.txt")),
        text("README.md", include_str!("README.md")),
    ];
    entries.extend(libraries(runtime)?);

    let manifest = manifest(workspace)?;
    let folder = workspace.model(DEFAULT_MODEL);
    // Where our own kernels run, the graph would double the model for nothing.
    let graph = variant == Variant::Cuda || !OWN_KERNELS.contains(&platform.arch);
    let names = manifest.files.keys().map(String::as_str).chain(["model.toml"]);
    for name in names.chain(GRAPH.into_iter().filter(|_| graph)) {
        entries.push(file(&format!("models/{DEFAULT_MODEL}/{name}"), folder.join(name)));
    }
    ensure!(
        manifest.license == OWN_LICENSE,
        "the text of the model's licence, {}, is not here",
        manifest.license
    );
    let license = format!("{}\n{}: the text is in share/LICENSE.\n", manifest.hub_id, manifest.license);
    entries.push(text(&format!("share/licences/{DEFAULT_MODEL}.txt"), &license));

    let inventory = inventory::document(workspace, &target, &manifest, runtime)?;
    entries.push(text("share/licences/rust.txt", &licences::texts(workspace, &target, &inventory)?));
    entries.push(text("share/sbom.cdx.json", &format!("{inventory:#}\n")));
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// ONNX Runtime's shared library, and the name under which programs look for it.
fn libraries(runtime: &Path) -> Result<Vec<Entry>> {
    let listed = fs::read_dir(runtime).with_context(|| format!("cannot list {}", runtime.display()))?;
    let mut entries = Vec::new();
    for found in listed {
        let path = found.with_context(|| format!("cannot list {}", runtime.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("lib") {
            continue;
        }
        let mut entry = file(&format!("lib/{name}"), path.clone());
        if let Ok(target) = fs::read_link(&path) {
            entry.content = Content::Link(target.to_string_lossy().into_owned());
        }
        entries.push(entry);
    }
    ensure!(
        entries.iter().any(|entry| entry.path == "lib/libonnxruntime.so"),
        "{} does not hold ONNX Runtime: unset ORT_DYLIB_PATH, so that it is fetched",
        runtime.display()
    );
    Ok(entries)
}

/// The default model's manifest.
fn manifest(workspace: &Workspace) -> Result<ModelManifest> {
    let path = workspace.model(DEFAULT_MODEL).join("model.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("in {}", path.display()))
}

fn file(path: &str, from: PathBuf) -> Entry {
    Entry { path: path.to_owned(), content: Content::File(from), executable: false }
}

fn text(path: &str, text: &str) -> Entry {
    Entry { path: path.to_owned(), content: Content::Text(text.to_owned()), executable: false }
}
