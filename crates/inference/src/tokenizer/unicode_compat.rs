//! Compatibility with the Unicode tables of the released tokenizer library, with which published models were trained.
//!
//! The release candidate of the library has newer tables, with punctuation and compatibility characters that the
//! released library treats as ordinary unknown characters. The newer tables split a word at such a character, or
//! rewrite it. So each of them is replaced by a placeholder that is ordinary and unknown in both versions, which
//! gives the ids of the released library exactly. A test compares both libraries over all of Unicode.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

/// Placeholder for characters that no vocabulary holds. A Yi syllable is a letter without case or decomposition, and
/// not a CJK ideograph.
const PLACEHOLDER: char = '\u{a000}';

/// Characters of [`PUNCTUATION`] that only the older tables classify as punctuation; now they are a symbol and a mark.
const FORMER_PUNCTUATION: [char; 2] = ['\u{166d}', '\u{111c9}'];

/// Placeholder for those: punctuation in both versions, and in no vocabulary.
const PUNCTUATION_PLACEHOLDER: char = '\u{166e}';

/// Ranges that only one version classifies as punctuation. They matter if text is split at punctuation.
#[rustfmt::skip]
const PUNCTUATION: [(char, char); 42] = [
    ('\u{61d}', '\u{61d}'), ('\u{9fd}', '\u{9fd}'), ('\u{a76}', '\u{a76}'), ('\u{c77}', '\u{c77}'),
    ('\u{c84}', '\u{c84}'), ('\u{166d}', '\u{166d}'), ('\u{1b4e}', '\u{1b4f}'), ('\u{1b7d}', '\u{1b7f}'),
    ('\u{2e43}', '\u{2e4f}'), ('\u{2e52}', '\u{2e5d}'), ('\u{10d6e}', '\u{10d6e}'),
    ('\u{10ead}', '\u{10ead}'), ('\u{10ed0}', '\u{10ed0}'), ('\u{10f55}', '\u{10f59}'),
    ('\u{10f86}', '\u{10f89}'), ('\u{111c9}', '\u{111c9}'), ('\u{113d4}', '\u{113d5}'),
    ('\u{113d7}', '\u{113d8}'), ('\u{1144b}', '\u{1144f}'), ('\u{1145a}', '\u{1145b}'),
    ('\u{1145d}', '\u{1145d}'), ('\u{11660}', '\u{1166c}'), ('\u{116b9}', '\u{116b9}'),
    ('\u{1183b}', '\u{1183b}'), ('\u{11944}', '\u{11946}'), ('\u{119e2}', '\u{119e2}'),
    ('\u{11a3f}', '\u{11a46}'), ('\u{11a9a}', '\u{11a9c}'), ('\u{11a9e}', '\u{11aa2}'),
    ('\u{11b00}', '\u{11b09}'), ('\u{11be1}', '\u{11be1}'), ('\u{11c41}', '\u{11c45}'),
    ('\u{11c70}', '\u{11c71}'), ('\u{11ef7}', '\u{11ef8}'), ('\u{11f43}', '\u{11f4f}'),
    ('\u{11fff}', '\u{11fff}'), ('\u{12ff1}', '\u{12ff2}'), ('\u{16d6d}', '\u{16d6f}'),
    ('\u{16e97}', '\u{16e9a}'), ('\u{16fe2}', '\u{16fe2}'), ('\u{1e5ff}', '\u{1e5ff}'),
    ('\u{1e95e}', '\u{1e95f}'),
];

/// Ranges that only the newer tables decompose, and combining marks that only they put in canonical order. They
/// matter if text is normalized by NFKC or NFKD.
#[rustfmt::skip]
const COMPATIBILITY: [(char, char); 57] = [
    ('\u{7fd}', '\u{7fd}'), ('\u{897}', '\u{89f}'), ('\u{8ca}', '\u{8d3}'), ('\u{9fe}', '\u{9fe}'),
    ('\u{c3c}', '\u{c3c}'), ('\u{d3b}', '\u{d3c}'), ('\u{eba}', '\u{eba}'), ('\u{1715}', '\u{1715}'),
    ('\u{1abf}', '\u{1add}'), ('\u{1ae0}', '\u{1aeb}'), ('\u{1df6}', '\u{1dfa}'), ('\u{a7f1}', '\u{a7f4}'),
    ('\u{a82c}', '\u{a82c}'), ('\u{10783}', '\u{10783}'), ('\u{107a2}', '\u{107a2}'),
    ('\u{107a5}', '\u{107a5}'), ('\u{10d24}', '\u{10d27}'), ('\u{10d69}', '\u{10d6d}'),
    ('\u{10eab}', '\u{10eac}'), ('\u{10efa}', '\u{10efb}'), ('\u{10efd}', '\u{10eff}'),
    ('\u{10f46}', '\u{10f50}'), ('\u{10f82}', '\u{10f85}'), ('\u{11070}', '\u{11070}'),
    ('\u{1133b}', '\u{1133b}'), ('\u{113ce}', '\u{113d0}'), ('\u{1145e}', '\u{1145e}'),
    ('\u{11839}', '\u{1183a}'), ('\u{1193d}', '\u{1193e}'), ('\u{11943}', '\u{11943}'),
    ('\u{119e0}', '\u{119e0}'), ('\u{11a34}', '\u{11a34}'), ('\u{11a47}', '\u{11a47}'),
    ('\u{11a99}', '\u{11a99}'), ('\u{11d42}', '\u{11d42}'), ('\u{11d44}', '\u{11d45}'),
    ('\u{11d97}', '\u{11d97}'), ('\u{11f41}', '\u{11f42}'), ('\u{1612f}', '\u{1612f}'),
    ('\u{16ff0}', '\u{16ff1}'), ('\u{1ccd6}', '\u{1ccf9}'), ('\u{1e033}', '\u{1e033}'),
    ('\u{1e039}', '\u{1e039}'), ('\u{1e054}', '\u{1e054}'), ('\u{1e05a}', '\u{1e05a}'),
    ('\u{1e08f}', '\u{1e08f}'), ('\u{1e130}', '\u{1e136}'), ('\u{1e2ae}', '\u{1e2ae}'),
    ('\u{1e2ec}', '\u{1e2ef}'), ('\u{1e4ec}', '\u{1e4ef}'), ('\u{1e5ee}', '\u{1e5ef}'),
    ('\u{1e6e3}', '\u{1e6e3}'), ('\u{1e6e6}', '\u{1e6e6}'), ('\u{1e6ee}', '\u{1e6ef}'),
    ('\u{1e6f5}', '\u{1e6f5}'), ('\u{1f16c}', '\u{1f16c}'), ('\u{1fbf0}', '\u{1fbf9}'),
];

