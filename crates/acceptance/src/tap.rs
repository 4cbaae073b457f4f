//! Runs a script that prints the Test Anything Protocol, and counts its checks.
//!
//! `ok 1 - name`, `not ok 2 - name`, `ok 3 - name # SKIP reason`, and at the end the plan `1..3`. A script that ends
//! early prints no plan; that is a failure.

use std::io::{BufRead, BufReader, pipe};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use testkit::process::{command_line, remove_env_if};
use testkit::report::Suite;
use testkit::wait;

/// Runs a script, shows its lines and counts its checks; after `timeout` it is killed and fails.
pub(crate) fn run(command: &mut Command, timeout: Duration, suite: &mut Suite) -> Result<()> {
    let (reader, writer) = pipe().context("cannot create a pipe")?;
    remove_settings(command);
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot clone a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", command_line(command)))?;
    // Closes this process's write ends of the pipe; otherwise the reader below never sees its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let lines = thread::spawn(move || {
        let mut parser = Parser::default();
        for line in BufReader::new(reader).split(b'\n').map_while(std::result::Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            println!("  {line}");
            parser.line(&line);
        }
        parser
    });
    let status = wait::poll(timeout, || child.try_wait().transpose()).transpose();
    let status = status.context("cannot wait for a script")?;
    if status.is_none() {
        child.kill().context("cannot kill a script")?;
        child.wait().context("cannot wait for a script")?;
    }
    let parser = lines.join().map_err(|_| anyhow::anyhow!("the reader of a script's output panicked"))?;
    parser.finish(status, suite);
    Ok(())
}

/// Removes the user's settings for providers and proxies.
fn remove_settings(command: &mut Command) {
    const PREFIXES: [&str; 6] =
        ["OPENAI_", "EMBEDGATE_", "LITELLM_", "LANGCHAIN_", "LANGSMITH_", "HAYSTACK_"];
    remove_env_if(command, |name| {
        let name = name.to_ascii_uppercase();
        PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with("_PROXY")
    });
}

/// Reads the output line by line.
#[derive(Debug, Default)]
struct Parser {
    suite: Suite,
    plan: Option<usize>,
    /// The last line, for a script that ends early.
    last: String,
}

impl Parser {
    fn line(&mut self, line: &str) {
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

    /// Adds the counts to `suite`; no status means that the script exceeded its time limit.
    fn finish(self, status: Option<ExitStatus>, suite: &mut Suite) {
        let counted = self.suite.passed + self.suite.failed + self.suite.skipped;
        let ended_well = status.is_some_and(|status| status.success());
        suite.passed += self.suite.passed;
        suite.failed += self.suite.failed;
        suite.skipped += self.suite.skipped;
        suite.notes.extend(self.suite.notes);
        let how = status.map_or_else(|| "it exceeded its time limit".to_owned(), |status| status.to_string());
        if self.plan != Some(counted) {
            suite.fail(format!("the script ended early ({how}): {}", self.last));
        } else if !ended_well && self.suite.failed == 0 {
            suite.fail(format!("every check passed, but {how}"));
        }
    }
}

/// The name in `2 - a name`.
fn name(rest: &str) -> &str {
    rest.split_once(" - ").map_or(rest, |(_, name)| name)
}

#[cfg(test)]
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
