//! The rival that anyone can write in an hour: tokenizers and onnxruntime in a Python loop.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{client::Measured, texts};
use crate::{
    process::capture,
    setup::python::Python,
    workspace::{DEFAULT_MODEL, Workspace},
};

/// The same library as ours, so that the difference is what is around it.
const PACKAGES: [&str; 3] = ["onnxruntime==1.32.0", "tokenizers==0.22.1", "numpy==2.3.5"];

const SCRIPT: &str = include_str!("plain.py");

/// A virtual environment with the script's packages.
pub(super) struct Plain<'a> {
    workspace: &'a Workspace,
}

#[derive(Deserialize)]
struct Printed {
    seconds: f64,
    milliseconds: Vec<f64>,
}

impl<'a> Plain<'a> {
    /// Installs the packages unless they are there.
    pub(super) fn prepare(workspace: &'a Workspace) -> Result<Self> {
        let plain = Self { workspace };
        let stamp = plain.folder().join("packages");
        let packages = PACKAGES.join("\n");
        if fs::read_to_string(&stamp).is_ok_and(|found| found == packages) {
            return Ok(plain);
        }
        eprintln!("installing {} …", PACKAGES.join(", "));
        let venv = Python::new(workspace).venv(&plain.folder())?;
        capture(venv.pip().args(["install", "--only-binary=:all:"]).args(PACKAGES))?;
        fs::write(&stamp, packages).with_context(|| format!("cannot write {}", stamp.display()))?;
        Ok(plain)
    }

    fn folder(&self) -> std::path::PathBuf {
        self.workspace.runtime().join("bench")
    }

    /// Embeds `runs` batches of `batch` texts, after as many to warm up as do not count.
    pub(super) fn measure(&self, batch: usize, runs: usize, round: usize) -> Result<Measured> {
        let first = round * runs * batch;
        let texts: Vec<String> = (first..first + runs * batch).map(texts::short).collect();
        let input = self.folder().join("texts.json");
        fs::write(&input, serde_json::to_string(&texts)?)
            .with_context(|| format!("cannot write {}", input.display()))?;
        let venv = crate::setup::python::Venv::at(self.folder());
        let printed = capture(
            Command::new(venv.python())
                .args(["-c", SCRIPT])
                .arg(self.workspace.model(DEFAULT_MODEL))
                .arg(&input)
                .arg(batch.to_string()),
        )?;
        let Printed { seconds, milliseconds } =
            serde_json::from_str(&printed).context("the script's output")?;
        Ok(Measured { texts: texts.len(), seconds, milliseconds })
    }
}
