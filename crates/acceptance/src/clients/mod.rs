//! Real clients, each in its own pinned environment, against the release binary.
//!
//! A script takes the base URL, prints the Test Anything Protocol, and checks the values of vectors.

mod environment;
mod https;

use std::time::Duration;

use anyhow::Result;
use testkit::model::copy_tiny;
use testkit::report::{Report, Suite};
use testkit::workspace::Workspace;
use testkit::{Server, files};

use self::environment::{Environments, Kind};
use crate::{start_server, tap};

/// Limit of a script, of which the slowest takes seconds.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Name in the report, environment, script.
const SUITES: [(&str, Kind, &str); 17] = [
    ("openai (Python) 1.109.1", Kind::Python("openai-1"), "check_openai.py"),
    ("openai (Python) 2.54.0", Kind::Python("frameworks"), "check_openai.py"),
    ("openai (Python) 3.54.0", Kind::Python("openai-3"), "check_openai.py"),
    ("langchain-openai 1.7.3", Kind::Python("frameworks"), "check_langchain.py"),
    ("llama-index 0.6.0, openai-like 0.4.0", Kind::Python("frameworks"), "check_llama_index.py"),
    ("litellm 1.106.2", Kind::Python("frameworks"), "check_litellm.py"),
    ("haystack 3.4.0", Kind::Python("frameworks"), "check_haystack.py"),
    ("pydantic-ai 2.68.0", Kind::Python("pydantic-ai"), "check_pydantic_ai.py"),
    ("Azure: openai, langchain-openai, llama-index, litellm", Kind::Python("frameworks"), "check_azure.py"),
    ("TEI: huggingface_hub 1.33.0, llama-index 0.6.0", Kind::Python("frameworks"), "check_tei.py"),
    ("cohere 7.3.1, ollama 0.6.3, voyageai 0.5.0", Kind::Python("vendors"), "check_vendors.py"),
    ("openai (npm) 4.104.0, 7.57.0", Kind::Node, "check_openai.mjs"),
    ("Azure: openai (npm) 4.104.0, 7.57.0", Kind::Node, "check_azure.mjs"),
    ("@langchain/openai (npm) 1.6.0", Kind::Node, "check_langchain.mjs"),
    ("ai (npm) 7.0.173", Kind::Node, "check_ai.mjs"),
    ("docs/semantic-search.md, pgvector 0.8.5", Kind::Python("search"), "check_semantic_search.py"),
    ("schemathesis 4.32.5, docs/openapi.yaml", Kind::Python("schemathesis"), "check_openapi.py"),
];

/// Installs what is missing, then runs every client. Failed checks are part of the report.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let clients = Clients { environments: Environments::prepare(workspace)?, workspace };
    let server = start_server(workspace, &[])?;
    for (name, kind, script) in SUITES {
        report.suites.push(clients.run(name, (kind, script), &server, &[])?);
    }
    let mut suite = Suite::new("server of the clients");
    suite.check("the server ends with code 0", || server.stop());
    report.suites.push(suite);

    let keys = workspace.runtime().join("clients/keys");
    files::write(&keys, "patient=sk-patient\nhasty=sk-hasty\n")?;
    let keys = format!("--api-keys-file={}", keys.display());
    // Admin keys have no flag.
    let settings = workspace.runtime().join("clients/admin.toml");
    files::write(&settings, "[auth]\nadmin_keys = [\"operator=sk-operator\"]\n")?;
    let settings = format!("--config={}", settings.display());
    let server = start_server(workspace, &[&settings, &keys, "--key-requests-per-minute=6"])?;
    let name = "openai (Python) 3.54.0, keys, limits and usage";
    let mut suite = clients.run(name, (Kind::Python("openai-3"), "check_openai_limits.py"), &server, &[])?;
    suite.check("the server ends with code 0", || server.stop());
    report.suites.push(suite);
    report.suites.push(https::run(&clients)?);
    report.suites.push(agents(&clients)?);
    rerank(&clients, report)
}

/// Frameworks that send `dimensions` unasked, with two servers: without and with `native_dimensions`.
fn agents(clients: &Clients<'_>) -> Result<Suite> {
    let (default, native) =
        (start_server(clients.workspace, &[])?, start_server(clients.workspace, &["--native-dimensions"])?);
    let name = "agno 3.1.10, camel-ai 0.2.90, mem0ai 2.2.1";
    let variables = [("NATIVE_URL", format!("{}/v1", native.origin()))];
    let script = (Kind::Python("agents"), "check_agents.py");
    let mut suite = clients.run(name, script, &default, &variables)?;
    suite.check("the servers end with code 0", || default.stop().and_then(|()| native.stop()));
    Ok(suite)
}

/// Clients of rerankers, with a tiny cross-encoder whose scores are known.
fn rerank(clients: &Clients<'_>, report: &mut Report) -> Result<()> {
    const MODEL: &str = "ce-xlm-roberta";
    let folder = clients.workspace.runtime().join("clients").join(MODEL);
    copy_tiny(MODEL, &folder)?;
    let server = start_server(clients.workspace, &[&format!("--model={}", folder.display())])?;
    let name = "cohere 5.21.1, langchain-cohere, llama-index, litellm 1.110.2: rerank";
    report.suites.push(clients.run(name, (Kind::Python("rerank"), "check_rerank.py"), &server, &[])?);
    let name = "infinity-client 0.0.78: rerank";
    let mut suite = clients.run(name, (Kind::Python("infinity"), "check_infinity.py"), &server, &[])?;
    suite.check("the server ends with code 0", || server.stop());
    report.suites.push(suite);
    Ok(())
}

struct Clients<'a> {
    environments: Environments<'a>,
    workspace: &'a Workspace,
}

impl Clients<'_> {
    /// Runs a script with the server's URL, the file of reference texts and vectors that the Rust tests read, too, and
    /// the minimum cosine to these vectors.
    fn run(
        &self,
        name: &str,
        (kind, script): (Kind, &str),
        server: &Server,
        variables: &[(&str, String)],
    ) -> Result<Suite> {
        let mut suite = Suite::begin(name);
        match self.environments.command(kind, script) {
            Ok(mut command) => {
                let root = self.workspace.root();
                let reference = root.join("crates/gateway/tests/data/all-MiniLM-L6-v2.reference.json");
                command.arg(format!("{}/v1", server.origin())).arg(reference).arg(server.min_cosine());
                command.envs(variables.iter().map(|(name, value)| (name, value))).current_dir(root);
                tap::run(&mut command, TIMEOUT, &mut suite)?;
            }
            Err(reason) => suite.fail(reason),
        }
        Ok(suite)
    }
}
