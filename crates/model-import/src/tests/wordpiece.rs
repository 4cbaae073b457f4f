//! Tests of tokenizers made from `vocab.txt`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fixture::{Folder, assert_contains};
use crate::wordpiece::VOCABULARY;

const CONFIG: &str = "tokenizer_config.json";

/// Replaces `tokenizer.json` by its vocabulary. Returns the former content.
fn keep_vocabulary(folder: &Folder) -> Value {
    let tokenizer: Value = serde_json::from_slice(&folder.bytes("tokenizer.json")).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap().iter();
    let tokens: BTreeMap<u64, &str> =
        vocabulary.map(|(token, id)| (id.as_u64().unwrap(), token.as_str())).collect();
    let lines: String = tokens.values().map(|token| format!("{token}\n")).collect();
    folder.write(VOCABULARY, lines);
    folder.remove("tokenizer.json");
    tokenizer
}

/// A tiny BERT with `vocab.txt` alone.
fn bert() -> Folder {
    let folder = Folder::tiny("bert-mean");
    keep_vocabulary(&folder);
    folder
}

fn special_token(id: &str, segment: u8) -> Value {
    json!({"SpecialToken": {"id": id, "type_id": segment}})
}

fn sequence(id: &str, segment: u8) -> Value {
    json!({"Sequence": {"id": id, "type_id": segment}})
}

/// The template of pairs as BERT's tokenizer has it. The tokenizers of the models here, which embed, have another.
fn with_pairs(mut tokenizer: Value) -> Value {
    tokenizer["post_processor"]["pair"] = json!([
        special_token("[CLS]", 0),
        sequence("A", 0),
        special_token("[SEP]", 0),
        sequence("B", 1),
        special_token("[SEP]", 1)
    ]);
    tokenizer
}

#[track_caller]
fn made(folder: &Folder) -> Value {
    let opened = folder.open().unwrap();
    assert_eq!(opened.tokenizer(), folder.file(VOCABULARY));
    serde_json::from_slice(&opened.tokenizer_json().unwrap()).unwrap()
}

fn added(tokenizer: &Value) -> Vec<(u64, &str)> {
    let tokens = tokenizer["added_tokens"].as_array().unwrap().iter();
    tokens.map(|token| (token["id"].as_u64().unwrap(), token["content"].as_str().unwrap())).collect()
}

#[test]
fn the_made_tokenizer_equals_the_tokenizer_of_the_same_vocabulary() {
    for model in ["bert-mean", "bert-cls", "distilbert-cls", "distilbert-dense"] {
        let folder = Folder::tiny(model);
        let tokenizer = with_pairs(keep_vocabulary(&folder));
        assert_eq!(made(&folder), tokenizer, "{model}");
        // A folder of an early release has no configuration of the tokenizer.
        folder.remove(CONFIG);
        assert_eq!(made(&folder), tokenizer, "{model} without {CONFIG}");
        let classes = ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast"];
        for class in classes {
            folder.write(CONFIG, json!({"tokenizer_class": class, "model_max_length": 64}).to_string());
            assert_eq!(made(&folder), tokenizer, "{model} with {class}");
        }
    }
}

#[test]
fn the_options_of_the_tokenizer_are_applied() {
    for (option, key, value) in [
        ("do_lower_case", "lowercase", false),
        ("strip_accents", "strip_accents", false),
        ("strip_accents", "strip_accents", true),
        ("tokenize_chinese_chars", "handle_chinese_chars", false),
    ] {
        let folder = bert();
        let mut expected = made(&folder);
        expected["normalizer"][key] = value.into();
        folder.set(CONFIG, option, value);
        assert_eq!(made(&folder), expected, "{option}");
    }
    let folder = bert();
    folder.set("sentence_bert_config.json", "do_lower_case", true);
    folder.open().unwrap();
    folder.set(CONFIG, "do_lower_case", false);
    folder.assert_import_error(&["sentence_bert_config.json", "do_lower_case = true"]);
}

