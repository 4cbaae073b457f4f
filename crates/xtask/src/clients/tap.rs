//! Counts the checks of a client script, which prints the Test Anything Protocol.
//!
//! `ok 1 - name`, `not ok 2 - name`, `ok 3 - name # SKIP reason`, and at the end the plan `1..3`. A script
//! that ends early prints no plan, and that is a failure.

use std::process::ExitStatus;

use crate::test::report::Suite;

/// Fed line by line.
#[derive(Debug, Default)]
pub(super) struct Parser {
    suite: Suite,
    plan: Option<usize>,
    /// The last line, for a script that dies.
    last: String,
}

impl Parser {
    pub(super) fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("not ok ") {
            self.suite.fail(name(rest));
        } else if let Some(rest) = line.strip_prefix("ok ") {
            match rest.split_once(" # SKIP ") {
                Some((check, reason)) => self.suite.skip(format!("{}: {reason}", name(check))),
                None => self.suite.passed += 1,
            }
        } else if let Some(count) = line.strip_prefix("1..").and_then(|count| count.parse().ok()) {
            self.plan = Some(count);
        }
        if !line.trim().is_empty() {
            line.clone_into(&mut self.last);
        }
    }

    /// Adds the counts to `suite`; no status means that the script ran past its time.
    pub(super) fn finish(self, status: Option<ExitStatus>, suite: &mut Suite) {
        let counted = self.suite.passed + self.suite.failed + self.suite.skipped;
        let ended_well = status.is_some_and(|status| status.success());
        suite.passed += self.suite.passed;
        suite.failed += self.suite.failed;
        suite.skipped += self.suite.skipped;
        suite.notes.extend(self.suite.notes);
        let how = status.map_or_else(|| "it ran past its time".to_owned(), |status| status.to_string());
        if self.plan != Some(counted) {
            suite.fail(format!("the script ended early ({how}): {}", self.last));
        } else if !ended_well && self.suite.failed == 0 {
            suite.fail(format!("every check passed, yet {how}"));
        }
    }
}

/// `2 - a name` without its number.
fn name(rest: &str) -> &str {
    rest.split_once(" - ").map_or(rest, |(_, name)| name)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn suite(output: &str, code: Option<i32>) -> Suite {
        let mut parser = Parser::default();
        output.lines().for_each(|line| parser.line(line));
        let mut suite = Suite::new("client");
        parser.finish(code.map(|code| ExitStatus::from_raw(code << 8)), &mut suite);
        suite
    }

    #[test]
    fn checks_are_counted() {
        let suite = suite("ok 1 - a\nok 2 - b # SKIP no c\nnot ok 3 - d\n# why\n1..3\n", Some(1));
        assert_eq!((suite.passed, suite.failed, suite.skipped), (1, 1, 1));
        assert_eq!(suite.notes, ["skipped b: no c", "failed d"]);
    }

    #[test]
    fn a_script_that_ends_early_fails() {
        for (output, code) in
            [("", Some(0)), ("ok 1 - a\n", Some(0)), ("ok 1 - a\n1..2\n", Some(0)), ("", None)]
        {
            assert_eq!(suite(output, code).failed, 1, "{output:?}");
        }
        assert!(suite("ok 1 - a\nSegmentation fault\n", Some(139)).notes[0].ends_with("Segmentation fault"));
    }

    #[test]
    fn the_exit_status_counts_too() {
        assert_eq!(suite("ok 1 - a\n1..1\n", Some(1)).failed, 1);
        assert_eq!(suite("ok 1 - a\n1..1\n", Some(0)).failed, 0);
    }
}
