//! Reads the counts out of `cargo test`'s output.
//!
//! libtest has no stable machine-readable form, but its summary line has not changed in years. A binary that
//! announces tests and then dies prints no summary: that is a failure, not nothing.
//!
//! A test that finds that this machine cannot run it prints `NOT RUN: why` and returns. libtest takes it for passed;
//! here it is counted as skipped. `NOT RUN IN PART: why` is a test that ran, but not for everything that it knows.

use std::collections::BTreeMap;

use super::report::Suite;

/// File name of each test binary, and the package that it belongs to.
pub(super) type Binaries = BTreeMap<String, String>;

/// Fed line by line, in the order in which Cargo and the test binaries wrote.
#[derive(Debug)]
pub(super) struct Parser {
    binaries: Binaries,
    suites: Vec<Suite>,
    /// Tests announced by "running N tests" whose summary has not come yet.
    open: Option<usize>,
    /// Inside what passed tests printed: the test, once its heading came.
    output: Option<String>,
    /// Tests of the binary at hand that said they did not run.
    not_run: usize,
}

/// How a test says that it could not run.
const NOT_RUN: &str = "NOT RUN: ";
/// How it says that it ran, but not for everything.
const NOT_RUN_IN_PART: &str = "NOT RUN IN PART: ";

impl Parser {
    pub(super) fn new(binaries: Binaries) -> Self {
        Self { binaries, suites: Vec::new(), open: None, output: None, not_run: 0 }
    }

    /// Takes a line; tells whether it is worth showing. What passed tests print is not.
    pub(super) fn line(&mut self, line: &str) -> bool {
        let text = line.trim();
        if line == "successes:" {
            self.output = Some(String::new());
        } else if self.output.is_some() && line != "failures:" && !line.starts_with("test result: ") {
            self.printed(text);
        } else {
            self.output = None;
            self.count(text);
            return true;
        }
        false
    }

    /// A line of what passed tests printed.
    fn printed(&mut self, text: &str) {
        let heading = text.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(test) = heading {
            self.output = Some(test.to_owned());
            return;
        }
        let test = self.output.clone().unwrap_or_default();
        let (note, whole) = match (text.strip_prefix(NOT_RUN), text.strip_prefix(NOT_RUN_IN_PART)) {
            (Some(why), _) => (format!("skipped {test}: {why}"), true),
            (_, Some(why)) => (format!("skipped parts of {test}: {why}"), false),
            _ => return,
        };
        // A test may come to the same end in several of its cases.
        let notes = &mut self.current().notes;
        if !notes.contains(&note) {
            notes.push(note);
            self.not_run += usize::from(whole);
        }
    }

    fn count(&mut self, text: &str) {
        if let Some(name) = self.suite_name(text) {
            self.close();
            self.suites.push(Suite::new(name));
        } else if let Some(count) = announced(text) {
            self.close();
            self.open = Some(count);
        } else if let Some(summary) = text.strip_prefix("test result: ") {
            self.open = None;
            let not_run = std::mem::take(&mut self.not_run);
            let suite = self.current();
            suite.add(summary);
            suite.passed = suite.passed.saturating_sub(not_run);
            suite.skipped += not_run;
        } else if let Some(test) =
            text.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.current().notes.push(format!("failed {test}"));
        }
    }

    pub(super) fn finish(mut self) -> Vec<Suite> {
        self.close();
        // A crate without tests still has a binary; it says nothing worth a row.
        self.suites.retain(|suite| suite.passed + suite.failed + suite.skipped > 0);
        self.suites
    }

    /// Of `Running unittests src/lib.rs (target/debug/deps/inference-0123456789abcdef)` or `Doc-tests inference`.
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
        if let Some(count) = self.open.take() {
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

impl Suite {
    /// Adds a summary such as `ok. 5 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.02s`.
    fn add(&mut self, summary: &str) {
        let counts = summary.split_once(". ").map_or("", |(_, counts)| counts);
        for part in counts.split(';') {
            let Some((count, what)) = part.trim().split_once(' ') else { continue };
            let Ok(count) = count.parse::<usize>() else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" | "filtered out" => self.skipped += count,
                _ => {}
            }
        }
    }
}

/// `running 5 tests`, `running 1 test`.
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
    fn counts_are_kept_by_binary() {
        let suites = parse(
            "    Finished `test` profile [optimized + debuginfo] target(s) in 0.10s
     Running unittests src/lib.rs (target/debug/deps/inference-0123456789abcdef)

running 2 tests
test batch::plan ... ok
test pooling::mean ... FAILED

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s

     Running tests/e2e/main.rs (target/debug/deps/e2e-0123456789abcdef)

running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.02s
   Doc-tests model_import

running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
",
        );
        assert_eq!(
            suites,
            [
                Suite {
                    passed: 1,
                    failed: 1,
                    notes: vec!["failed pooling::mean".into()],
                    ..Suite::new("inference · src/lib.rs")
                },
                Suite { passed: 1, skipped: 1, ..Suite::new("gateway · tests/e2e/main.rs") },
            ]
        );
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
    fn what_could_not_run_has_not_passed() {
        let output = "     Running unittests src/lib.rs (target/debug/deps/inference-0123456789abcdef)
running 3 tests
test a ... ok
test b ... ok
test c ... ok

successes:

---- a stdout ----
NOT RUN: no such processor
NOT RUN: no such processor
---- b stdout ----
NOT RUN IN PART: no AVX-512

successes:
    a
    b
    c

test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s
";
        let notes = ["skipped a: no such processor", "skipped parts of b: no AVX-512"];
        let expected = Suite {
            passed: 2,
            skipped: 1,
            notes: notes.map(str::to_owned).to_vec(),
            ..Suite::new("inference · src/lib.rs")
        };
        assert_eq!(parse(output), [expected]);
    }

    #[test]
    fn documentation_tests_may_come_in_several_groups() {
        let group =
            "running 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let suites = parse(&format!("   Doc-tests inference\n{group}{group}"));
        assert_eq!(suites, [Suite { passed: 2, ..Suite::new("inference · documentation") }]);
    }
}