#[test]
fn special_tokens_are_named_by_the_folder_or_by_the_class() {
    let folder = Folder::tiny("bert-mean");
    let tokenizer = with_pairs(keep_vocabulary(&folder));
    let vocabulary = String::from_utf8(folder.bytes(VOCABULARY)).unwrap();
    let names = [("[PAD]", "<pad>"), ("[CLS]", "<s>"), ("[SEP]", "</s>"), ("[MASK]", "<mask>")];
    let replaced = names.iter().fold(vocabulary, |text, (from, to)| text.replacen(from, to, 1));
    folder.write(VOCABULARY, &replaced);
    folder.assert_import_error(&[VOCABULARY, "cls_token `[CLS]`", "another model"]);

    let expected = names.iter().fold(tokenizer.to_string(), |text, (from, to)| text.replace(from, to));
    let mut expected: Value = serde_json::from_str(&expected).unwrap();
    let config = folder.bytes(CONFIG);
    for (key, (_, name)) in ["pad_token", "cls_token", "sep_token", "mask_token"].into_iter().zip(names) {
        folder.set(CONFIG, key, name);
    }
    folder.set(CONFIG, "added_tokens_decoder", Value::Null);
    assert_eq!(made(&folder), expected);

    folder.write(CONFIG, config);
    folder.set(CONFIG, "added_tokens_decoder", Value::Null);
    let stated =
        json!({"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"});
    folder.write("special_tokens_map.json", stated.to_string());
    assert_eq!(made(&folder), expected);

    folder.remove("special_tokens_map.json");
    folder.write(CONFIG, json!({"tokenizer_class": "MPNetTokenizer", "model_max_length": 64}).to_string());
    expected["added_tokens"][4]["lstrip"] = true.into();
    expected["post_processor"]["pair"] = json!([
        special_token("<s>", 0),
        sequence("A", 0),
        special_token("</s>", 0),
        special_token("</s>", 0),
        sequence("B", 0),
        special_token("</s>", 0)
    ]);
    assert_eq!(made(&folder), expected);
}

