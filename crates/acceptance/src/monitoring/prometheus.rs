//! A Prometheus on loopback that scrapes one server each second and evaluates the project's rules; and promtool.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use testkit::http::{self, Reply};
use testkit::{Program, files, process};

/// Name of the scrape job in the chart and the compose file.
pub(super) const JOB: &str = "embedgate";
/// Limit of the start, which takes a second.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// `promtool`.
pub(super) struct Promtool(pub(super) PathBuf);

impl Promtool {
    /// Runs `promtool ARGUMENTS` in `folder` and returns its output. Findings are an error.
    pub(super) fn run(&self, folder: &Path, arguments: &[&str]) -> Result<String> {
        process::capture(Command::new(&self.0).args(arguments).current_dir(folder))
    }

    /// Runs `promtool check metrics` with the exposition in `file`. Findings are an error.
    pub(super) fn check_metrics(&self, file: &Path) -> Result<()> {
        let input = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let mut command = Command::new(&self.0);
        let output = command.args(["check", "metrics"]).stdin(input).output();
        let output = output.with_context(|| format!("cannot start {}", self.0.display()))?;
        // Some findings are printed to standard error with exit code 0.
        process::stdout_of("promtool check metrics", &output)?;
        let found = String::from_utf8_lossy(&output.stderr);
        ensure!(found.trim().is_empty(), "{found}");
        Ok(())
    }
}

/// A running Prometheus.
pub(super) struct Prometheus {
    _program: Program,
    address: SocketAddr,
}

impl Prometheus {
    /// Writes the configuration to `folder`, checks it with promtool, and starts the server on a free port.
    pub(super) fn start(
        programs: &Path,
        folder: &Path,
        target: SocketAddr,
        rules: &[PathBuf],
    ) -> Result<Self> {
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [target.to_string()]}]}],
        });
        // JSON is YAML.
        files::write(&folder.join("prometheus.yaml"), config.to_string())?;
        Promtool(programs.join("promtool")).run(folder, &["check", "config", "prometheus.yaml"])?;

        let mut command = Command::new(programs.join("prometheus"));
        command.args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"]);
        command.arg("--web.listen-address=127.0.0.1:0").current_dir(folder);
        let mut program = Program::start(command)?;
        let address = program.poll(START_TIMEOUT, |program| {
            let address = bound_address(&program.log())?;
            (http::get(address, "/-/ready").ok()?.status == 200).then_some(address)
        })?;
        Ok(Self { _program: program, address })
    }

    /// The elements that an expression returns now. An invalid expression is an error.
    pub(super) fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let form = format!("query={}", percent_encoded(expression));
        let media = "application/x-www-form-urlencoded";
        let data = data(&http::post(self.address, "/api/v1/query", media, &form)?)?;
        match &data["result"] {
            Value::Array(elements) => Ok(elements.clone()),
            other => bail!("no elements in {other}"),
        }
    }

    /// The earliest and the latest of the rules' last evaluations, in RFC 3339.
    pub(super) fn last_evaluations(&self) -> Result<(String, String)> {
        let rules = self.rules()?;
        let times = || rules.iter().filter_map(|rule| rule["lastEvaluation"].as_str());
        let (earliest, latest) = times().min().zip(times().max()).context("no rules")?;
        Ok((earliest.to_owned(), latest.to_owned()))
    }

    /// Every loaded rule, in the API's form.
    pub(super) fn rules(&self) -> Result<Vec<Value>> {
        let data = data(&http::get(self.address, "/api/v1/rules")?)?;
        let groups = data["groups"].as_array().context("no groups of rules")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }
}

/// Number of elements with a finite value, which a panel can show.
pub(super) fn finite_values(elements: &[Value]) -> usize {
    let number = |element: &&Value| {
        let text = element["value"][1].as_str().unwrap_or_default();
        text.parse::<f64>().is_ok_and(f64::is_finite)
    };
    elements.iter().filter(number).count()
}

/// The data of an API response.
fn data(reply: &Reply) -> Result<Value> {
    let answer: Value = serde_json::from_slice(&reply.body)
        .with_context(|| format!("status {}: {}", reply.status, String::from_utf8_lossy(&reply.body)))?;
    ensure!(answer["status"] == "success", "{}", answer["error"]);
    Ok(answer["data"].clone())
}

/// The bound address from Prometheus' second log line about listening; the first repeats the setting.
fn bound_address(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("msg=\"Listening on\" address=")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A value of a form.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_values_are_percent_encoded() {
        assert_eq!(percent_encoded("a{b=~\".+\"}"), "a%7Bb%3D%7E%22%2E%2B%22%7D");
    }

    #[test]
    fn the_bound_address_is_read_from_the_log() {
        let log = "msg=\"Start listening for connections\" address=127.0.0.1:0\nmsg=\"Listening on\" \
                   address=127.0.0.1:41234\n";
        assert_eq!(bound_address(log), "127.0.0.1:41234".parse().ok());
        assert_eq!(bound_address("msg=\"Start listening for connections\" address=127.0.0.1:0"), None);
    }

    #[test]
    fn a_failed_query_is_an_error_and_only_finite_values_count() {
        let refused = "{\"status\":\"error\",\"error\":\"parse error\"}";
        assert!(data(&Reply::new(400, refused)).unwrap_err().to_string().contains("parse error"));
        let element = |value: &str| json!({"metric": {}, "value": [1.0, value]});
        assert_eq!(finite_values(&[element("NaN"), element("0"), element("+Inf"), element("1.5")]), 2);
    }
}
