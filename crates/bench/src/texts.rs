//! The benchmark's texts: generated, so that every run and every competitor reads the same texts, and none is repeated.
//!
//! Each word of the list is one token of the model's vocabulary, so a text's tokens are known without a tokenizer,
//! whatever a server counts. A seeded generator draws the numbers of words; the first three words encode the text's
//! index, which makes all texts of one run different.

use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};

static WORDS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| include_str!("words.txt").split_whitespace().collect());

/// `[CLS]` and `[SEP]`, which the model puts around each text.
const SPECIAL: usize = 2;
/// Bits of a word's position in the list; three words encode an index.
const WORD_BITS: u32 = 9;
/// Bits of an index within its series.
const INDEX_BITS: u32 = 22;

/// Distribution of the texts' lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// 12 to 16 tokens, 14 on average: a sentence.
    Short,
    /// Log-normal (median 37 tokens, mean about 51), cut to 6 to 250 tokens: what a chat or a search index sends.
    Mixed,
    /// 256 tokens: the model's maximum.
    Long,
    /// Exactly this many tokens; at least 5.
    Exactly(usize),
}

/// A text and its number of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The words.
    pub text: String,
    /// Tokens, special tokens included.
    pub tokens: usize,
}

/// The text `index` of `series` (below 32). Texts of different series or indices (below 2²²) differ.
pub fn text(kind: TextKind, series: u32, index: u32) -> Text {
    let id = ((series % 32) << INDEX_BITS) | (index % (1 << INDEX_BITS));
    let mut random = SplitMix(u64::from(id));
    let tokens = match kind {
        TextKind::Short => 12 + (random.next() % 5) as usize,
        TextKind::Mixed => (3.61 + 0.8 * random.normal()).exp().clamp(6.0, 250.0) as usize,
        TextKind::Long => 256,
        TextKind::Exactly(tokens) => tokens,
    };
    let words = &*WORDS;
    let bits = WORD_BITS * 3;
    // An odd factor permutes the indices, so that consecutive texts start with different words.
    let spelled = id.wrapping_mul(0x9e37_79b1) & ((1 << bits) - 1);
    let mut text = String::with_capacity(tokens * 7);
    for place in 0..tokens.saturating_sub(SPECIAL) {
        let word = match place {
            0..3 => (spelled >> (WORD_BITS * place as u32)) as usize % words.len(),
            _ => random.next() as usize % words.len(),
        };
        if place > 0 {
            text.push(' ');
        }
        text.push_str(words[word]);
    }
    Text { text, tokens }
}

/// Checks that each word is one token of `tokenizer` (`tokenizer.json`); otherwise the counts would be wrong.
pub(crate) fn check(tokenizer: &[u8]) -> Result<()> {
    let tokenizer: serde_json::Value = serde_json::from_slice(tokenizer).context("no JSON")?;
    let known = tokenizer["model"]["vocab"].as_object().context("no vocabulary")?;
    let unknown: Vec<&str> = WORDS.iter().filter(|word| !known.contains_key(**word)).copied().collect();
    ensure!(unknown.is_empty(), "the model's vocabulary lacks words of the benchmark: {unknown:?}");
    Ok(())
}

/// Steele, Lea and Flood's generator (2014): one addition and a finalizer, the same everywhere.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0, variance 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::stats::median;

    #[test]
    fn the_list_has_512_different_words() {
        assert_eq!(WORDS.len(), 1 << WORD_BITS);
        assert_eq!(WORDS.iter().collect::<HashSet<_>>().len(), WORDS.len());
        assert!(WORDS.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
        let check = |words: &[&str]| {
            let vocab: HashMap<_, _> = words.iter().zip(0..).collect();
            check(serde_json::json!({"model": {"vocab": vocab}}).to_string().as_bytes())
        };
        check(&WORDS).unwrap();
        assert!(check(&WORDS[1..]).unwrap_err().to_string().contains(WORDS[0]));
    }

    #[test]
    fn texts_differ_even_if_only_the_index_differs() {
        // Five tokens are the three words of the index alone: the hardest case.
        let mut seen = HashSet::new();
        for series in [0, 1, 31] {
            for index in (0..20_000).chain((1 << INDEX_BITS) - 20_000..1 << INDEX_BITS) {
                assert!(seen.insert(text(TextKind::Exactly(5), series, index).text), "{series}/{index}");
            }
        }
    }

    #[test]
    fn texts_are_the_same_every_time() {
        assert_eq!(text(TextKind::Mixed, 3, 77), text(TextKind::Mixed, 3, 77));
    }

    #[test]
    fn tokens_are_words_and_two_more() {
        for kind in [TextKind::Short, TextKind::Mixed, TextKind::Long, TextKind::Exactly(32)] {
            for index in 0..200 {
                let Text { text, tokens } = text(kind, 1, index);
                assert_eq!(text.split(' ').count() + SPECIAL, tokens, "{kind:?} {index}");
            }
        }
    }

    #[test]
    fn lengths_have_the_documented_distributions() {
        let lengths = |kind| (0..20_000).map(|n| text(kind, 0, n).tokens as f64).collect::<Vec<_>>();
        let mean = |lengths: &[f64]| lengths.iter().sum::<f64>() / lengths.len() as f64;
        let short = lengths(TextKind::Short);
        assert!((mean(&short) - 14.0).abs() < 0.1, "{}", mean(&short));
        assert!(short.iter().all(|length| (12.0..=16.0).contains(length)));
        let mixed = lengths(TextKind::Mixed);
        assert!((median(&mixed) - 37.0).abs() <= 1.0, "{}", median(&mixed));
        assert!((48.0..54.0).contains(&mean(&mixed)), "{}", mean(&mixed));
        assert!(mixed.iter().all(|length| (6.0..=250.0).contains(length)));
        assert!(mixed.iter().any(|&length| length < 8.0) && mixed.iter().any(|&length| length > 200.0));
        assert!(lengths(TextKind::Long).iter().all(|&length| length == 256.0));
    }
}
