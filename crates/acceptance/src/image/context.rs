//! The build context: it contains the image's sources, and no downloads or build outputs.

use std::process::Command;

use anyhow::{Result, ensure};

use super::engine::Engine;
use testkit::process::capture;
use testkit::workspace::Workspace;

/// As in `.dockerignore`.
const SOURCES: [&str; 11] = [
    ".cargo",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "config",
    "crates",
    "deploy/docker/etc",
    "deploy/docker/root",
    "deploy/systemd",
    "models",
    "rust-toolchain.toml",
];
/// Build outputs, downloads, an import and weights: all of them exist when images are tested.
const EXCLUDED: [&str; 4] = [
    "target",
    ".runtime",
    "models/all-MiniLM-L6-v2/embedgate.onnx.data",
    "models/all-MiniLM-L6-v2/model.safetensors",
];

/// Checks that the context contains all sources and none of the excluded paths.
pub(super) fn check(engine: &Engine, workspace: &Workspace) -> Result<()> {
    let mut git = Command::new("git");
    let tracked = capture(git.arg("-C").arg(workspace.root()).args(["ls-files", "--"]).args(SOURCES))?;
    let image = engine.copy(workspace)?;
    engine.mounted(&image, |sent| {
        for file in tracked.lines() {
            // A link's target may be elsewhere.
            ensure!(sent.join(file).symlink_metadata().is_ok(), "{file} is missing from the context");
        }
        for path in EXCLUDED {
            ensure!(
                workspace.root().join(path).exists(),
                "{path} does not exist, so its exclusion cannot be checked"
            );
            ensure!(!sent.join(path).exists(), "{path} is in the context");
        }
        Ok(())
    })
}
