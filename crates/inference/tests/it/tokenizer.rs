//! The release candidate of the tokenizer library gives the ids of the released library and of the reference data.
//! This is the condition for using it (docs/adr/0003).

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use inference::{StartError, Tokenizer, TokenizerOptions};
use proptest::prelude::*;

use crate::generated_texts::for_texts;

const FAMILIES: [&str; 10] = [
    "albert-mean",
    "bert-cls",
    "bert-mean",
    "distilbert-dense",
    "modernbert-mean",
    "mpnet-mean",
    "qwen3-last",
    "roberta-mean",
    "xlm-roberta-mean",
    "distilbert-cls",
];

/// More models, whose tokenizers are of the same kinds.
const MORE: [&str; 11] = [
    "bert-instructor-mean",
    "camembert-mean",
    "deberta-v2-mean",
    "electra-mean",
    "gemma3-mean",
    "gte-cls",
    "modernbert-long",
    "nomic-mean",
    "qwen3-prompts-last",
    "t5-encoder-mean",
    "xlm-roberta-bin",
];

struct Pair {
    ours: Tokenizer,
    released: tokenizers_released::Tokenizer,
}

impl Pair {
    fn load(path: &std::path::Path) -> Self {
        let mut released = tokenizers_released::Tokenizer::from_file(path).unwrap();
        released.with_truncation(None).unwrap();
        released.with_padding(None);
        Self { ours: Tokenizer::load(path).unwrap(), released }
    }

    /// Ids with special tokens from our tokenizer and from the released library.
    fn encode(&self, text: &str) -> (Vec<u32>, Vec<u32>) {
        let mut ours = Vec::new();
        self.ours.add_special_tokens(&self.ours.encode(text).unwrap(), &mut ours);
        (ours, self.released.encode(text, true).unwrap().get_ids().to_vec())
    }

    #[track_caller]
    fn check(&self, text: &str) {
        let (ours, released) = self.encode(text);
        assert_eq!(ours, released, "{text:?}");
    }
}

fn references(names: &[&str]) -> Vec<(String, Pair, serde_json::Value)> {
    let load = |name: &&str| {
        let folder = crate::tiny_model(name);
        let reference = std::fs::read(folder.join("reference.json")).unwrap();
        (
            name.to_string(),
            Pair::load(&folder.join("tokenizer.json")),
            serde_json::from_slice(&reference).unwrap(),
        )
    };
    names.iter().map(load).collect()
}

#[test]
fn ids_of_every_family_equal_the_reference() {
    let mut texts_checked = 0;
    for (name, pair, reference) in references(&[&FAMILIES[..], &MORE].concat()) {
        let max_input_tokens = reference["window"].as_u64().unwrap() as usize;
        let texts = reference["texts"].as_array().unwrap();
        for (text, expected) in texts.iter().zip(reference["token_ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            let content = pair.ours.encode(text).unwrap();
            let room = content.len().min(max_input_tokens - pair.ours.num_special_tokens());
            let mut found = Vec::new();
            pair.ours.add_special_tokens(&content[..room], &mut found);
            assert_eq!(found, expected, "{name}: {text:?}");
            texts_checked += 1;
        }
    }
    assert!(texts_checked >= 100);
}

#[test]
fn strip_whitespace_strips_both_ends_of_a_text() {
    let options = TokenizerOptions { strip_whitespace: true, ..TokenizerOptions::default() };
    for (name, pair, _) in references(&FAMILIES) {
        let path = crate::tiny_model(&name).join("tokenizer.json");
        let stripping = Tokenizer::load_with(&path, options).unwrap();
        for text in ["  text\n", "\u{1c}\u{3000} a  b\t", " \n ", "", "text"] {
            let trimmed = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{1c}');
            assert_eq!(stripping.encode(text), pair.ours.encode(trimmed), "{name}: {text:?}");
        }
        // BERT's pre-tokenizer drops white space.
        let drops_white_space = name.starts_with("bert") || name.starts_with("distilbert");
        let differs = pair.ours.encode("  text\n") != pair.ours.encode("text");
        assert_eq!(differs, !drops_white_space, "{name}");
    }
}

/// A modified copy of a tokenizer.
fn changed(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> tempfile::NamedTempFile {
    let path = crate::tiny_model(name).join("tokenizer.json");
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    file
}

fn add_token(tokenizer: &mut serde_json::Value, id: u32, content: &str) {
    tokenizer["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
        "id": id, "content": content, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    }));
}

