//! The Helm chart: what it renders is read, and then run.

mod tools;

use std::time::Duration;

use anyhow::Result;

use self::tools::Tools;
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
    match setup::prometheus::install(workspace) {
        Ok(prometheus) => {
            let mut script = tools.script("live/run.py");
            script.arg("--binary").arg(workspace.release_binary()).arg("--prometheus").arg(prometheus);
            tap::drive(script.current_dir(workspace.root()), LIMIT, &mut run)?;
        }
        Err(error) => run.fail(format!("{error:#}")),
    }
    report.suites.push(run);
    Ok(())
}
