//! The Helm chart: what it renders is read, and then run.

mod tools;

use std::ffi::OsStr;
use std::iter;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use self::tools::Tools;
use crate::image;
use crate::setup;
use crate::tap;
use crate::test::report::{Report, Suite};
use crate::workspace::Workspace;

/// Each script takes about a minute on a machine with nothing else to do; only a hang takes this long.
const LIMIT: Duration = Duration::from_secs(600);

/// Installs what is missing, then runs the chart's checks.
///
/// # Errors
/// The tools cannot be installed. What the checks find wrong is in the report instead.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let mut rendered = Suite::new("chart, rendered");
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        rendered.skip("Helm's program comes for Linux on x86-64 only");
        report.suites.push(rendered);
        return Ok(());
    }
    let tools = Tools::install(workspace)?;
    println!("\n{}", rendered.name);
    tap::drive(tools.script("static/run.py").current_dir(workspace.root()), LIMIT, &mut rendered)?;
    report.suites.push(rendered);

    let mut run = Suite::new("chart, run");
    println!("\n{}", run.name);
    let prometheus = setup::prometheus::install(workspace)?;
    let mut script = tools.script("live/run.py");
    script.arg("--binary").arg(workspace.release_binary()).arg("--prometheus").arg(prometheus);
    let image = image::Built::new(workspace)?;
    match &image {
        Ok(image) => {
            script.args(["--image", &image.name, "--podman", &words(&image.podman())?]);
        }
        Err(reason) => run.skip(format!("containers, in place of which processes were run: {reason}")),
    }
    tap::drive(script.current_dir(workspace.root()), LIMIT, &mut run)?;
    report.suites.push(run);
    Ok(())
}

/// A command as a list in JSON.
fn words(command: &Command) -> Result<String> {
    let words = iter::once(command.get_program()).chain(command.get_args());
    let words: Option<Vec<_>> = words.map(OsStr::to_str).collect();
    Ok(json!(words.context("a path is not UTF-8")?).to_string())
}
