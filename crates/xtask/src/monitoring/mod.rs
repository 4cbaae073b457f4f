//! What operators see: metrics, rules, alerts and dashboard, held against a real Prometheus that scrapes the release
//! binary under mixed traffic.

mod dashboard;
mod http;
mod prometheus;
mod rules;
mod traffic;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::prometheus::{Prometheus, Tool, shown, write};
use crate::server::Server;
use crate::setup;
use crate::survive::Scratch;
use crate::test::report::{Report, Suite};
use crate::workspace::Workspace;

/// The last scrapes and evaluations of traffic that is over need two seconds.
const SETTLED: Duration = Duration::from_secs(60);
/// What an operator may be charged for, with one model.
const SERIES: usize = 300;

/// Unpacks Prometheus where there is none, and checks everything that operators see.
///
/// # Errors
/// The server or Prometheus cannot be started. What the checks find wrong is in the report instead.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let mut suite = Suite::new("monitoring");
    println!("\n{}", suite.name);
    if cfg!(unix) {
        let programs = setup::prometheus::install(workspace)?;
        let scratch = Scratch::new("monitoring")?;
        let checked = Checked::new(workspace, &programs, scratch.path())?;
        checked.all(&mut suite)?;
        checked.server.stop()?;
    } else {
        suite.skip("Prometheus is taken from Debian's packages");
    }
    report.suites.push(suite);
    Ok(())
}

/// A server, a Prometheus that watches it, and where things lie.
struct Checked<'a> {
    workspace: &'a Workspace,
    scratch: &'a Path,
    tool: Tool,
    // Ends before the server that it scrapes.
    prometheus: Prometheus,
    address: SocketAddr,
    server: Server,
    /// Folder of the chart.
    chart: PathBuf,
}

impl<'a> Checked<'a> {
    fn new(workspace: &'a Workspace, programs: &Path, scratch: &'a Path) -> Result<Self> {
        let chart = workspace.root().join("deploy/helm/embedgate");
        let settings = scratch.join("embedgate.toml");
        write(&settings, traffic::SETTINGS)?;
        let server = Server::start(workspace, &["--config".into(), settings.to_string_lossy().into_owned()])?;
        let address = server.address()?;
        let prometheus = Prometheus::start(programs, scratch, address, &[chart.join("rules/*.yaml")])?;
        let tool = Tool(programs.join("promtool"));
        Ok(Self { workspace, scratch, tool, prometheus, address, server, chart })
    }

    fn all(&self, suite: &mut Suite) -> Result<()> {
        let root = self.workspace.root();
        check(suite, "the compose file's configuration is one of Prometheus", || {
            let file = "deploy/compose/prometheus.yaml";
            self.tool.run(root, &["check", "config", "--syntax-only", file]).map(drop)
        });
        check(suite, "mixed traffic is answered, refused and turned away", || self.traffic());
        check(suite, "Prometheus reaches the server, and says so", || {
            ensure!(shown(&self.prometheus.query("up == 1")?) == 1, "up is not 1");
            Ok(())
        });
        // What asks for rates comes first, while the traffic is recent.
        self.dashboard(suite)?;
        let rules = self.prometheus.rules()?;
        self.rules(&rules, suite);
        self.metrics(suite)?;
        self.alerts(&rules, suite);
        Ok(())
    }

    /// Two rounds with a pause for Prometheus, for a rate needs two scrapes.
    fn traffic(&self) -> Result<()> {
        self.settle()?;
        let mut answers = traffic::send(self.address, 0)?;
        self.settle()?;
        for (status, count) in traffic::send(self.address, 1)? {
            *answers.entry(status).or_default() += count;
        }
        self.settle()?;
        for status in [200, 400, 404, 413, 503] {
            ensure!(answers.contains_key(&status), "nobody got {status}: {answers:?}");
        }
        Ok(())
    }