#[test]
fn only_added_tokens_may_lack_an_embedding() {
    for (name, rows) in [("bert-mean", 600), ("roberta-mean", 700), ("xlm-roberta-mean", 600)] {
        let load = |file: &tempfile::NamedTempFile, rows| {
            let options = TokenizerOptions { embeddings: Some(rows), ..TokenizerOptions::default() };
            Tokenizer::load_with(file.path(), options)
        };
        let plain = changed(name, |_| {});
        assert!(load(&plain, rows).unwrap().without_embedding().is_empty(), "{name}");
        let added = changed(name, |json| add_token(json, rows as u32, "<image_soft_token>"));
        let tokenizer = load(&added, rows).unwrap();
        let expected = [(rows as u32, "<image_soft_token>".to_owned())];
        assert!(tokenizer.without_embedding().clone().into_iter().eq(expected), "{name}");
        assert!(tokenizer.encode("a <image_soft_token>").unwrap().contains(&(rows as u32)), "{name}");
        assert!(!tokenizer.is_valid_id(rows as u32) && tokenizer.is_valid_id(5), "{name}");
        for fewer in [1, rows - 1] {
            let error = load(&plain, fewer).err().unwrap();
            assert!(matches!(error, StartError::Tokenizer { .. }), "{error:?}");
            let expected = format!(
                "ids up to {}, but the model has embeddings for ids up to {} only",
                rows - 1,
                fewer - 1
            );
            assert!(error.to_string().contains(&expected), "{name}: {error}");
        }
    }
    // An added token without an embedding as a special token.
    let special = changed("bert-mean", |json| {
        add_token(json, 600, "[NEW]");
        let template = json["post_processor"].to_string().replace("[CLS]", "[NEW]");
        json["post_processor"] = serde_json::from_str(&template).unwrap();
        json["post_processor"]["special_tokens"]["[NEW]"]["ids"] = serde_json::json!([600]);
    });
    let options = TokenizerOptions { embeddings: Some(600), ..TokenizerOptions::default() };
    let error = Tokenizer::load_with(special.path(), options).err().unwrap().to_string();
    assert!(error.contains("token id 600 to every text"), "{error}");
}

/// Compares both libraries on `count` generated texts for each of `pairs`. Returns a summary.
fn compare(pairs: &[Pair], count: u32) -> String {
    let (texts, tokens) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for pair in pairs {
        for_texts(count, |text| {
            let (ours, released) = pair.encode(text);
            texts.fetch_add(1, Relaxed);
            tokens.fetch_add(ours.len(), Relaxed);
            prop_assert_eq!(ours, released);
            Ok(())
        });
    }
    let (texts, tokens) = (texts.into_inner(), tokens.into_inner());
    assert_eq!(texts, pairs.len() * count as usize);
    format!("{texts} texts, {tokens} tokens, all ids equal to the released library's")
}

#[test]
fn every_family_equals_the_released_library() {
    let pairs: Vec<Pair> = references(&FAMILIES).into_iter().map(|(_, pair, _)| pair).collect();
    println!("ten families: {}", compare(&pairs, 5_000));
}

#[test]
fn the_default_model_equals_the_released_library() {
    let pair = Pair::load(&crate::onnx::real_model().join("tokenizer.json"));
    println!("the default model: {}", compare(&[pair], 100_000));
}

/// A folder with `vocab.txt` instead of `tokenizer.json`, as transformers wrote it before its release 2.9.
#[test]
fn a_tokenizer_made_from_a_vocabulary_gives_the_ids_of_tokenizer_json() {
    let tiny = ["bert-cls", "bert-mean", "distilbert-cls", "distilbert-dense"].map(crate::tiny_model);
    for source in tiny.into_iter().chain([crate::onnx::real_model()]) {
        let pair = Pair::load(&source.join("tokenizer.json"));
        let folder = tempfile::tempdir().unwrap();
        crate::model::copy_folder(&source, folder.path());
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(source.join("tokenizer.json")).unwrap()).unwrap();
        let vocabulary = json["model"]["vocab"].as_object().unwrap();
        let mut lines = vec![""; vocabulary.len()];
        vocabulary.iter().for_each(|(token, id)| lines[id.as_u64().unwrap() as usize] = token);
        std::fs::write(folder.path().join("vocab.txt"), lines.join("\n")).unwrap();
        std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();

        let folder = model_import::ModelFolder::open(folder.path()).unwrap();
        let options = TokenizerOptions { embeddings: folder.vocab_size(), ..TokenizerOptions::default() };
        let made =
            Tokenizer::from_json(&folder.tokenizer_json().unwrap(), folder.tokenizer(), options).unwrap();
        compare(&[Pair { ours: made, released: pair.released }], 5_000);
    }
}

/// Every character of the planes in use, inside a word, alone, and between a letter and marks that compose with it,
/// with the tokenizers that use Unicode's tables. Each text holds several of them, which is faster; ids do not cross
/// a space.
#[test]
fn all_of_unicode_equals_the_released_library() {
    const PLANES: [std::ops::Range<u32>; 2] = [0..0x4_0000, 0xe_0000..0xf_0000];
    let names = ["bert-mean", "xlm-roberta-mean", "qwen3-last"];
    let pairs = names.map(|name| Pair::load(&crate::tiny_model(name).join("tokenizer.json")));
    let characters: Vec<char> = PLANES.into_iter().flatten().filter_map(char::from_u32).collect();
    for (pair, name) in pairs.iter().zip(names) {
        for characters in characters.chunks(16) {
            let text: String =
                characters.iter().map(|c| format!("a{c}b {c} >{c}\u{338} e{c}\u{301} ")).collect();
            let (ours, released) = pair.encode(&text);
            assert_eq!(
                ours,
                released,
                "{name}: among {:x?}",
                characters.iter().map(|&c| c as u32).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn adversarial_texts_are_tokenized() {
    let pair = Pair::load(&crate::tiny_model("bert-mean").join("tokenizer.json"));
    for text in [
        "\u{301}".repeat(5_000),
        "\0".repeat(5_000),
        "\u{200b}".repeat(5_000),
        "x".repeat(300_000),
        "👨‍👩‍👧‍👦".repeat(2_000),
    ] {
        pair.check(&text);
    }
}

#[test]
fn the_error_about_a_missing_file_names_it() {
    let error = Tokenizer::load(std::path::Path::new("nowhere/tokenizer.json")).err().unwrap().to_string();
    assert!(error.contains("nowhere/tokenizer.json"), "{error}");
}