#[test]
fn added_tokens_have_the_ids_that_the_folder_states() {
    let folder = bert();
    folder.remove(CONFIG);
    folder.write("added_tokens.json", r#"{"[Q]": 601, "<d>": 600}"#);
    folder.write("special_tokens_map.json", r#"{"additional_special_tokens": ["[Q]", {"content": "[E]"}]}"#);
    let tokenizer = made(&folder);
    let special = [(0, "[PAD]"), (1, "[UNK]"), (2, "[CLS]"), (3, "[SEP]"), (4, "[MASK]")];
    assert_eq!(added(&tokenizer), [&special[..], &[(600, "<d>"), (601, "[Q]"), (602, "[E]")]].concat());
    let flags = |key: &str| {
        let tokens = tokenizer["added_tokens"].as_array().unwrap()[5..].iter();
        tokens.map(|token| token[key].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((flags("special"), flags("normalized")), (vec![false, true, true], vec![true, false, false]));
    folder.write("added_tokens.json", r#"{"[Q]": 602}"#);
    folder.assert_import_error(&[
        "added_tokens.json",
        "the id 602 of the added token `[Q]`",
        "gives it 600",
        "save_pretrained",
    ]);

    let folder = bert();
    let mut tokens: Value = serde_json::from_slice(&folder.bytes(CONFIG)).unwrap();
    let mut tokens = tokens["added_tokens_decoder"].take();
    tokens["600"] = json!({"content": "[E]", "single_word": true, "special": true});
    folder.set(CONFIG, "added_tokens_decoder", tokens);
    folder.set(CONFIG, "extra_special_tokens", json!({}));
    folder.set(CONFIG, "additional_special_tokens", json!(["[E]"]));
    let tokenizer = made(&folder);
    assert_eq!(added(&tokenizer)[5..], [(600, "[E]")]);
    assert_eq!(tokenizer["added_tokens"][5]["single_word"], true);
}

#[test]
fn lines_are_numbered_as_python_reads_them() {
    let folder = bert();
    let ids = |text: &str| {
        folder.write(VOCABULARY, text);
        let Value::Object(ids) = made(&folder)["model"]["vocab"].take() else { panic!("no vocabulary") };
        ids.into_iter().map(|(token, id)| (token, id.as_u64().unwrap())).collect::<BTreeMap<_, _>>()
    };
    folder.remove(CONFIG);
    let expected = ids("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\n##a\u{2028}b\n c \n");
    assert_eq!((expected[""], expected["##a\u{2028}b"], expected[" c "], expected.len()), (5, 6, 7, 8));
    assert_eq!(ids("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r[MASK]\r\n\r\n##a\u{2028}b\r\n c "), expected);
    let repeated = ids("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na");
    assert_eq!((repeated["a"], repeated["b"]), (7, 6));
}

#[test]
fn a_tokenizer_that_cannot_be_made_exactly_is_an_error_with_the_remedy() {
    const REMEDY: &str = "save the tokenizer again with transformers";
    for (file, key, value) in [
        (CONFIG, "tokenizer_class", "BertJapaneseTokenizer"),
        (CONFIG, "tokenizer_class", "RoFormerTokenizer"),
        (CONFIG, "word_tokenizer_type", "mecab"),
        (CONFIG, "subword_tokenizer_type", "character"),
        ("config.json", "tokenizer_class", "BertJapaneseTokenizer"),
    ] {
        let folder = bert();
        folder.set(CONFIG, "tokenizer_class", Value::Null);
        folder.set(file, key, value);
        folder.assert_import_error(&[CONFIG, key, value, "without `tokenizer.json`", REMEDY]);
    }
    let folder = bert();
    folder.set(CONFIG, "do_basic_tokenize", false);
    folder.assert_import_error(&[CONFIG, "do_basic_tokenize", REMEDY]);

    // Vocabularies of other kinds.
    let folder = Folder::tiny("roberta-mean");
    folder.remove("tokenizer.json");
    for file in ["vocab.json", "merges.txt", "sentencepiece.bpe.model"] {
        folder.write(file, "");
        folder.assert_import_error(&["`tokenizer.json` is missing", "BERT `vocab.txt`", REMEDY]);
    }
    folder.write(VOCABULARY, "<s>\n<pad>\n</s>\n<unk>\n");
    folder.assert_import_error(&[CONFIG, "model_type `roberta` with vocab.txt", REMEDY]);

    let folder = bert();
    folder.write(VOCABULARY, b"[PAD]\n[UNK]\n\xff");
    folder.assert_import_error(&[VOCABULARY, "byte at 12 that is not UTF-8"]);
    folder.write(VOCABULARY, "version https://git-lfs.github.com/spec/v1\n");
    folder.assert_import_error(&[VOCABULARY, "is a Git LFS pointer"]);
}

#[test]
fn the_fingerprint_covers_the_files_that_the_tokenizer_was_made_from() {
    let folder = bert();
    folder.remove(CONFIG);
    let mut found = vec![folder.import().unwrap().fingerprint];
    folder.write("special_tokens_map.json", "{}");
    found.push(folder.import().unwrap().fingerprint);
    folder.write("added_tokens.json", "{}");
    found.push(folder.import().unwrap().fingerprint);
    let vocabulary = String::from_utf8(folder.bytes(VOCABULARY)).unwrap();
    folder.write(VOCABULARY, vocabulary.replacen("\n##", "\n#", 1));
    found.push(folder.import().unwrap().fingerprint);
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 4);
    // A file that takes the place of `vocab.txt` is used.
    folder.write("tokenizer.json", Folder::tiny("bert-mean").bytes("tokenizer.json"));
    let opened = folder.open().unwrap();
    assert_contains(&opened.tokenizer().display().to_string(), &["tokenizer.json"]);
    assert_eq!(opened.tokenizer_json().unwrap(), folder.bytes("tokenizer.json"));
}
