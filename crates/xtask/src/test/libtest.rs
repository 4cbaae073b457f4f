//! Counts from `cargo test`'s output.
//!
//! libtest has no stable machine-readable output, but its summary line has not changed in years, and libtest-mimic
//! prints the same. A binary that announces tests and then dies prints no summary; that is a failure. An ignored test
//! with a reason is a skip; one without a reason is a failure.

use std::collections::BTreeMap;

use testkit::report::Suite;

/// Package of each test binary, by file name.
pub(super) type Binaries = BTreeMap<String, String>;

/// Reads lines in the order in which Cargo and the test binaries wrote them.
#[derive(Debug)]
pub(super) struct Parser {
    binaries: Binaries,
    suites: Vec<Suite>,
    /// Tests announced by "running N tests" without a summary yet.
    announced: Option<usize>,
}

impl Parser {
    pub(super) fn new(binaries: Binaries) -> Self {
        Self { binaries, suites: Vec::new(), announced: None }
    }

    pub(super) fn line(&mut self, line: &str) {
        let text = line.trim();
        if let Some(name) = self.suite_name(text) {
            self.close();
            self.suites.push(Suite::new(name));
        } else if let Some(count) = announced(text) {
            self.close();
            self.announced = Some(count);
        } else if let Some(summary) = text.strip_prefix("test result: ") {
            self.announced = None;
            add_summary(self.current(), summary);
        } else if let Some((test, result)) =
            text.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        {
            let suite = self.current();
            if result == "FAILED" {
                suite.notes.push(format!("failed {test}"));
            } else if let Some(reason) = result.strip_prefix("ignored, ") {
                suite.notes.push(format!("skipped {test}: {reason}"));
            } else if result == "ignored" {
                suite.fail(format!("{test}: ignored without a reason"));
            }
        }
    }

    pub(super) fn finish(mut self) -> Vec<Suite> {
        self.close();
        // A crate without tests still has a test binary.
        self.suites.retain(|suite| suite.passed + suite.failed + suite.skipped > 0);
        self.suites
    }

    /// Parses `Running unittests src/lib.rs (target/debug/deps/inference-0123456789abcdef)` and `Doc-tests inference`.
    fn suite_name(&self, text: &str) -> Option<String> {
        if let Some(name) = text.strip_prefix("Doc-tests ") {
            return Some(format!("{name} · documentation"));
        }
        let (source, binary) = text.strip_prefix("Running ")?.split_once(" (")?;
        let binary = binary.strip_suffix(')')?.rsplit(['/', '\\']).next()?;
        let package = self.binaries.get(binary).map_or(binary, String::as_str);
        Some(format!("{package} · {}", source.strip_prefix("unittests ").unwrap_or(source)))
    }

    fn close(&mut self) {
        if let Some(count) = self.announced.take() {
            self.current().fail(format!("announced {count} tests and ended without a summary"));
        }
    }

    fn current(&mut self) -> &mut Suite {
        if self.suites.is_empty() {
            self.suites.push(Suite::new("cargo test"));
        }
        let last = self.suites.len() - 1;
        &mut self.suites[last]
    }
}

/// Adds a summary such as `ok. 5 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.02s`.
fn add_summary(suite: &mut Suite, summary: &str) {
    let counts = summary.split_once(". ").map_or("", |(_, counts)| counts);
    for part in counts.split(';') {
        let Some((count, what)) = part.trim().split_once(' ') else { continue };
        let Ok(count) = count.parse::<usize>() else { continue };
        match what {
            "passed" => suite.passed += count,
            "failed" => suite.failed += count,
            "ignored" | "filtered out" => suite.skipped += count,
            _ => {}
        }
    }
}

/// Parses `running 5 tests` and `running 1 test`.
fn announced(text: &str) -> Option<usize> {
    let (count, word) = text.strip_prefix("running ")?.split_once(' ')?;
    if word != "test" && word != "tests" {
        return None;
    }
    count.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(output: &str) -> Vec<Suite> {
        let packages = [("inference-0123456789abcdef", "inference"), ("e2e-0123456789abcdef", "gateway")];
        let binaries = packages.map(|(binary, package)| (binary.to_owned(), package.to_owned()));
        let mut parser = Parser::new(binaries.into());
        for line in output.lines() {
            parser.line(line);
        }
        parser.finish()
    }

    #[test]
    fn results_are_counted_by_binary_with_the_reasons() {
        let suites = parse(
            "    Finished `test` profile [optimized + debuginfo] target(s) in 0.10s
     Running unittests src/lib.rs (target/debug/deps/inference-0123456789abcdef)

running 3 tests
test batch::plan ... ok
test pooling::mean ... FAILED
test kernels::amx ... ignored, no AMX here

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s

     Running tests/e2e/main.rs (target/debug/deps/e2e-0123456789abcdef)

running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.02s
   Doc-tests model_import

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
",
        );
        let notes = ["failed pooling::mean", "skipped kernels::amx: no AMX here"].map(str::to_owned).to_vec();
        let inference = Suite::new("inference · src/lib.rs");
        assert_eq!(
            suites,
            [
                Suite { passed: 1, failed: 1, skipped: 1, notes, ..inference },
                Suite { passed: 1, skipped: 1, ..Suite::new("gateway · tests/e2e/main.rs") },
            ]
        );
    }

    #[test]
    fn an_ignored_test_needs_a_reason() {
        let suites =
            parse("running 1 test\ntest a ... ignored\ntest result: ok. 0 passed; 0 failed; 1 ignored\n");
        assert_eq!((suites[0].failed, suites[0].skipped), (1, 1));
        assert_eq!(suites[0].notes, ["failed a: ignored without a reason"]);
    }

    #[test]
    fn a_binary_that_dies_is_a_failure() {
        let suites = parse(
            "     Running unittests src/lib.rs (target/debug/deps/inference-0123456789abcdef)
running 2 tests
error: test failed, to rerun pass `-p inference --lib`

Caused by:
  process didn't exit successfully: (signal: 11, SIGSEGV: invalid memory reference)
     Running unittests src/main.rs (target/debug/deps/xtask-0123456789abcdef)
running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s
",
        );
        assert_eq!(suites.len(), 2);
        assert_eq!((suites[0].passed, suites[0].failed), (0, 1));
        assert!(suites[0].notes[0].contains("2 tests and ended without a summary"), "{:?}", suites[0].notes);
        assert_eq!((suites[1].passed, suites[1].failed), (1, 0));
    }

    #[test]
    fn documentation_tests_may_come_in_several_groups() {
        let group =
            "running 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let suites = parse(&format!("   Doc-tests inference\n{group}{group}"));
        assert_eq!(suites, [Suite { passed: 2, ..Suite::new("inference · documentation") }]);
    }
}
