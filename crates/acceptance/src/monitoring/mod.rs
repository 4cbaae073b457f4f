//! Metrics, rules, alerts and dashboard, checked with a real Prometheus that scrapes the release binary under mixed
//! traffic.

mod dashboard;
mod prometheus;
mod rules;
mod traffic;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::prometheus::{Prometheus, Promtool, finite_values};
use testkit::model::copy_tiny;
use testkit::report::{Report, Suite};
use testkit::workspace::Workspace;
use testkit::{Server, files, http, wait};
use xtask::setup;

use crate::start_server;

/// Limit for Prometheus to scrape and evaluate finished traffic, which takes two seconds.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of series with one model, without those of API keys, each of which adds three, and of error codes,
/// each of which adds one when it first occurs: hosted monitoring charges by series.
const MAX_SERIES: usize = 300;
/// Model that reranks.
const RERANKER: &str = "ce-bert";

/// Unpacks Prometheus if there is none, and runs the checks. Failed checks are part of the report.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let mut suite = Suite::begin("monitoring");
    let programs = setup::prometheus::install(workspace)?;
    let scratch = tempfile::tempdir().context("cannot create a folder")?;
    let setup = TestSetup::new(workspace, &programs, scratch.path())?;
    setup.run_checks(&mut suite)?;
    setup.server.stop()?;
    report.suites.push(suite);
    Ok(())
}

/// A server, a Prometheus that scrapes it, and paths.
struct TestSetup<'a> {
    workspace: &'a Workspace,
    scratch: &'a Path,
    promtool: Promtool,
    // Dropped before the server that it scrapes.
    prometheus: Prometheus,
    address: SocketAddr,
    server: Server,
    /// Folder of the chart.
    chart: PathBuf,
}

impl<'a> TestSetup<'a> {
    fn new(workspace: &'a Workspace, programs: &Path, scratch: &'a Path) -> Result<Self> {
        let chart = workspace.root().join("deploy/helm/embedgate");
        let settings = scratch.join("embedgate.toml");
        // Its accuracy has metrics of its own.
        let reranker = scratch.join(RERANKER);
        copy_tiny(RERANKER, &reranker)?;
        let model = format!("[[models]]\npath = {:?}\n", reranker.to_string_lossy());
        files::write(&settings, traffic::SETTINGS.to_owned() + &model)?;
        // Any x86-64 CPU has kernels for int8, so that the metrics of the accuracy proof have series on every machine.
        let server =
            start_server(workspace, &["--config", &settings.to_string_lossy(), "--precision", "int8"])?;
        let address = server.address();
        let prometheus = Prometheus::start(programs, scratch, address, &[chart.join("rules/*.yaml")])?;
        let promtool = Promtool(programs.join("promtool"));
        Ok(Self { workspace, scratch, promtool, prometheus, address, server, chart })
    }

    fn run_checks(&self, suite: &mut Suite) -> Result<()> {
        let root = self.workspace.root();
        suite.check("promtool accepts the compose file's configuration", || {
            let file = "deploy/compose/prometheus.yaml";
            self.promtool.run(root, &["check", "config", "--syntax-only", file]).map(drop)
        });
        suite.check("mixed traffic is answered and rejected", || self.traffic());
        suite.check("Prometheus scrapes the server", || {
            ensure!(finite_values(&self.prometheus.query("up == 1")?) == 1, "up is not 1");
            Ok(())
        });
        // The dashboard's rates need recent traffic.
        self.dashboard(suite)?;
        let rules = self.prometheus.rules()?;
        self.rules(&rules, suite);
        self.metrics(suite)?;
        self.alerts(&rules, suite);
        Ok(())
    }

    /// Two rounds, since a rate needs two scrapes.
    fn traffic(&self) -> Result<()> {
        self.settle()?;
        let mut answers = traffic::send(self.address, 0)?;
        self.settle()?;
        for (status, count) in traffic::send(self.address, 1)? {
            *answers.entry(status).or_default() += count;
        }
        self.settle()?;
        for status in [200, 400, 404, 413, 503] {
            ensure!(answers.contains_key(&status), "no response had status {status}: {answers:?}");
        }
        Ok(())
    }

