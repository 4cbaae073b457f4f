//! Real clients, each in its own pinned environment, against the release binary.
//!
//! A script takes the base URL, prints the Test Anything Protocol and checks vectors, not lengths. The server
//! is started as a user starts it and stopped as a supervisor stops it.

mod environment;
mod https;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use self::environment::{Environments, Kind};
use crate::server::Server;
use crate::tap;
use crate::test::report::{Report, Suite};
use crate::workspace::Workspace;

/// A client that hangs must not hang the run; the slowest takes seconds.
const LIMIT: Duration = Duration::from_secs(300);

/// Name in the report, environment, script.
const SUITES: [(&str, Kind, &str); 10] = [
    ("openai (Python) 1.109.1", Kind::Python("openai-1"), "check_openai.py"),
    ("openai (Python) 2.54.0", Kind::Python("frameworks"), "check_openai.py"),
    ("openai (Python) 3.54.0", Kind::Python("openai-3"), "check_openai.py"),
    ("langchain-openai 1.7.3", Kind::Python("frameworks"), "check_langchain.py"),
    ("llama-index 0.6.0, openai-like 0.4.0", Kind::Python("frameworks"), "check_llama_index.py"),
    ("litellm 1.106.2", Kind::Python("frameworks"), "check_litellm.py"),
    ("haystack 3.4.0", Kind::Python("frameworks"), "check_haystack.py"),
    ("openai (npm) 4.104.0, 7.57.0", Kind::Node, "check_openai.mjs"),
    ("@langchain/openai (npm) 1.6.0", Kind::Node, "check_langchain.mjs"),
    ("schemathesis 4.32.5, docs/openapi.yaml", Kind::Python("schemathesis"), "check_openapi.py"),
];

/// Installs what is missing, then runs every client against one server.
///
/// # Errors
/// The server does not start. What a client finds wrong is in the report instead.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let environments = Environments::prepare(workspace)?;
    let server = Server::start(workspace, &[])?;
    for (name, kind, script) in SUITES {
        println!("\n{name}");
        let mut suite = Suite::new(name);
        match environments.command(kind, script) {
            Ok(mut command) => {
                tap::drive(told(&mut command, &server, workspace), LIMIT, &mut suite)?;
            }
            Err(reason) => suite.fail(reason),
        }
        report.suites.push(suite);
    }

    let mut suite = Suite::new("server under the clients");
    match server.stop() {
        Ok(()) => suite.passed += 1,
        Err(error) => suite.fail(format!("{error:#}")),
    }
    report.suites.push(suite);
    limits(workspace, &environments, report)?;
    https::run(workspace, &environments, report)
}

/// The newest SDK before a server with keys and limits.
fn limits(workspace: &Workspace, environments: &Environments<'_>, report: &mut Report) -> Result<()> {
    let keys = workspace.runtime().join("clients/keys");
    fs::write(&keys, "patient=sk-patient\nhasty=sk-hasty\n").context("cannot write a file of keys")?;
    let keys = format!("--api-keys-file={}", keys.display());
    let server = Server::start(workspace, &[keys, "--key-requests-per-minute=6".to_owned()])?;
    let mut suite = Suite::new("openai (Python) 3.54.0, keys and limits");
    println!("\n{}", suite.name);
    match environments.command(Kind::Python("openai-3"), "check_openai_limits.py") {
        Ok(mut command) => {
            tap::drive(told(&mut command, &server, workspace), LIMIT, &mut suite)?;
        }
        Err(reason) => suite.fail(reason),
    }
    if let Err(error) = server.stop() {
        suite.fail(format!("{error:#}"));
    }
    report.suites.push(suite);
    Ok(())
}

/// A script's command with what every one is told: where the server is, the reference texts and vectors, which the Rust
/// tests read too, and how near to these vectors must be at the least.
fn told<'c>(command: &'c mut Command, server: &Server, workspace: &Workspace) -> &'c mut Command {
    let reference = workspace.root().join("crates/gateway/tests/data/all-MiniLM-L6-v2.reference.json");
    command.arg(format!("{}/v1", server.origin())).arg(reference).arg(server.least_cosine());
    command.current_dir(workspace.root())
}
