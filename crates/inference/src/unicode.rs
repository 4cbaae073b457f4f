//! Keeps token ids as they were when models were trained, where the tokenizer library's Unicode tables are
//! newer than those.
//!
//! The release candidate of the tokenizer library knows punctuation and compatibility characters that Unicode
//! added in recent years; the released library, and so every published vector, does not. Where the old tables
//! see an ordinary unknown character, the new ones split a word or rewrite it. Each such character is replaced
//! by one that is ordinary and unknown under both, which gives the old ids exactly. The tests scan all of
//! Unicode for further differences.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

/// A character that stands for any other that the vocabulary does not hold: a Yi syllable is a plain letter,
/// has no case and no decomposition, and is no CJK ideograph.
const STAND_IN: char = '\u{a000}';

/// Characters of the first table that went the other way: punctuation once, a symbol and a mark now.
const FORMER_PUNCTUATION: [char; 2] = ['\u{166d}', '\u{111c9}'];

/// Stands for those: punctuation under both, and as unknown.
const PUNCTUATION_STAND_IN: char = '\u{166e}';

/// Punctuation that only one of the tables knows; matters where text is split at punctuation.
const PUNCTUATION: [(char, char); 42] = [
    ('\u{61d}', '\u{61d}'),
    ('\u{9fd}', '\u{9fd}'),
    ('\u{a76}', '\u{a76}'),
    ('\u{c77}', '\u{c77}'),
    ('\u{c84}', '\u{c84}'),
    ('\u{166d}', '\u{166d}'),
    ('\u{1b4e}', '\u{1b4f}'),
    ('\u{1b7d}', '\u{1b7f}'),
    ('\u{2e43}', '\u{2e4f}'),
    ('\u{2e52}', '\u{2e5d}'),
    ('\u{10d6e}', '\u{10d6e}'),
    ('\u{10ead}', '\u{10ead}'),
    ('\u{10ed0}', '\u{10ed0}'),
    ('\u{10f55}', '\u{10f59}'),
    ('\u{10f86}', '\u{10f89}'),
    ('\u{111c9}', '\u{111c9}'),
    ('\u{113d4}', '\u{113d5}'),
    ('\u{113d7}', '\u{113d8}'),
    ('\u{1144b}', '\u{1144f}'),
    ('\u{1145a}', '\u{1145b}'),
    ('\u{1145d}', '\u{1145d}'),
    ('\u{11660}', '\u{1166c}'),
    ('\u{116b9}', '\u{116b9}'),
    ('\u{1183b}', '\u{1183b}'),
    ('\u{11944}', '\u{11946}'),
    ('\u{119e2}', '\u{119e2}'),
    ('\u{11a3f}', '\u{11a46}'),
    ('\u{11a9a}', '\u{11a9c}'),
    ('\u{11a9e}', '\u{11aa2}'),
    ('\u{11b00}', '\u{11b09}'),
    ('\u{11be1}', '\u{11be1}'),
    ('\u{11c41}', '\u{11c45}'),
    ('\u{11c70}', '\u{11c71}'),
    ('\u{11ef7}', '\u{11ef8}'),
    ('\u{11f43}', '\u{11f4f}'),
    ('\u{11fff}', '\u{11fff}'),
    ('\u{12ff1}', '\u{12ff2}'),
    ('\u{16d6d}', '\u{16d6f}'),
    ('\u{16e97}', '\u{16e9a}'),
    ('\u{16fe2}', '\u{16fe2}'),
    ('\u{1e5ff}', '\u{1e5ff}'),
    ('\u{1e95e}', '\u{1e95f}'),
];

/// Characters that only the newer tables decompose, and combining marks that only they put in canonical order;
/// matters where text is normalised by NFKC or NFKD.
const COMPATIBILITY: [(char, char); 57] = [
    ('\u{7fd}', '\u{7fd}'),
    ('\u{897}', '\u{89f}'),
    ('\u{8ca}', '\u{8d3}'),
    ('\u{9fe}', '\u{9fe}'),
    ('\u{c3c}', '\u{c3c}'),
    ('\u{d3b}', '\u{d3c}'),
    ('\u{eba}', '\u{eba}'),
    ('\u{1715}', '\u{1715}'),
    ('\u{1abf}', '\u{1add}'),
    ('\u{1ae0}', '\u{1aeb}'),
    ('\u{1df6}', '\u{1dfa}'),
    ('\u{a7f1}', '\u{a7f4}'),
    ('\u{a82c}', '\u{a82c}'),
    ('\u{10783}', '\u{10783}'),
    ('\u{107a2}', '\u{107a2}'),
    ('\u{107a5}', '\u{107a5}'),
    ('\u{10d24}', '\u{10d27}'),
    ('\u{10d69}', '\u{10d6d}'),
    ('\u{10eab}', '\u{10eac}'),
    ('\u{10efa}', '\u{10efb}'),
    ('\u{10efd}', '\u{10eff}'),
    ('\u{10f46}', '\u{10f50}'),
    ('\u{10f82}', '\u{10f85}'),
    ('\u{11070}', '\u{11070}'),
    ('\u{1133b}', '\u{1133b}'),
    ('\u{113ce}', '\u{113d0}'),
    ('\u{1145e}', '\u{1145e}'),
    ('\u{11839}', '\u{1183a}'),
    ('\u{1193d}', '\u{1193e}'),
    ('\u{11943}', '\u{11943}'),
    ('\u{119e0}', '\u{119e0}'),
    ('\u{11a34}', '\u{11a34}'),
    ('\u{11a47}', '\u{11a47}'),
    ('\u{11a99}', '\u{11a99}'),
    ('\u{11d42}', '\u{11d42}'),
    ('\u{11d44}', '\u{11d45}'),
    ('\u{11d97}', '\u{11d97}'),
    ('\u{11f41}', '\u{11f42}'),
    ('\u{1612f}', '\u{1612f}'),
    ('\u{16ff0}', '\u{16ff1}'),
    ('\u{1ccd6}', '\u{1ccf9}'),
    ('\u{1e033}', '\u{1e033}'),
    ('\u{1e039}', '\u{1e039}'),
    ('\u{1e054}', '\u{1e054}'),
    ('\u{1e05a}', '\u{1e05a}'),
    ('\u{1e08f}', '\u{1e08f}'),
    ('\u{1e130}', '\u{1e136}'),
    ('\u{1e2ae}', '\u{1e2ae}'),
    ('\u{1e2ec}', '\u{1e2ef}'),
    ('\u{1e4ec}', '\u{1e4ef}'),
    ('\u{1e5ee}', '\u{1e5ef}'),
    ('\u{1e6e3}', '\u{1e6e3}'),
    ('\u{1e6e6}', '\u{1e6e6}'),
    ('\u{1e6ee}', '\u{1e6ef}'),
    ('\u{1e6f5}', '\u{1e6f5}'),
    ('\u{1f16c}', '\u{1f16c}'),
    ('\u{1fbf0}', '\u{1fbf9}'),
];