    /// Waits until scrapes and evaluations have begun and ended after this moment.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLED;
        let (_, said) = http::get(self.address, "/metrics")?;
        let answered = said
            .lines()
            .filter(|line| line.starts_with("embedgate_request_duration_seconds_count"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>();
        // The sum is seen by a query when it was scraped, and by the rules when they are evaluated after that.
        let scraped = "sum(embedgate_request_duration_seconds_count)";
        while number(&self.prometheus.query(scraped)?) != Some(answered) {
            if Instant::now() > deadline {
                bail!("Prometheus did not see {answered} requests within {SETTLED:?}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(Duration::from_millis(1500));
        Ok(())
    }

    fn metrics(&self, suite: &mut Suite) -> Result<()> {
        let (_, scrape) = http::get(self.address, "/metrics")?;
        let file = self.scratch.join("scrape");
        write(&file, &scrape)?;
        check(suite, "promtool finds nothing in the metrics", || self.tool.check_metrics(&file));
        check(suite, "fewer than 300 series with one model", || {
            let series = scrape.lines().filter(|line| !line.starts_with('#')).count();
            ensure!(series < SERIES, "{series} series");
            println!("         {series} series");
            Ok(())
        });
        let page = read(&self.workspace.root().join("docs/METRICS.md"))?;
        check(suite, "docs/METRICS.md lists what is scraped", || {
            let (documented, scraped) = (documented(&page), families(&scrape));
            let missing: Vec<_> = documented.symmetric_difference(&scraped).collect();
            ensure!(missing.is_empty() && !scraped.is_empty(), "on one side only: {missing:?}");
            Ok(())
        });
        Ok(())
    }

    fn rules(&self, rules: &[Value], suite: &mut Suite) {
        let page = self.workspace.root().join(rules::RUNBOOK);
        // A page that is not there has none of the places that alerts lead to, and that is what is said then.
        let page = fs::read_to_string(page).unwrap_or_default();
        check(suite, &format!("{} rules are well, none fires, each says what to do", rules.len()), || {
            ensure!(!rules.is_empty(), "there are no rules");
            none(rules.iter().flat_map(|rule| rules::complaints(rule, &page)))
        });
        check(suite, "every recording rule records something", || {
            let recorded = rules.iter().filter(|rule| !rules::is_alert(rule));
            none(recorded.filter_map(|rule| self.without_data(rule["name"].as_str()?)))
        });
        check(suite, "a broken rule is found", || {
            write(
                &self.scratch.join("broken.yaml"),
                "groups: [{name: a, rules: [{record: a:b, expr: sum(}]}]\n",
            )?;
            ensure!(self.tool.run(self.scratch, &["check", "rules", "broken.yaml"]).is_err(), "it is not");
            Ok(())
        });
    }

    /// Each alert against its unit tests.
    fn alerts(&self, rules: &[Value], suite: &mut Suite) {
        let tests = self.workspace.root().join("deploy/monitoring/tests");
        for alert in rules.iter().filter(|rule| rules::is_alert(rule)) {
            let name = alert["name"].as_str().unwrap_or_default();
            check(suite, &format!("{name} fires, and stays silent"), || {
                rules::prove(&self.tool, &tests, self.scratch, rules, alert)
            });
        }
        check(suite, "an alert whose tests have no silent case is found", || self.untested(rules));
    }

    /// Takes the silent case out of one alert's tests.
    fn untested(&self, rules: &[Value]) -> Result<()> {
        let alert = rules.iter().find(|rule| rule["name"] == "EmbedgateNotReady").context("no such alert")?;
        let file = "EmbedgateNotReady.yaml";
        let text = read(&self.workspace.root().join("deploy/monitoring/tests").join(file))?;
        let (firing, _) = text.split_once("  # Stays silent.").context("no silent case to take out")?;
        let chart = format!("{}/", self.chart.display());
        write(&self.scratch.join(file), &firing.replace("../../helm/embedgate/", &chart))?;
        let proved = rules::prove(&self.tool, self.scratch, self.scratch, rules, alert);
        let said = proved.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(said.contains("fires without a reason"), "it is not: {said:?}");
        Ok(())
    }

    fn dashboard(&self, suite: &mut Suite) -> Result<()> {
        let path = self.chart.join("dashboards/embedgate.json");
        let dashboard: Value = serde_json::from_str(&read(&path)?).context("the dashboard is not JSON")?;
        check(suite, "the dashboard keeps the conventions", || none(dashboard::complaints(&dashboard)));
        let queries = dashboard::queries(&dashboard);
        check(suite, &format!("{} queries of the dashboard yield data", queries.len()), || {
            none(queries.iter().filter_map(|query| {
                Some(format!("{}: {}", query.place, self.without_data(&query.expression)?))
            }))
        });
        check(suite, "queries that are broken, or yield nothing, are found", || {
            for broken in ["sum(", "no_such_metric", "0 / sum(no_such_metric)", "vector(0) / 0"] {
                ensure!(self.without_data(broken).is_some(), "{broken} is not");
            }
            Ok(())
        });
        Ok(())
    }

    /// What is wrong with an expression: that it is none, or that it yields no number now.
    fn without_data(&self, expression: &str) -> Option<String> {
        match self.prometheus.query(expression) {
            Ok(elements) if shown(&elements) > 0 => None,
            Ok(elements) => Some(format!("no number in {} elements of {expression}", elements.len())),
            Err(error) => Some(format!("{expression}: {error:#}")),
        }
    }
}

/// Counts one check and prints its line.
fn check(suite: &mut Suite, name: &str, run: impl FnOnce() -> Result<()>) {
    match run() {
        Ok(()) => {
            println!("  ok     {name}");
            suite.passed += 1;
        }
        Err(error) => {
            println!("  BROKEN {name}: {error:#}");
            suite.fail(format!("{name}: {error:#}"));
        }
    }
}

fn none(complaints: impl IntoIterator<Item = String>) -> Result<()> {
    let complaints: Vec<String> = complaints.into_iter().collect();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// The value of the first element.
fn number(elements: &[Value]) -> Option<f64> {
    elements.first()?["value"][1].as_str()?.parse().ok()
}

/// Name and type of each family of ours, as the page has them.
fn documented(page: &str) -> BTreeSet<(String, String)> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `embedgate_")?.split(" | ");
        Some((format!("embedgate_{}", cells.next()?.trim_end_matches('`')), cells.next()?.to_owned()))
    };
    page.lines().filter_map(row).collect()
}

/// Name and type of each family of ours, as the exposition has them.
fn families(scrape: &str) -> BTreeSet<(String, String)> {
    let declared = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let ours = declared.filter(|(name, _)| name.starts_with("embedgate_"));
    ours.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
