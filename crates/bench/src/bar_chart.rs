//! Horizontal bars as SVG, written by hand: a few elements suffice.
//!
//! The background is transparent and all colors have medium lightness, so that one file is readable on GitHub's light
//! and dark pages: a media query would follow the system's theme, which may differ from the page's.

use std::fmt::Write as _;

/// Contrast of at least 4:1 to white and to GitHub's dark page.
const TEXT: &str = "#747c86";
const OURS: &str = "#2f81f7";
const THEIRS: &str = "#8b949e";

const WIDTH: usize = 760;
/// Width of the names to the left of the bars, and of the values to the right of the longest.
const NAMES: usize = 230;
const VALUES: usize = 150;
const TOP: usize = 46;
const STEP: usize = 28;
const BAR: usize = 18;

/// One competitor's bar.
pub(crate) struct Bar {
    pub(crate) name: String,
    /// Length and value; without it, only `label` is shown.
    pub(crate) value: Option<f64>,
    /// Text at the bar's end.
    pub(crate) label: String,
    pub(crate) ours: bool,
}

/// A chart as the text of an SVG file. `note` says what the bars mean and which way is better.
pub(crate) fn svg(title: &str, note: &str, bars: &[Bar]) -> String {
    let height = TOP + bars.len() * STEP + 8;
    let longest = bars.iter().filter_map(|bar| bar.value).fold(0.0, f64::max);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"-apple-system,'Segoe UI',Helvetica,Arial,sans-serif\" font-size=\"13\" fill=\"{TEXT}\">\n\
         <title>{title}</title>\n\
         <text x=\"0\" y=\"17\" font-size=\"15\" font-weight=\"600\">{title}</text>\n\
         <text x=\"0\" y=\"35\" font-size=\"12\">{note}</text>\n",
        title = escaped(title),
        note = escaped(note),
    );
    for (row, bar) in bars.iter().enumerate() {
        let top = TOP + row * STEP;
        let baseline = top + BAR - 5;
        let weight = if bar.ours { " font-weight=\"600\"" } else { "" };
        let length = bar.value.map_or(0.0, |value| {
            // A bar must be visible next to one that is a thousand times as long.
            (value / longest * (WIDTH - NAMES - VALUES) as f64).max(1.0)
        });
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\"{weight}>{}</text>",
            NAMES - 10,
            escaped(&bar.name)
        );
        if bar.value.is_some() {
            let color = if bar.ours { OURS } else { THEIRS };
            let _ = writeln!(
                svg,
                "<rect x=\"{NAMES}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{color}\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{baseline}\"{weight}>{}</text>",
            NAMES as f64 + length + 6.0,
            escaped(&bar.label)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: Option<f64>, label: &str) -> Bar {
        Bar { name: name.into(), value, label: label.into(), ours: name == "embedgate" }
    }

    /// Checks nesting, quoting and references, and yields the names of the elements in order.
    fn elements(mut xml: &str) -> Vec<String> {
        let (mut names, mut open) = (Vec::new(), Vec::new());
        while let Some((text, rest)) = xml.split_once('<') {
            assert!(!text.contains('>'), "a bare > in {text:?}");
            for reference in text.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| reference.starts_with(known)));
            }
            let (tag, rest) = rest.split_once('>').expect("a tag is closed");
            assert!(tag.matches('"').count() % 2 == 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
            } else {
                let name = tag.split([' ', '/']).next().unwrap().to_owned();
                names.push(name.clone());
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
            xml = rest;
        }
        assert!(open.is_empty() && xml.trim().is_empty());
        names
    }

    #[test]
    fn a_chart_is_well_formed_and_shows_every_value() {
        let bars = [
            bar("embedgate", Some(3000.0), "3,000"),
            bar("A & B <c>", Some(1.0), "1"),
            bar("llama.cpp server", None, "not run: no \"binary\""),
        ];
        let svg = svg("Texts & more", "texts/s, more is better", &bars);
        let names = elements(&svg);
        let count = |name: &str| names.iter().filter(|found| *found == name).count();
        assert_eq!((count("svg"), count("title"), count("rect"), count("text")), (1, 1, 2, 8));
        for shown in
            ["3,000", "A &amp; B &lt;c&gt;", "not run: no &quot;binary&quot;", "more is better", OURS]
        {
            assert!(svg.contains(shown), "{shown}");
        }
        // The longest bar fills its room; the other can still be seen.
        assert!(svg.contains("width=\"380.0\"") && svg.contains("width=\"1.0\""));
    }

    #[test]
    fn a_chart_without_values_is_well_formed_too() {
        elements(&svg("nothing", "", &[bar("x", None, "not run")]));
        elements(&svg("zero", "", &[bar("x", Some(0.0), "0")]));
    }
}
