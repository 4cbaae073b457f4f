//! Positions of tokens in their text: examples, and the positions of the released tokenizer library.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use inference::{TextToken, Tokenizer, TokenizerOptions};
use proptest::prelude::*;

use crate::generated_texts::for_texts;

fn load(name: &str) -> Tokenizer {
    Tokenizer::load(&crate::tiny_model(name).join("tokenizer.json")).unwrap()
}

/// The part of `text` that each token without special ones stands for.
#[track_caller]
fn parts(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let part = |token: TextToken| -> String {
        let range = token.chars.unwrap_or_else(|| panic!("{text:?}: no position of token {}", token.id));
        chars[range].iter().collect()
    };
    tokenizer.encode_with_positions(text, false).unwrap().into_iter().map(part).collect()
}

#[test]
fn special_tokens_have_no_position() {
    let tokenizer = load("bert-mean");
    let tokens = tokenizer.encode_with_positions("the", true).unwrap();
    let names: Vec<_> = tokens.iter().map(|token| tokenizer.token(token.id)).collect();
    assert_eq!((names[0].as_str(), names.last().unwrap().as_str()), ("[CLS]", "[SEP]"));
    let special = |token: &TextToken| (token.is_special, token.chars.clone());
    assert_eq!((special(&tokens[0]), special(tokens.last().unwrap())), ((true, None), (true, None)));
    assert!(tokens[1..tokens.len() - 1].iter().all(|token| !token.is_special && token.chars.is_some()));
    let plain = tokenizer.encode_with_positions("the", false).unwrap();
    assert_eq!(plain, tokens[1..tokens.len() - 1]);
}

#[test]
fn tokens_of_wordpiece_stand_for_the_text_before_normalization() {
    let tokenizer = load("bert-mean");
    for text in ["The CAFÉ, naïve", "İstanbul 東京 A\u{30a}ngström", "tab\there \u{0}end", "👩\u{200d}👩 x"]
    {
        let found = parts(&tokenizer, text);
        let joined: String = found.concat();
        let kept = |c: &char| !c.is_whitespace() && !c.is_control() && *c != '\u{200d}';
        let expected: String = text.chars().filter(kept).collect();
        // An accent that is removed, and a joiner, are in no token or in that of their letter.
        assert!(joined.chars().filter(kept).count() >= expected.chars().count() - 1, "{text:?}: {found:?}");
    }
    assert_eq!(parts(&tokenizer, "É, x"), ["É", ",", "x"]);
}

#[test]
fn tokens_of_one_character_have_the_same_position() {
    let tokenizer = load("modernbert-mean");
    let tokens = tokenizer.encode_with_positions("a🚀b", false).unwrap();
    let ranges: Vec<Range<usize>> = tokens.into_iter().map(|token| token.chars.unwrap()).collect();
    assert!(ranges.iter().filter(|range| **range == (1..2)).count() > 1, "{ranges:?}");
    assert_eq!((ranges.first(), ranges.last()), (Some(&(0..1)), Some(&(2..3))));
}

#[test]
fn stripped_white_space_shifts_positions() {
    let path = crate::tiny_model("bert-mean").join("tokenizer.json");
    let options = TokenizerOptions { strip_whitespace: true, ..TokenizerOptions::default() };
    let tokenizer = Tokenizer::load_with(&path, options).unwrap();
    let tokens = tokenizer.encode_with_positions("\u{3000} x \n", false).unwrap();
    assert_eq!(tokens[0].chars, Some(2..3));
    assert!(tokenizer.encode_with_positions(" \n", false).unwrap().is_empty());
}

#[test]
fn an_added_token_in_a_text_has_its_position() {
    let tokenizer = load("bert-mean");
    assert_eq!(parts(&tokenizer, "é[SEP]x[MASK]"), ["é", "[SEP]", "x", "[MASK]"]);
}

/// On every family, generated texts have the ids that the model reads, positions in order and inside the text, and
/// nearly always the positions of the released library. It differs for letters that are composed of several
/// characters, for white space as a token, and for spaces before the first word of byte-level tokenizers.
#[test]
fn positions_of_every_family_equal_the_released_library() {
    for name in ["bert-mean", "modernbert-mean", "roberta-mean", "xlm-roberta-mean", "albert-mean"] {
        let path = crate::tiny_model(name).join("tokenizer.json");
        let ours = Tokenizer::load(&path).unwrap();
        let mut released = tokenizers_released::Tokenizer::from_file(&path).unwrap();
        released.with_truncation(None).unwrap();
        released.with_padding(None);
        let (tokens, equal, unknown) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        for_texts(1_000, |text| {
            let chars = text.chars().count();
            let found = ours.encode_with_positions(text, false).unwrap();
            let ids: Vec<_> = found.iter().map(|token| token.id).collect();
            prop_assert_eq!(&ids, &ours.encode(text).unwrap());
            let ranges: Vec<_> = found.iter().filter_map(|token| token.chars.clone()).collect();
            prop_assert!(ranges.iter().all(|range| range.start <= range.end && range.end <= chars));
            prop_assert!(ranges.is_sorted_by_key(|range| range.end), "{:?}", ranges);
            let expected = released.encode_char_offsets(text, false).unwrap();
            tokens.fetch_add(ids.len(), Relaxed);
            unknown.fetch_add(ids.len() - ranges.len(), Relaxed);
            for (token, &(start, stop)) in found.iter().zip(expected.get_offsets()) {
                equal.fetch_add(usize::from(token.chars == Some(start..stop)), Relaxed);
            }
            Ok(())
        });
        let (tokens, equal, unknown) = (tokens.into_inner(), equal.into_inner(), unknown.into_inner());
        assert!(unknown * 1000 <= tokens, "{name}: {unknown} of {tokens} positions are unknown");
        assert!(equal * 100 >= tokens * 90, "{name}: {equal} of {tokens} positions are equal");
    }
}
