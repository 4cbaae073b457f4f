//! The files of an archive, each with the source of its content.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::{Platform, inventory, licenses};
use crate::cargo_metadata::Metadata;
use crate::setup::model::Manifest;
use testkit::files;
use testkit::workspace::{DEFAULT_MODEL, Workspace};

/// The license whose text is our own LICENSE.
const OWN_LICENSE: &str = "Apache-2.0";
/// ONNX Runtime's graph of the model and its weights, which the native kernels do not need.
const GRAPH: [&str; 2] = ["embedgate.onnx", "embedgate.onnx.data"];
/// Architectures with native kernels.
const NATIVE_ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// The build of ONNX Runtime in the archive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// For CPUs.
    Cpu,
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
    /// A file's content.
    File(PathBuf),
    Text(String),
    /// A link to a file in the same folder.
    Link(String),
}

/// All files, sorted by path. Fails if something was not fetched, built or imported, or a license is unknown.
pub(super) fn list(workspace: &Workspace, platform: &Platform, variant: Variant) -> Result<Vec<Entry>> {
    let root = workspace.root();
    let runtime = &platform.onnxruntime;
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

    let manifest = Manifest::read(workspace)?;
    let folder = workspace.model(DEFAULT_MODEL);
    // With native kernels, the graph would only double the size of the model.
    let graph = variant == Variant::Cuda || !NATIVE_ARCHITECTURES.contains(&platform.arch);
    let names = manifest.files.keys().map(String::as_str).chain(["model.toml"]);
    for name in names.chain(GRAPH.into_iter().filter(|_| graph)) {
        entries.push(file(&format!("models/{DEFAULT_MODEL}/{name}"), folder.join(name)));
    }
    ensure!(
        manifest.license == OWN_LICENSE,
        "the archive has no text of the model's license, {}",
        manifest.license
    );
    let license = format!("{}\n{}: the text is in share/LICENSE.\n", manifest.hub_id, manifest.license);
    entries.push(text(&format!("share/licences/{DEFAULT_MODEL}.txt"), &license));

    let metadata = Metadata::read(workspace, &format!("{}-unknown-linux-gnu", platform.arch))?;
    let inventory = inventory::document(workspace, &metadata, &manifest, runtime)?;
    entries.push(text("share/licences/rust.txt", &licenses::texts(&metadata)?));
    entries.push(text("share/sbom.cdx.json", &format!("{inventory:#}\n")));
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// ONNX Runtime's shared libraries, and the name that programs look for.
fn libraries(runtime: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for path in files::list(runtime)? {
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
        "{} does not contain ONNX Runtime: unset ORT_DYLIB_PATH, so that it is fetched",
        runtime.display()
    );
    Ok(entries)
}

fn file(path: &str, from: PathBuf) -> Entry {
    Entry { path: path.to_owned(), content: Content::File(from), executable: false }
}

fn text(path: &str, text: &str) -> Entry {
    Entry { path: path.to_owned(), content: Content::Text(text.to_owned()), executable: false }
}
