//! What a builder is sent: everything that the image is built from, and nothing that a machine has fetched or built.

use std::process::Command;

use anyhow::{Result, ensure};

use super::engine::Engine;
use crate::process::capture;
use crate::workspace::Workspace;

/// As `.dockerignore` has it.
const BUILT_FROM: [&str; 11] = [
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
/// Builds, downloads, an import and weights: all of them are there when images are tested.
const LEFT_OUT: [&str; 4] = [
    "target",
    ".runtime",
    "models/all-MiniLM-L6-v2/embedgate.onnx.data",
    "models/all-MiniLM-L6-v2/model.safetensors",
];

/// # Errors
/// The image cannot be built from what is sent, or more is sent than that.
pub(super) fn check(engine: &Engine, workspace: &Workspace) -> Result<()> {
    let mut git = Command::new("git");
    let tracked = capture(git.arg("-C").arg(workspace.root()).args(["ls-files", "--"]).args(BUILT_FROM))?;
    let image = engine.copy(workspace)?;
    engine.mounted(&image, |sent| {
        for file in tracked.lines() {
            // A link's target may lie elsewhere.
            ensure!(sent.join(file).symlink_metadata().is_ok(), "{file} is not sent");
        }
        for path in LEFT_OUT {
            ensure!(
                workspace.root().join(path).exists(),
                "{path} is not there: whether it is sent cannot be seen"
            );
            ensure!(!sent.join(path).exists(), "{path} is sent");
        }
        Ok(())
    })
}