    /// Waits until Prometheus has scraped the finished traffic and evaluated the rules after that.
    fn settle(&self) -> Result<()> {
        let metrics = http::get(self.address, "/metrics")?;
        let answered = metrics
            .text()
            .lines()
            .filter(|line| line.starts_with("embedgate_request_duration_seconds_count"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>();
        let scraped = "sum(embedgate_request_duration_seconds_count)";
        let is_scraped = || {
            (self.prometheus.query(scraped).ok().and_then(|found| number(&found)) == Some(answered))
                .then_some(())
        };
        wait::poll(SETTLE_TIMEOUT, is_scraped).with_context(|| {
            format!("Prometheus did not scrape {answered} requests within {SETTLE_TIMEOUT:?}")
        })?;
        // All rules must be evaluated once more, to use the scrape.
        let (_, latest) = self.prometheus.last_evaluations()?;
        let is_evaluated = || (self.prometheus.last_evaluations().ok()?.0 > latest).then_some(());
        wait::poll(SETTLE_TIMEOUT, is_evaluated).context("Prometheus did not evaluate its rules")?;
        Ok(())
    }

    fn metrics(&self, suite: &mut Suite) -> Result<()> {
        let scrape = http::get(self.address, "/metrics")?.text().to_owned();
        let file = self.scratch.join("scrape");
        files::write(&file, &scrape)?;
        suite.check("promtool accepts the metrics", || self.promtool.check_metrics(&file));
        suite.check(
            "fewer than 300 series with one model, without those of API keys and error codes",
            || {
                let excluded = ["{api_key=", "{code=", &format!("model=\"{RERANKER}\"")];
                let of_server = |line: &&str| {
                    !line.starts_with('#') && !excluded.iter().any(|labels| line.contains(labels))
                };
                let series = scrape.lines().filter(of_server).count();
                ensure!(series < MAX_SERIES, "{series} series");
                println!("         {series} series");
                Ok(())
            },
        );
        let page = files::read_text(&self.workspace.root().join("docs/METRICS.md"))?;
        suite.check("docs/METRICS.md lists the scraped families", || {
            let (documented, scraped) = (documented(&page), families(&scrape));
            let missing: Vec<_> = documented.symmetric_difference(&scraped).collect();
            ensure!(missing.is_empty() && !scraped.is_empty(), "on one side only: {missing:?}");
            Ok(())
        });
        Ok(())
    }

    fn rules(&self, rules: &[Value], suite: &mut Suite) {
        let page = self.workspace.root().join(rules::RUNBOOK);
        // A missing page has no anchors, which the rules' complaints then report.
        let page = fs::read_to_string(page).unwrap_or_default();
        suite.check(&format!("{} rules are healthy, none fires, each has instructions", rules.len()), || {
            ensure!(!rules.is_empty(), "there are no rules");
            require_none(rules.iter().flat_map(|rule| rules::complaints(rule, &page)))
        });
        suite.check("every recording rule records data", || {
            let recorded = rules.iter().filter(|rule| !rules::is_alert(rule));
            require_none(recorded.filter_map(|rule| self.without_data(rule["name"].as_str()?)))
        });
        suite.check("a broken rule is detected", || {
            let broken = "groups: [{name: a, rules: [{record: a:b, expr: sum(}]}]\n";
            files::write(&self.scratch.join("broken.yaml"), broken)?;
            ensure!(
                self.promtool.run(self.scratch, &["check", "rules", "broken.yaml"]).is_err(),
                "promtool accepts it"
            );
            Ok(())
        });
    }

    /// Runs each alert's unit tests.
    fn alerts(&self, rules: &[Value], suite: &mut Suite) {
        let tests = self.workspace.root().join("deploy/monitoring/tests");
        for alert in rules.iter().filter(|rule| rules::is_alert(rule)) {
            let name = alert["name"].as_str().unwrap_or_default();
            suite.check(&format!("{name} fires and stays silent"), || {
                rules::check_tests(&self.promtool, &tests, self.scratch, rules, alert)
            });
        }
        suite.check("an alert without a silent test case is detected", || self.untested(rules));
    }

    /// Removes the silent case from one alert's tests.
    fn untested(&self, rules: &[Value]) -> Result<()> {
        let alert = rules.iter().find(|rule| rule["name"] == "EmbedgateNotReady").context("no such alert")?;
        let file = "EmbedgateNotReady.yaml";
        let text = files::read_text(&self.workspace.root().join("deploy/monitoring/tests").join(file))?;
        let (firing, _) = text.split_once("  # Stays silent.").context("no silent case to remove")?;
        let chart = format!("{}/", self.chart.display());
        files::write(&self.scratch.join(file), firing.replace("../../helm/embedgate/", &chart))?;
        let proved = rules::check_tests(&self.promtool, self.scratch, self.scratch, rules, alert);
        let said = proved.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(said.contains("fires without a reason"), "not detected: {said:?}");
        Ok(())
    }

    fn dashboard(&self, suite: &mut Suite) -> Result<()> {
        let path = self.chart.join("dashboards/embedgate.json");
        let dashboard: Value =
            serde_json::from_str(&files::read_text(&path)?).context("the dashboard is not JSON")?;
        suite.check("the dashboard follows the conventions", || {
            require_none(dashboard::complaints(&dashboard))
        });
        let queries = dashboard::queries(&dashboard);
        suite.check(&format!("{} queries of the dashboard return data", queries.len()), || {
            require_none(queries.iter().filter_map(|query| {
                Some(format!("{}: {}", query.place, self.without_data(&query.expression)?))
            }))
        });
        suite.check("broken and empty queries are detected", || {
            for broken in ["sum(", "no_such_metric", "0 / sum(no_such_metric)", "vector(0) / 0"] {
                ensure!(self.without_data(broken).is_some(), "{broken} is not detected");
            }
            Ok(())
        });
        Ok(())
    }

    /// The reason why an expression returns no number now.
    fn without_data(&self, expression: &str) -> Option<String> {
        match self.prometheus.query(expression) {
            Ok(elements) if finite_values(&elements) > 0 => None,
            Ok(elements) => Some(format!("no number in {} elements of {expression}", elements.len())),
            Err(error) => Some(format!("{expression}: {error:#}")),
        }
    }
}

fn require_none(complaints: impl IntoIterator<Item = String>) -> Result<()> {
    let complaints: Vec<String> = complaints.into_iter().collect();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// The value of the first element.
fn number(elements: &[Value]) -> Option<f64> {
    elements.first()?["value"][1].as_str()?.parse().ok()
}

/// Name and type of each of our families on the page.
fn documented(page: &str) -> BTreeSet<(String, String)> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `embedgate_")?.split(" | ");
        Some((format!("embedgate_{}", cells.next()?.trim_end_matches('`')), cells.next()?.to_owned()))
    };
    page.lines().filter_map(row).collect()
}

/// Name and type of each of our families in the exposition.
fn families(scrape: &str) -> BTreeSet<(String, String)> {
    let declared = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let ours = declared.filter(|(name, _)| name.starts_with("embedgate_"));
    ours.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}
