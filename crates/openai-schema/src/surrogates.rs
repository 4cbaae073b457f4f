//! Mending JSON text that escapes half of a character.
//!
//! A client that cuts a string by UTF-16 units leaves half of an emoji at its end, and openai-node
//! then sends `"\ud83d"`. That is valid JSON (RFC 8259, section 8.2) but no Unicode text, and
//! `serde_json` refuses the whole body for it. WHATWG's "well-formed string" rule is applied
//! instead: each lone surrogate becomes one U+FFFD.

use std::borrow::Cow;

/// `\uXXXX`
const ESCAPE_LEN: usize = 6;

/// Replaces the escape of every lone surrogate by `\ufffd`; surrogate pairs stay.
///
/// The result has the length of `json`, so that the position of a syntax error stays right. Borrows
/// if there is nothing to mend. Malformed escapes are left for the parser to refuse.
pub(crate) fn mend(json: &str) -> Cow<'_, str> {
    let mut mended = String::new();
    let mut copied = 0;
    let mut at = 0;
    // Outside strings JSON has no backslash, so that every one found here starts an escape.
    while let Some(offset) = json[at..].find('\\') {
        let escape = at + offset;
        at = match code_unit(json, escape) {
            Some(0xD800..=0xDBFF)
                if matches!(code_unit(json, escape + ESCAPE_LEN), Some(0xDC00..=0xDFFF)) =>
            {
                escape + 2 * ESCAPE_LEN
            }
            Some(0xD800..=0xDFFF) => {
                mended.push_str(&json[copied..escape]);
                mended.push_str("\\ufffd");
                copied = escape + ESCAPE_LEN;
                copied
            }
            Some(_) => escape + ESCAPE_LEN,
            // The escaped character is skipped with its backslash: in `\\ud83d` no `\u` begins.
            None => escape + 1 + json[escape + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    mended.push_str(&json[copied..]);
    Cow::Owned(mended)
}

/// The UTF-16 code unit that is escaped as `\uXXXX` at byte `at`.
fn code_unit(json: &str, at: usize) -> Option<u16> {
    let hex = json.as_bytes().get(at..at + ESCAPE_LEN)?.strip_prefix(b"\\u")?;
    hex.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::mend;

    #[test]
    fn lone_surrogates_become_replacement_characters() {
        for (json, want) in [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\uDE00""#, r#""\ufffd""#),
            (r#""a\ud83db""#, r#""a\ufffdb""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ud83d\ude00\ude00""#, r#""\ud83d\ude00\ufffd""#),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\n\ude00""#, r#""\ufffd\n\ufffd""#),
            (r#""\ud83d\u0041""#, r#""\ufffd\u0041""#),
            (r#""\\\ud83d""#, r#""\\\ufffd""#),
            (r#""é\ud83d漢""#, r#""é\ufffd漢""#),
        ] {
            assert_eq!(mend(json), want);
            assert_eq!(mend(json).len(), json.len());
        }
    }

    #[test]
    fn everything_else_is_borrowed() {
        for json in [
            "",
            r#""\ud83d\ude00""#,
            r#""\\ud83d""#,
            r#""\u00e9""#,
            r#""\ud83""#,
            r#""\é""#,
            "\\",
            "\\u",
            "\\u12é4",
        ] {
            assert!(matches!(mend(json), Cow::Borrowed(same) if same == json), "{json}");
        }
    }
}
