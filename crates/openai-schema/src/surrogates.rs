//! Replacement of lone surrogates in JSON text.
//!
//! A client that truncates a string by UTF-16 code units can leave half of an emoji at its end, and openai-node then
//! sends `"\ud83d"`. That is valid JSON (RFC 8259, section 8.2) but not valid Unicode, and `serde_json` rejects the
//! whole body. Instead, each lone surrogate becomes U+FFFD, as in JavaScript's `String.prototype.toWellFormed`.

use std::borrow::Cow;

/// Length of `\uXXXX`.
const ESCAPE_LEN: usize = 6;

/// Replaces the escape of every lone surrogate by `\ufffd`; surrogate pairs are kept.
///
/// The result has the length of `json`, so that the position of a syntax error stays correct. It borrows `json` if
/// nothing is replaced. Malformed escapes are left for the parser to reject.
pub(crate) fn replace_lone_surrogates(json: &str) -> Cow<'_, str> {
    let mut replaced = String::new();
    let mut copied = 0;
    let mut at = 0;
    // JSON has no backslash outside strings, so each one starts an escape.
    while let Some(offset) = json[at..].find('\\') {
        let escape = at + offset;
        at = match code_unit(json, escape) {
            Some(0xD800..=0xDBFF)
                if matches!(code_unit(json, escape + ESCAPE_LEN), Some(0xDC00..=0xDFFF)) =>
            {
                escape + 2 * ESCAPE_LEN
            }
            Some(0xD800..=0xDFFF) => {
                replaced.push_str(&json[copied..escape]);
                replaced.push_str("\\ufffd");
                copied = escape + ESCAPE_LEN;
                copied
            }
            Some(_) => escape + ESCAPE_LEN,
            // The escaped character is skipped with its backslash: `\\ud83d` holds no `\u` escape.
            None => escape + 1 + json[escape + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    replaced.push_str(&json[copied..]);
    Cow::Owned(replaced)
}

/// Returns the UTF-16 code unit that is escaped as `\uXXXX` at byte `at`.
fn code_unit(json: &str, at: usize) -> Option<u16> {
    let hex = json.as_bytes().get(at..at + ESCAPE_LEN)?.strip_prefix(b"\\u")?;
    hex.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::replace_lone_surrogates;

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
            let replaced = replace_lone_surrogates(json);
            assert_eq!(replaced, want);
            assert_eq!(replaced.len(), json.len());
        }
    }

    #[test]
    fn json_without_lone_surrogates_is_borrowed() {
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
            assert!(matches!(replace_lone_surrogates(json), Cow::Borrowed(same) if same == json), "{json}");
        }
    }
}
