//! Rust source without comments, literals and unit tests, for rules that look at code alone.

/// Replaces comments and the content of literals by spaces; line breaks stay.
pub(super) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => find(text, at + 2, "*/"),
            b'"' => string_end(bytes, at),
            b'r' if is_raw_string(bytes, at) => raw_string_end(text, at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        if end == at {
            let length = text[at..].chars().next().map_or(1, char::len_utf8);
            code.push_str(&text[at..at + length]);
            at += length;
        } else {
            code.extend(text[at..end].chars().map(|skipped| if skipped == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    without_tests(&code)
}

/// Removes modules and items under `#[cfg(test)]` at the top level of a file.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("#[cfg(test)]") {
            // Up to the end of the item: a line that is `}` or ends with `;` at the top level.
            for skipped in lines.by_ref() {
                let is_end =
                    skipped.starts_with('}') || !skipped.starts_with([' ', '#']) && skipped.ends_with(';');
                if is_end {
                    break;
                }
            }
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn find(text: &str, from: usize, end: &str) -> usize {
    text[from..].find(end).map_or(text.len(), |length| from + length + end.len())
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

fn is_raw_string(bytes: &[u8], at: usize) -> bool {
    let is_name =
        at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') && bytes[at - 1] != b'b';
    let mut next = at + 1;
    while bytes.get(next) == Some(&b'#') {
        next += 1;
    }
    !is_name && bytes.get(next) == Some(&b'"')
}

fn raw_string_end(text: &str, at: usize) -> usize {
    let hashes = text[at + 1..].bytes().take_while(|byte| *byte == b'#').count();
    find(text, at + hashes + 2, &format!("\"{}", "#".repeat(hashes)))
}

/// The end of a character literal; `at` for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        let rest = bytes.get(at + 3..).unwrap_or_default();
        return rest.iter().position(|byte| *byte == b'\'').map_or(at, |length| at + 3 + length + 1);
    }
    let width = match bytes.get(at + 1) {
        Some(byte) if *byte < 0x80 => 1,
        Some(byte) if *byte < 0xe0 => 2,
        Some(byte) if *byte < 0xf0 => 3,
        _ => 4,
    };
    if bytes.get(at + 1 + width) == Some(&b'\'') { at + width + 2 } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_literals_and_tests_are_removed() {
        let text = "use a; // use b\nlet c = \"use d \\\" e\"; /* f\n*/ let g: &'static str = r#\"h\"#; 'i'; '\\''; j\n\
                    #[cfg(test)]\nmod tests {\n    use k;\n}\n#[cfg(test)]\nmod l;\nuse m;\n";
        let code = code(text);
        let words: Vec<&str> =
            code.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|w| !w.is_empty()).collect();
        assert_eq!(words, ["use", "a", "let", "c", "let", "g", "'static", "str", "j", "use", "m"]);
    }
}
