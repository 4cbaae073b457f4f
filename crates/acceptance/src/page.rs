//! The page at `/` in a headless Chromium, against the release binary with the real model.
//!
//! One server has its defaults, one has an API key and one a path prefix.

use std::time::Duration;

use anyhow::{Context, Result};
use testkit::report::{Report, Suite};
use testkit::workspace::Workspace;
use testkit::{Server, files};
use xtask::setup::chromium;
use xtask::setup::environment::{self, Pins};
use xtask::setup::python::Python;

use crate::{start_server, tap};

/// Timeout of the script.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Installs what is missing and runs the checks. Failed checks are part of the report; without a browser they are
/// skipped.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let mut suite = Suite::begin("page");
    match chromium::install() {
        Ok(browser) => check(workspace, &browser.to_string_lossy(), &mut suite)?,
        Err(reason) => suite.skip(format!("{reason:#}")),
    }
    report.suites.push(suite);
    Ok(())
}

fn check(workspace: &Workspace, browser: &str, suite: &mut Suite) -> Result<()> {
    let folder = workspace.runtime().join("page");
    let pins = Pins {
        what: "the driver of the browser".to_owned(),
        folder: folder.clone(),
        requirements: workspace.clients().join("requirements/node.txt"),
        hashes: false,
        npm: Some(workspace.page_checks()),
    };
    let venv = environment::ensure(pins, &Python::new(workspace))?;
    let keys = tempfile::NamedTempFile::new().context("cannot create a file of keys")?;
    files::write(keys.path(), "tester=sk-tester\n")?;
    let keys = format!("--api-keys-file={}", keys.path().display());
    let plain = start_server(workspace, &[])?;
    let keyed = start_server(workspace, &[&keys])?;
    let prefixed = start_server(workspace, &["--path-prefix=/ai/vectors"])?;
    let screenshots = workspace.root().join("target/page");
    files::create_empty_folder(&screenshots)?;

    let mut command = std::process::Command::new(venv.bin().join("node"));
    command.arg("--test-reporter=tap").arg(environment::app(&folder).join("check_page.mjs"));
    let origins = [("PLAIN", &plain), ("KEYED", &keyed), ("PREFIXED", &prefixed)];
    command.envs(origins.map(|(name, server)| (name, server.origin())));
    command.env("BROWSER", browser).env("SCREENSHOTS", &screenshots).current_dir(workspace.root());
    tap::run(&mut command, TIMEOUT, suite)?;
    println!("screenshots: {}", workspace.display(&screenshots));
    suite.check("the servers end with code 0", || {
        [plain, keyed, prefixed].into_iter().try_for_each(Server::stop)
    });
    Ok(())
}
