//! Progress on standard error: one line that is rewritten in place, if it is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Interval between two texts, for a terminal that is slow.
const INTERVAL: Duration = Duration::from_millis(100);

/// Width of a progress bar, in characters.
const BAR_WIDTH: u64 = 24;

/// The line.
pub(crate) struct ProgressLine {
    is_terminal: bool,
    shown: Option<(String, Instant)>,
}

impl ProgressLine {
    pub(crate) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), shown: None }
    }

    /// Replaces the text, unless it was replaced a moment ago.
    pub(crate) fn show(&mut self, text: &str) {
        let is_new = self.shown.as_ref().is_none_or(|(last, at)| last != text && at.elapsed() >= INTERVAL);
        if self.is_terminal && is_new {
            self.shown = Some((text.to_owned(), Instant::now()));
            // A closed terminal must not stop the work.
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// Writes a text that stays, also where standard error is not a terminal.
    pub(crate) fn note(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Removes the text.
    pub(crate) fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Draws a bar with the share `done` of `total`.
pub(crate) fn bar(done: u64, total: u64) -> String {
    let filled =
        (u128::from(done.min(total)) * u128::from(BAR_WIDTH)).checked_div(u128::from(total)).unwrap_or(0);
    (0..u128::from(BAR_WIDTH)).map(|cell| if cell < filled { '█' } else { '░' }).collect()
}

/// Writes a number of bytes with a decimal unit, as hubs do.
pub(crate) fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
    let mut number = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if number < 999.5 {
            break;
        }
        (number, unit) = (number / 1000.0, larger);
    }
    if unit == "GB" || (unit != "B" && number < 9.95) {
        format!("{number:.1} {unit}")
    } else {
        format!("{number:.0} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (90_868_376, "91 MB"),
            (999_600_000, "1.0 GB"),
            (2_270_000_000, "2.3 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_bar_is_empty_at_0_and_full_at_its_total() {
        for (done, total, filled) in [(0, 10, 0), (5, 10, 12), (10, 10, 24), (11, 10, 24), (0, 0, 0)] {
            assert_eq!(
                bar(done, total).chars().filter(|cell| *cell == '█').count(),
                filled,
                "{done} of {total}"
            );
        }
    }
}
