//! Tables and numbers for a terminal.

/// A column's alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Lines with the cells of `rows` in columns, each as wide as its widest cell, two spaces apart.
pub(crate) fn lines<const N: usize>(rows: &[[String; N]], align: [Align; N]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).zip(align).map(|((cell, width), align)| match align {
            Align::Left => format!("{cell:width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `text` on one line, with an ellipsis in place of what is beyond `width` characters.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A whole number with commas between groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let groups = tail.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = (!head.is_empty()).then(|| head.to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

/// A rate with at most three digits before the point.
pub(crate) fn rate(number: f64) -> String {
    match number {
        number if number >= 999_500.0 => format!("{:.1}M", number / 1e6),
        number if number >= 9_995.0 => format!("{:.0}k", number / 1e3),
        number if number >= 999.5 => format!("{:.1}k", number / 1e3),
        number if number >= 99.95 || number == 0.0 => format!("{number:.0}"),
        number => format!("{number:.1}"),
    }
}

/// A duration in seconds with the unit that suits it.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 0.9995 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 59.95 => format!("{seconds:.1} s"),
        seconds if seconds < 3600.0 => format!("{:.0} min", (seconds / 60.0).floor()),
        seconds if seconds < 48.0 * 3600.0 => {
            format!("{:.0} h {:.0} min", (seconds / 3600.0).floor(), (seconds % 3600.0 / 60.0).floor())
        }
        seconds => format!("{:.0} days", (seconds / 86_400.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        assert_eq!(
            [0, 7, 999, 1000, 12_345, 1_234_567].map(grouped),
            ["0", "7", "999", "1,000", "12,345", "1,234,567"]
        );
        assert_eq!(
            [0.0, 0.04, 12.34, 99.96, 999.6, 12_345.0, 2_500_000.0].map(rate),
            ["0", "0.0", "12.3", "100", "1.0k", "12k", "2.5M"]
        );
        assert_eq!(
            [0.00125, 0.034, 1.25, 90.0, 7_260.0, 400_000.0].map(seconds),
            ["1.2 ms", "34 ms", "1.2 s", "1 min", "2 h 1 min", "4 days"]
        );
    }

    #[test]
    fn columns_are_aligned_and_texts_shortened() {
        let rows = [["a", "1"], ["bcd", "100"]].map(|row| row.map(str::to_owned));
        assert_eq!(lines(&rows, [Align::Left, Align::Right]), ["a      1", "bcd  100"]);
        assert_eq!(shortened("a  b\nc", 10), "a b c");
        assert_eq!(shortened("one two three", 9), "one two…");
    }
}
