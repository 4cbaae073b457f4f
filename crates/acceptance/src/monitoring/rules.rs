//! Recording rules and alerts: their conventions, and a check that each alert has a firing and a silent test.
//!
//! The alert is broken in two ways (mutation testing): its tests must fail when it never fires, and when it always
//! fires.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::files;

use super::prometheus::Promtool;

/// Values of an alert's label `severity`.
const SEVERITIES: [&str; 3] = ["critical", "warning", "info"];
/// The page with instructions for each alert.
pub(super) const RUNBOOK: &str = "docs/operations.md";
/// The line of a test file that names the rules; broken rules replace them.
const LOADED: &str = "rule_files:";
const BROKEN_RULES: &str = "rules.json";
const BROKEN_TESTS: &str = "tests.yaml";

pub(super) fn is_alert(rule: &Value) -> bool {
    rule["type"] == "alerting"
}

/// Returns `alert-embedgate-latency-high` for `EmbedgateLatencyHigh`.
pub(super) fn anchor(alert: &str) -> String {
    let mut anchor = String::from("alert");
    for letter in alert.chars() {
        if letter.is_ascii_uppercase() {
            anchor.push('-');
        }
        anchor.push(letter.to_ascii_lowercase());
    }
    anchor
}

/// Violations of the conventions by one rule, in the API's form; `page` is the text of the [`RUNBOOK`].
pub(super) fn complaints(rule: &Value, page: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&rule["name"]);
    let mut complaints = Vec::new();
    let mut complain = |what: String| complaints.push(format!("{name}: {what}"));
    if rule["health"] != "ok" {
        complain(format!("is not healthy: {} {}", rule["health"], rule["lastError"]));
    }
    if !is_alert(rule) {
        if !name.starts_with("embedgate:") || name.split(':').count() != 3 {
            complain("is not called embedgate:METRIC:OPERATION".into());
        }
        return complaints;
    }
    if !name.starts_with("Embedgate") {
        complain("does not begin with Embedgate".into());
    }
    if !SEVERITIES.contains(&text(&rule["labels"]["severity"]).as_str()) {
        complain(format!("its severity is none of {SEVERITIES:?}"));
    }
    if text(&rule["annotations"]["summary"]).is_empty() {
        complain("has no summary".into());
    }
    if !text(&rule["annotations"]["description"]).ends_with('.') {
        complain("its description is not a sentence".into());
    }
    let anchor = anchor(&name);
    if text(&rule["annotations"]["runbook"]) != format!("{RUNBOOK}#{anchor}") {
        complain(format!("its runbook is not {RUNBOOK}#{anchor}"));
    }
    if !has_anchor(page, &anchor) {
        complain(format!("{RUNBOOK} has no anchor #{anchor}"));
    }
    if rule["state"] == "firing" {
        complain("fires without a reason".into());
    }
    complaints
}

/// Returns true if a page has a heading or an `id` for the anchor.
fn has_anchor(page: &str, anchor: &str) -> bool {
    let heading = |line: &str| {
        let title = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        Some(kept.collect::<String>().replace(' ', "-"))
    };
    page.contains(&format!("id=\"{anchor}\"")) || page.lines().filter_map(heading).any(|slug| slug == anchor)
}

/// Runs the unit tests of one alert, and again with the alert broken in two ways, which they must detect.
pub(super) fn check_tests(
    tool: &Promtool,
    tests: &Path,
    scratch: &Path,
    rules: &[Value],
    alert: &Value,
) -> Result<()> {
    let name = alert["name"].as_str().context("an alert without a name")?;
    let file = tests.join(format!("{name}.yaml"));
    let text = files::read_text(&file)?;
    tool.run(tests, &["test", "rules", &format!("{name}.yaml")])?;

    let lines = text.lines().map(|line| match line.starts_with(LOADED) {
        true => format!("{LOADED} [{BROKEN_RULES}]\n"),
        false => format!("{line}\n"),
    });
    files::write(&scratch.join(BROKEN_TESTS), lines.collect::<String>())?;
    let query = alert["query"].as_str().context("an alert without a query")?;
    let run = |query: String| -> Result<Result<String>> {
        let mut broken = alert.clone();
        broken["query"] = query.into();
        files::write(&scratch.join(BROKEN_RULES), file_of(rules, &broken).to_string())?;
        Ok(tool.run(scratch, &["test", "rules", BROKEN_TESTS]))
    };
    // The round trip through the API's JSON must not change the alert.
    run(query.to_owned())?.context("the alert from the API does not pass its tests")?;
    let never = run(format!("({query}) unless on () vector(1)"))?;
    anyhow::ensure!(never.is_err(), "no test of {name} detects that it never fires");
    let always = run(format!("({query}) or on () vector(1)"))?;
    anyhow::ensure!(always.is_err(), "no test of {name} detects that it fires without a reason");
    Ok(())
}

/// A rule file with the recording rules and one alert.
fn file_of(rules: &[Value], alert: &Value) -> Value {
    let recorded = rules.iter().filter(|rule| !is_alert(rule));
    let recorded = recorded.map(|rule| json!({"record": rule["name"], "expr": rule["query"]}));
    let alert = json!({
        "alert": alert["name"],
        "expr": alert["query"],
        "for": format!("{}s", alert["duration"].as_f64().unwrap_or_default()),
        "labels": alert["labels"],
        "annotations": alert["annotations"],
    });
    json!({"groups": [
        {"name": "recorded", "rules": recorded.collect::<Vec<_>>()},
        {"name": "alert", "rules": [alert]},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Operations\n### Alert: Embedgate not ready\n";

    fn alert() -> Value {
        json!({
            "type": "alerting", "name": "EmbedgateNotReady", "health": "ok", "state": "inactive",
            "labels": {"severity": "warning"},
            "annotations": {
                "summary": "s", "description": "Do something.",
                "runbook": "docs/operations.md#alert-embedgate-not-ready",
            },
        })
    }

    #[test]
    fn a_correct_rule_has_no_complaints() {
        assert_eq!(complaints(&alert(), PAGE), Vec::<String>::new());
        let recorded = json!({"type": "recording", "name": "embedgate:a:b", "health": "ok"});
        assert_eq!(complaints(&recorded, ""), Vec::<String>::new());
        assert!(has_anchor("<a id=\"alert-x\"></a>", "alert-x"));
    }

    #[test]
    fn each_violation_is_detected() {
        let broken = |pointer: &str, value: &str| {
            let mut rule = alert();
            *rule.pointer_mut(pointer).unwrap() = value.into();
            let complaints = complaints(&rule, PAGE);
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            complaints[0].clone()
        };
        assert!(broken("/health", "err").contains("not healthy"));
        assert!(broken("/state", "firing").contains("fires"));
        assert!(broken("/labels/severity", "page").contains("severity"));
        assert!(broken("/annotations/summary", "").contains("summary"));
        assert!(broken("/annotations/description", "?").contains("description"));
        assert!(broken("/annotations/runbook", "elsewhere").contains("runbook"));
        assert!(complaints(&alert(), "# Operations").iter().any(|what| what.contains("no anchor")));
        let recorded = json!({"type": "recording", "name": "a:b", "health": "ok"});
        assert_eq!(complaints(&recorded, "").len(), 1);
    }
}
