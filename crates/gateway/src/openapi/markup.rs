//! HTML of the document's descriptions. Of Markdown, they have paragraphs and code between backquotes only.

use crate::html::escape;

/// A line of text with `code` between backquotes.
pub(super) fn inline(text: &str) -> String {
    let escaped = escape(text.trim());
    let part = |(index, part): (usize, &str)| match index % 2 {
        1 => format!("<code>{part}</code>"),
        _ => part.to_owned(),
    };
    escaped.split('`').enumerate().map(part).collect()
}

/// Paragraphs, which empty lines separate.
pub(super) fn paragraphs(text: &str) -> String {
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    paragraphs.map(|paragraph| format!("<p>{}</p>\n", inline(paragraph))).collect()
}

/// Id of an element: letters and digits of `text` in lower case, with `-` between them.
pub(super) fn anchor(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_code_is_marked() {
        assert_eq!(inline("a < `b` & \"c\""), "a &lt; <code>b</code> &amp; &quot;c&quot;");
        assert_eq!(paragraphs("one\n\n`two`\n"), "<p>one</p>\n<p><code>two</code></p>\n");
        assert_eq!(anchor("POST /v1/models/{id}"), "post-v1-models-id");
    }
}
