//! A real Prometheus on loopback that scrapes one server each second and evaluates the project's rules, and its tool.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::http;
use crate::process;

/// The job's name, as the chart and the compose file give it.
pub(super) const JOB: &str = "embedgate";
/// It is ready in a fraction of this.
const START: Duration = Duration::from_secs(60);

/// `promtool`.
pub(super) struct Tool(pub(super) PathBuf);

impl Tool {
    /// Runs `promtool ARGUMENTS` in `folder` and yields what it printed.
    ///
    /// # Errors
    /// It found something wrong; the message says what.
    pub(super) fn run(&self, folder: &Path, arguments: &[&str]) -> Result<String> {
        process::capture(Command::new(&self.0).args(arguments).current_dir(folder))
    }

    /// `promtool check metrics` with an exposition in `file`.
    ///
    /// # Errors
    /// The exposition breaks the format or a convention.
    pub(super) fn check_metrics(&self, file: &Path) -> Result<()> {
        let input = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let mut command = Command::new(&self.0);
        let output = command.args(["check", "metrics"]).stdin(input).output();
        let output = output.with_context(|| format!("cannot start {}", self.0.display()))?;
        // It prints what it finds to standard error, and some of that with success.
        process::said("promtool check metrics", &output)?;
        let found = String::from_utf8_lossy(&output.stderr);
        ensure!(found.trim().is_empty(), "{found}");
        Ok(())
    }
}

/// The running server.
pub(super) struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Writes the configuration to `folder` and starts the server on a port of its own choosing.
    ///
    /// # Errors
    /// promtool finds the configuration or the rules wrong, or the server does not come up.
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
        write(&folder.join("prometheus.yaml"), &config.to_string())?;
        Tool(programs.join("promtool")).run(folder, &["check", "config", "prometheus.yaml"])?;

        let log = folder.join("prometheus.log");
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(programs.join("prometheus"));
        command.args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"]);
        command.arg("--web.listen-address=127.0.0.1:0").current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };

        let deadline = Instant::now() + START;
        loop {
            let said = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
            if let Some(address) = listening(&said) {
                server.address = address;
                if http::get(address, "/-/ready").is_ok_and(|(status, _)| status == 200) {
                    return Ok(server);
                }
            }
            let ended = server.child.try_wait().context("cannot wait for Prometheus")?.is_some();
            if ended || Instant::now() > deadline {
                bail!("Prometheus did not come up:\n{said}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The elements that an expression yields now.
    ///
    /// # Errors
    /// The expression is wrong, or Prometheus does not answer.
    pub(super) fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let form = format!("query={}", encoded(expression));
        let media = "application/x-www-form-urlencoded";
        let data = data(http::post(self.address, "/api/v1/query", media, &form)?)?;
        match &data["result"] {
            Value::Array(elements) => Ok(elements.clone()),
            other => bail!("no elements in {other}"),
        }
    }

    /// Every loaded rule, as the API describes it.
    ///
    /// # Errors
    /// Prometheus does not answer.
    pub(super) fn rules(&self) -> Result<Vec<Value>> {
        let data = data(http::get(self.address, "/api/v1/rules")?)?;
        let groups = data["groups"].as_array().context("no groups of rules")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Its data go with the folder. Ending what has ended is no harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many of the elements are numbers that a panel can show.
pub(super) fn shown(elements: &[Value]) -> usize {
    let number = |element: &&Value| {
        let text = element["value"][1].as_str().unwrap_or_default();
        text.parse::<f64>().is_ok_and(f64::is_finite)
    };
    elements.iter().filter(number).count()
}

/// Writes a file.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The data of an answer of the API.
fn data((status, body): http::Answer) -> Result<Value> {
    let answer: Value = serde_json::from_str(&body).with_context(|| format!("status {status}: {body}"))?;
    ensure!(answer["status"] == "success", "{}", answer["error"]);
    Ok(answer["data"].clone())
}

/// The address of Prometheus' second line about listening; the first repeats what it was told.
fn listening(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("msg=\"Listening on\" address=")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A value of a form.
fn encoded(text: &str) -> String {
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
    fn a_form_s_value_is_encoded() {
        assert_eq!(encoded("a{b=~\".+\"}"), "a%7Bb%3D%7E%22%2E%2B%22%7D");
    }

    #[test]
    fn the_address_is_the_bound_one() {
        let log = "msg=\"Start listening for connections\" address=127.0.0.1:0\nmsg=\"Listening on\" \
                   address=127.0.0.1:41234\n";
        assert_eq!(listening(log), "127.0.0.1:41234".parse().ok());
        assert_eq!(listening("msg=\"Start listening for connections\" address=127.0.0.1:0"), None);
    }

    #[test]
    fn a_refused_query_is_an_error_and_what_is_no_number_is_not_shown() {
        let refused = "{\"status\":\"error\",\"error\":\"parse error\"}";
        assert!(data((400, refused.into())).unwrap_err().to_string().contains("parse error"));
        let element = |value: &str| json!({"metric": {}, "value": [1.0, value]});
        assert_eq!(shown(&[element("NaN"), element("0"), element("+Inf"), element("1.5")]), 2);
    }
}
