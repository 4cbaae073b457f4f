//! The dashboard: its conventions, and its queries.

use std::collections::BTreeSet;

use serde_json::Value;

use super::prometheus::JOB;

/// The window that follows the screen's resolution and the scrape interval.
const WINDOW: &str = "$__rate_interval";
/// Matchers that each selector needs.
const REQUIRED_MATCHERS: [&str; 2] = ["job=~\"$job\"", "instance=~\"$instance\""];
/// Endings of counters, of which only the rate is meaningful.
const COUNTERS: [&str; 4] = ["_total{", "_bucket{", "_sum{", "_count{"];

/// A query and its panel.
pub(super) struct Query {
    pub(super) place: String,
    /// With the variables replaced.
    pub(super) expression: String,
}

/// All queries with the variables replaced.
pub(super) fn queries(dashboard: &Value) -> Vec<Query> {
    let mut queries = Vec::new();
    for panel in panels(dashboard) {
        for target in list(&panel["targets"]) {
            let place = format!("{} {}", text(&panel["title"]), text(&target["refId"]));
            let expression = text(&target["expr"]).replace(WINDOW, "1m").replace("$job", JOB);
            let expression = expression.replace("$instance", ".+").replace("$model", ".+");
            queries.push(Query { place, expression });
        }
    }
    queries
}

/// Violations of the conventions: those of Grafana's dashboard linter, and a description for each panel.
pub(super) fn complaints(dashboard: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    if dashboard["editable"] != false {
        complaints.push("the dashboard is editable".into());
    }
    let variables = list(&dashboard["templating"]["list"]);
    let variable = |name: &str| variables.iter().find(|variable| variable["name"] == name);
    if !variable("datasource").is_some_and(|it| it["type"] == "datasource" && it["query"] == "prometheus") {
        complaints.push("there is no variable `datasource` for a Prometheus".into());
    }
    for name in ["job", "instance"] {
        let good = |it: &Value| {
            it["type"] == "query"
                && it["datasource"]["uid"] == "$datasource"
                && it["multi"] == true
                && it["allValue"] == ".+"
        };
        if !variable(name).is_some_and(good) {
            complaints
                .push(format!("the variable `{name}` is missing, not of $datasource, or not multi-valued"));
        }
    }
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    let panels = panels(dashboard);
    if panels.is_empty() {
        complaints.push("there are no panels".into());
    }
    for panel in panels {
        let title = text(&panel["title"]);
        let mut complain = |what: &str| complaints.push(format!("panel {title:?}: {what}"));
        if title.is_empty() || !titles.insert(title) || !ids.insert(panel["id"].as_u64()) {
            complain("title and id must be its own");
        }
        if !text(&panel["description"]).ends_with('.') {
            complain("needs a description that is a sentence");
        }
        if panel["datasource"]["uid"] != "$datasource" {
            complain("does not use $datasource");
        }
        if text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty() {
            complain("has no unit");
        }
        let targets = list(&panel["targets"]);
        if targets.is_empty() {
            complain("has no query");
        }
        for target in targets {
            if target["datasource"]["uid"] != "$datasource" {
                complain("has a target that does not use $datasource");
            }
            for what in query_complaints(text(&target["expr"])) {
                complain(&what);
            }
        }
    }
    complaints
}

fn query_complaints(expression: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    // Each selector by itself: one of two that is not narrowed shows other people's figures.
    for selector in expression.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        for by in REQUIRED_MATCHERS {
            if !selector.contains(by) {
                complaints.push(format!("{{{selector}}} lacks {by}"));
            }
        }
    }
    if !expression.contains('{') {
        complaints.push("has a query without a selector".into());
    }
    for window in expression.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
        if window != WINDOW {
            complaints.push(format!("[{window}] is not [{WINDOW}]"));
        }
    }
    for ending in COUNTERS {
        for (at, _) in expression.match_indices(ending) {
            let before = &expression[..at];
            let name =
                before.rfind(|of: char| !of.is_ascii_alphanumeric() && of != '_').map_or(0, |at| at + 1);
            let called = &before[..name];
            if !called.ends_with("rate(") && !called.ends_with("increase(") {
                complaints.push(format!("{}{ending}…}} is a counter: show its rate", &before[name..]));
            }
        }
    }
    complaints
}

/// All panels except rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row").collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = include_str!("../../../../deploy/helm/embedgate/dashboards/embedgate.json");

    fn ours() -> Value {
        serde_json::from_str(OURS).unwrap()
    }

    #[test]
    fn our_dashboard_follows_the_conventions() {
        assert_eq!(complaints(&ours()), Vec::<String>::new());
        assert!(queries(&ours()).iter().all(|query| !query.expression.contains('$')));
    }

    /// Changes one value of our dashboard and returns the only complaint.
    fn broken(pointer: &str, value: Value) -> String {
        let mut dashboard = ours();
        *dashboard.pointer_mut(pointer).unwrap() = value;
        let complaints = complaints(&dashboard);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        complaints[0].clone()
    }

    #[test]
    fn each_violation_is_detected() {
        let target = "/panels/1/targets/0/expr";
        let selector = "{job=~\"$job\", instance=~\"$instance\"}";
        assert!(broken("/editable", true.into()).contains("editable"));
        assert!(broken("/templating/list/0/type", "query".into()).contains("`datasource`"));
        assert!(broken("/templating/list/1/multi", false.into()).contains("`job`"));
        assert!(broken("/panels/1/title", "".into()).contains("title"));
        assert!(broken("/panels/2/id", 2.into()).contains("id"));
        assert!(broken("/panels/1/description", "".into()).contains("description"));
        assert!(broken("/panels/1/datasource/uid", "mine".into()).contains("$datasource"));
        assert!(broken("/panels/1/fieldConfig/defaults/unit", "".into()).contains("unit"));
        assert!(broken("/panels/1/targets", Value::Array(Vec::new())).contains("has no query"));
        assert!(broken(target, "up{job=~\"$job\"}".into()).contains("instance"));
        assert!(broken(target, "up".into()).contains("without a selector"));
        assert!(broken(target, format!("rate(a_total{selector}[5m])").into()).contains("[5m]"));
        assert!(broken(target, format!("sum(a_total{selector})").into()).contains("is a counter"));
    }
}
