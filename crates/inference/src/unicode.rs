//! Keeps token ids as they were when models were trained, where the tokenizer library's Unicode tables are
//! newer than those.
//!
//! The release candidate of the tokenizer library knows punctuation and compatibility characters that Unicode
//! added in recent years; the released library, and so every published vector, does not. Where the old tables
//! see an ordinary unknown character, the new ones split a word or rewrite it. Each such character is replaced
//! by one that is ordinary and unknown under both, which gives the old ids exactly. The tests scan all of
//! Unicode for further differences.

use std::borrow::Cow;

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

/// Characters that only the newer tables decompose; matters where text is normalised by NFKC or NFKD.
const COMPATIBILITY: [(char, char); 5] = [
    ('\u{a7f1}', '\u{a7f4}'),
    ('\u{107a5}', '\u{107a5}'),
    ('\u{1ccd6}', '\u{1ccf9}'),
    ('\u{1f16c}', '\u{1f16c}'),
    ('\u{1fbf0}', '\u{1fbf9}'),
];

/// First byte in UTF-8 of the smallest character in the tables.
const FIRST_BYTE: u8 = 0xd8;

/// The replacement that a tokenizer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OldTables {
    ranges: &'static [(char, char)],
}

impl OldTables {
    /// Reads off a `tokenizer.json` which tables its components consult.
    pub(crate) fn for_tokenizer(json: &str) -> Self {
        let mentions = |component: &str| json.contains(&format!("\"{component}\""));
        let ranges: &'static [(char, char)] = if mentions("BertPreTokenizer") {
            &PUNCTUATION
        } else if mentions("NFKC") || mentions("NFKD") {
            &COMPATIBILITY
        } else {
            &[]
        };
        Self { ranges }
    }

    /// `text` as the old tables would have it; borrowed, and checked bytewise, in all but rare cases.
    pub(crate) fn apply(self, text: &str) -> Cow<'_, str> {
        if self.ranges.is_empty()
            || !text.bytes().any(|byte| byte >= FIRST_BYTE)
            || !text.chars().any(|c| self.has(c))
        {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.chars().map(|c| if self.has(c) { stand_in(c) } else { c }).collect())
    }

    fn has(self, c: char) -> bool {
        let after = self.ranges.partition_point(|&(first, _)| first <= c);
        after > 0 && c <= self.ranges[after - 1].1
    }
}

fn stand_in(c: char) -> char {
    if FORMER_PUNCTUATION.contains(&c) { PUNCTUATION_STAND_IN } else { STAND_IN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listed_are_replaced() {
        let bert = OldTables::for_tokenizer(r#"{"pre_tokenizer": {"type": "BertPreTokenizer"}}"#);
        assert_eq!(bert.apply("a\u{61d}b \u{2e44}"), "a\u{a000}b \u{a000}");
        assert!(matches!(bert.apply("plain, العربية \u{61c}\u{61e} 🚀 \u{fffd}"), Cow::Borrowed(_)));
        let bytes = OldTables::for_tokenizer(r#"{"pre_tokenizer": {"type": "ByteLevel"}}"#);
        assert_eq!(bytes.apply("\u{61d}"), "\u{61d}");
        for table in [&PUNCTUATION[..], &COMPATIBILITY] {
            assert!(table.windows(2).all(|pair| pair[0].1 < pair[1].0), "ranges must ascend");
        }
    }
}
