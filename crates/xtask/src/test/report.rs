//! What ran and how it ended: a table, the reasons, and a last line that a script can read.

use std::fmt;

/// One test binary or one client.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    /// Why something failed or was left out, one line each.
    pub(crate) notes: Vec<String>,
}

impl Suite {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub(crate) fn fail(&mut self, reason: impl Into<String>) {
        self.failed += 1;
        self.notes.push(format!("failed {}", reason.into()));
    }

    pub(crate) fn skip(&mut self, reason: impl Into<String>) {
        self.skipped += 1;
        self.notes.push(format!("skipped {}", reason.into()));
    }
}

/// Everything that ran.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) suites: Vec<Suite>,
}

impl Report {
    /// Whether something ran and nothing failed.
    pub(crate) fn passed(&self) -> bool {
        let sum = |count: fn(&Suite) -> usize| self.suites.iter().map(count).sum::<usize>();
        sum(|suite| suite.passed) > 0 && sum(|suite| suite.failed) == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.suites.iter().map(|suite| suite.name.chars().count()).max().unwrap_or(0);
        let mut total = Suite::default();
        writeln!(f, "\n{:width$}  passed  failed  skipped", "")?;
        for suite in &self.suites {
            writeln!(
                f,
                "{:width$}  {:>6}  {:>6}  {:>7}",
                suite.name, suite.passed, suite.failed, suite.skipped
            )?;
            total.passed += suite.passed;
            total.failed += suite.failed;
            total.skipped += suite.skipped;
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

        let mut suite = Suite::new("three");
        suite.fail("y");
        report.suites.push(suite);
        assert!(report.to_string().ends_with("\n5 passed, 1 failed, 1 skipped\n"));
        assert!(!report.passed());
    }

    #[test]
    fn a_run_without_any_test_has_not_passed() {
        assert!(!Report::default().passed());
    }
}
