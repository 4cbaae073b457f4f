//! The Helm chart: what it renders is read, and then run.

mod tools;

use std::time::Duration;

use anyhow::Result;

use self::tools::Tools;
use crate::tap;
use crate::test::report::{Report, Suite};
use crate::workspace::Workspace;

/// The checks take seconds; only a hang takes this long.
const LIMIT: Duration = Duration::from_secs(300);

/// Installs what is missing, then runs the chart's checks.
///
/// # Errors
/// The tools cannot be installed. What the checks find wrong is in the report instead.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let mut suite = Suite::new("chart, rendered");
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        suite.skip("Helm's program comes for Linux on x86-64 only");
        report.suites.push(suite);
        return Ok(());
    }
    let tools = Tools::install(workspace)?;
    println!("\n{}", suite.name);
    tap::drive(tools.script("static/run.py").current_dir(workspace.root()), LIMIT, &mut suite)?;
    report.suites.push(suite);
    Ok(())
}