/// First UTF-8 byte of the smallest character in the tables.
const FIRST_BYTE: u8 = 0xd8;

/// The tables that a tokenizer's components use, and so the replacements that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnicodeCompat {
    punctuation: bool,
    compatibility: bool,
}

/// The components of a `tokenizer.json` that run before its model.
#[derive(Deserialize)]
struct Components {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
}

impl UnicodeCompat {
    /// Reads from a `tokenizer.json` which tables its components use.
    ///
    /// # Errors
    /// `json` is not a JSON object.
    pub(super) fn for_tokenizer(json: &str) -> serde_json::Result<Self> {
        let Components { normalizer, pre_tokenizer } = serde_json::from_str(json)?;
        let has = |part: &Option<Value>, kinds| part.as_ref().is_some_and(|part| has_type(part, kinds));
        Ok(Self {
            punctuation: has(&pre_tokenizer, &["BertPreTokenizer"]),
            compatibility: has(&normalizer, &["NFKC", "NFKD"]),
        })
    }

    /// Replaces the characters on which the two versions differ. Nearly all texts have none and are returned as they
    /// are, after a scan of their bytes.
    pub(super) fn replace(self, text: &str) -> Cow<'_, str> {
        if !(self.punctuation || self.compatibility)
            || !text.bytes().any(|byte| byte >= FIRST_BYTE)
            || !text.chars().any(|c| self.differs(c))
        {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.chars().map(|c| if self.differs(c) { placeholder(c) } else { c }).collect())
    }

    fn differs(self, c: char) -> bool {
        self.punctuation && contains(&PUNCTUATION, c) || self.compatibility && contains(&COMPATIBILITY, c)
    }
}

/// Returns true if a component, or one of its parts, has one of these types.
fn has_type(component: &Value, types: &[&str]) -> bool {
    match component {
        Value::Object(fields) => {
            let kind = fields.get("type").and_then(Value::as_str);
            kind.is_some_and(|kind| types.contains(&kind))
                || fields.values().any(|part| has_type(part, types))
        }
        Value::Array(parts) => parts.iter().any(|part| has_type(part, types)),
        _ => false,
    }
}

fn contains(ranges: &[(char, char)], c: char) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= c);
    after > 0 && c <= ranges[after - 1].1
}

fn placeholder(c: char) -> char {
    if FORMER_PUNCTUATION.contains(&c) { PUNCTUATION_PLACEHOLDER } else { PLACEHOLDER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn compat(json: &str) -> UnicodeCompat {
        UnicodeCompat::for_tokenizer(json).unwrap()
    }

    const BERT: &str = r#""pre_tokenizer": {"type": "BertPreTokenizer"}"#;
    const NFKC: &str =
        r#""normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}"#;

    #[test]
    fn only_listed_characters_are_replaced() {
        let bert = compat(&format!("{{{BERT}}}"));
        assert_eq!(bert.replace("a\u{61d}b \u{2e44} \u{7fd}"), "a\u{a000}b \u{a000} \u{7fd}");
        assert!(matches!(bert.replace("plain, العربية \u{61c}\u{61e} 🚀 \u{fffd}"), Cow::Borrowed(_)));
        let nfkc = compat(&format!("{{{NFKC}}}"));
        assert_eq!(nfkc.replace("\u{7fd}\u{61d}"), "\u{a000}\u{61d}");
        let both = compat(&format!("{{{NFKC}, {BERT}}}"));
        assert_eq!(both.replace("\u{7fd}\u{61d}"), "\u{a000}\u{a000}");
        for table in [&PUNCTUATION[..], &COMPATIBILITY] {
            assert!(table.windows(2).all(|pair| pair[0].1 < pair[1].0), "ranges must be ascending");
        }
    }

    #[test]
    fn a_token_named_like_a_component_is_not_a_component() {
        let json = r#"{"normalizer": null, "pre_tokenizer": {"type": "ByteLevel"}, "model":
            {"type": "BPE", "vocab": {"NFKC": 1, "BertPreTokenizer": 2}}}"#;
        assert_eq!(compat(json).replace("\u{61d}\u{7fd}"), "\u{61d}\u{7fd}");
    }
}
