//! The test report: a table, the reasons for failures and skips, and a last line for scripts.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::files;

/// Results of one test binary, client or scenario.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Suite {
    /// Name in the table.
    pub name: String,
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests that were skipped.
    pub skipped: usize,
    /// Reasons for failures and skips, one line each.
    pub notes: Vec<String>,
}

impl Suite {
    /// An empty suite; announces its name.
    pub fn begin(name: impl Into<String>) -> Self {
        let suite = Self::new(name);
        println!("\n{}", suite.name);
        suite
    }

    /// An empty suite.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Counts a failure.
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.failed += 1;
        self.notes.push(format!("failed {}", reason.into()));
    }

    /// Counts a skip.
    pub fn skip(&mut self, reason: impl Into<String>) {
        self.skipped += 1;
        self.notes.push(format!("skipped {}", reason.into()));
    }

    /// Counts and prints a check whose figures are in `text`.
    pub fn judge(&mut self, passed: bool, text: impl Into<String>) {
        let text = text.into();
        if passed {
            self.passed += 1;
            println!("  ok - {text}");
        } else {
            println!("  not ok - {text}");
            self.fail(text);
        }
    }

    /// Runs, counts and prints a check.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        let started = Instant::now();
        match check() {
            Ok(()) => self.judge(true, format!("{name} ({:.1} s)", started.elapsed().as_secs_f64())),
            Err(error) => self.judge(false, format!("{name}: {error:#}")),
        }
    }
}

/// All suites of a run.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// The suites in order.
    pub suites: Vec<Suite>,
}

impl Report {
    /// Returns true if something ran and nothing failed.
    pub fn passed(&self) -> bool {
        let sum = |count: fn(&Suite) -> usize| self.suites.iter().map(count).sum::<usize>();
        sum(|suite| suite.passed) > 0 && sum(|suite| suite.failed) == 0
    }

    /// Writes the report as JSON to `path`, or prints it, and returns whether it [passed](Self::passed).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn publish(&self, path: Option<&Path>) -> Result<bool> {
        if let Some(path) = path {
            let text = serde_json::to_string(self).context("cannot write the report")?;
            files::write(path, text)?;
        } else {
            print!("{self}");
        }
        Ok(self.passed())
    }

    /// Adds the suites of `run`. Its error becomes a failed suite, so that it does not hide other results.
    pub fn run(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = run(self) {
            let mut suite = Suite::new(name);
            suite.fail(format!("{error:#}"));
            self.suites.push(suite);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.suites.iter().map(|suite| suite.name.chars().count()).max().unwrap_or(0);
        let mut total = Suite::default();
        writeln!(f, "\n{:width$}  passed  failed  skipped", "")?;
        for suite in &self.suites {
            let Suite { name, passed, failed, skipped, .. } = suite;
            writeln!(f, "{name:width$}  {passed:>6}  {failed:>6}  {skipped:>7}")?;
            total.passed += passed;
            total.failed += failed;
            total.skipped += skipped;
        }
        writeln!(f)?;
        for suite in &self.suites {
            for note in &suite.notes {
                writeln!(f, "{}: {note}", suite.name)?;
            }
        }
        write!(f, "{} passed, {} failed", total.passed, total.failed)?;
        if total.skipped > 0 {
            write!(f, ", {} skipped", total.skipped)?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_everything() {
        let mut report = Report::default();
        report.suites.push(Suite { passed: 3, ..Suite::new("one") });
        assert!(report.to_string().ends_with("\n3 passed, 0 failed\n"));
        assert!(report.passed());

        let mut suite = Suite { passed: 2, ..Suite::new("two") };
        suite.skip("x: no data");
        report.suites.push(suite);
        assert!(report.to_string().ends_with("two: skipped x: no data\n5 passed, 0 failed, 1 skipped\n"));
        assert!(report.passed());

        report.run("three", |_| anyhow::bail!("y"));
        assert!(report.to_string().ends_with("\n5 passed, 1 failed, 1 skipped\n"));
        assert!(!report.passed());
    }

    #[test]
    fn a_run_without_tests_fails() {
        assert!(!Report::default().passed());
    }

    #[test]
    fn checks_are_counted_by_their_result() {
        let mut suite = Suite::new("x");
        suite.check("a", || Ok(()));
        suite.check("b", || anyhow::bail!("why"));
        suite.judge(true, "c");
        assert_eq!((suite.passed, suite.failed, suite.notes), (2, 1, vec!["failed b: why".to_owned()]));
    }
}