/// First byte in UTF-8 of the smallest character in the tables.
const FIRST_BYTE: u8 = 0xd8;

/// The replacement that a tokenizer needs: the tables that its components consult.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OldTables {
    punctuation: bool,
    compatibility: bool,
}

/// The components of a `tokenizer.json` that come before its model.
#[derive(Deserialize)]
struct Components {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
}

impl OldTables {
    /// Reads off a `tokenizer.json` which tables its components consult.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub(crate) fn for_tokenizer(json: &str) -> serde_json::Result<Self> {
        let Components { normalizer, pre_tokenizer } = serde_json::from_str(json)?;
        let has = |part: &Option<Value>, kinds| part.as_ref().is_some_and(|part| has_type(part, kinds));
        Ok(Self {
            punctuation: has(&pre_tokenizer, &["BertPreTokenizer"]),
            compatibility: has(&normalizer, &["NFKC", "NFKD"]),
        })
    }

    /// `text` as the old tables would have it; borrowed, and checked bytewise, in all but rare cases.
    pub(crate) fn apply(self, text: &str) -> Cow<'_, str> {
        if !(self.punctuation || self.compatibility)
            || !text.bytes().any(|byte| byte >= FIRST_BYTE)
            || !text.chars().any(|c| self.has(c))
        {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.chars().map(|c| if self.has(c) { stand_in(c) } else { c }).collect())
    }

    fn has(self, c: char) -> bool {
        self.punctuation && holds(&PUNCTUATION, c) || self.compatibility && holds(&COMPATIBILITY, c)
    }
}

/// Whether a component, or one that it is made of, has one of these types.
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

fn holds(ranges: &[(char, char)], c: char) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= c);
    after > 0 && c <= ranges[after - 1].1
}

fn stand_in(c: char) -> char {
    if FORMER_PUNCTUATION.contains(&c) { PUNCTUATION_STAND_IN } else { STAND_IN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn tables(json: &str) -> OldTables {
        OldTables::for_tokenizer(json).unwrap()
    }

    const BERT: &str = r#""pre_tokenizer": {"type": "BertPreTokenizer"}"#;
    const NFKC: &str =
        r#""normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}"#;

    #[test]
    fn only_the_listed_are_replaced() {
        let bert = tables(&format!("{{{BERT}}}"));
        assert_eq!(bert.apply("a\u{61d}b \u{2e44} \u{7fd}"), "a\u{a000}b \u{a000} \u{7fd}");
        assert!(matches!(bert.apply("plain, العربية \u{61c}\u{61e} 🚀 \u{fffd}"), Cow::Borrowed(_)));
        let nfkc = tables(&format!("{{{NFKC}}}"));
        assert_eq!(nfkc.apply("\u{7fd}\u{61d}"), "\u{a000}\u{61d}");
        let both = tables(&format!("{{{NFKC}, {BERT}}}"));
        assert_eq!(both.apply("\u{7fd}\u{61d}"), "\u{a000}\u{a000}");
        for table in [&PUNCTUATION[..], &COMPATIBILITY] {
            assert!(table.windows(2).all(|pair| pair[0].1 < pair[1].0), "ranges must ascend");
        }
    }

    #[test]
    fn a_word_of_the_vocabulary_is_no_component() {
        let json = r#"{"normalizer": null, "pre_tokenizer": {"type": "ByteLevel"}, "model":
            {"type": "BPE", "vocab": {"NFKC": 1, "BertPreTokenizer": 2}}}"#;
        assert_eq!(tables(json).apply("\u{61d}\u{7fd}"), "\u{61d}\u{7fd}");
    }
}
