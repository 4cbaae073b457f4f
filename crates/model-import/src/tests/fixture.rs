//! A model folder that a test may modify, and the check that a failed import leaves it unchanged.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Graph, ImportError, ModelFolder};

/// Tiny models of all families, and of all layouts of their weights and settings.
pub(super) const FAMILIES: [&str; 18] = [
    "bert-mean",
    "bert-cls",
    "roberta-mean",
    "xlm-roberta-mean",
    "distilbert-cls",
    "distilbert-dense",
    "albert-mean",
    "camembert-mean",
    "deberta-v2-mean",
    "electra-mean",
    "gemma3-mean",
    "gte-cls",
    "gte-new-cls",
    "modernbert-long",
    "mpnet-mean",
    "nomic-mean-hub",
    "qwen3-last",
    "t5-encoder-mean",
];

/// A copy of a tiny model.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn tiny(name: &str) -> Self {
        let folder = Self::empty();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny-models").join(name), folder.path());
        folder
    }

    /// The same weights and tokenizer in the layout of sentence-transformers 6.2.
    pub(super) fn saved_by_6_2(name: &str) -> Self {
        let folder = Self::tiny(name);
        for file in ["modules.json", "sentence_bert_config.json"] {
            folder.remove(file);
        }
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/saved-by-6.2").join(name), folder.path());
        folder
    }

    pub(super) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    /// Sets one key of a JSON file; null removes it.
    pub(super) fn set(&self, name: &str, key: &str, value: impl Into<Value>) {
        let mut json: Value = serde_json::from_slice(&self.bytes(name)).unwrap();
        match value.into() {
            Value::Null => json.as_object_mut().unwrap().remove(key),
            value => json.as_object_mut().unwrap().insert(key.to_owned(), value),
        };
        self.write(name, json.to_string());
    }

    pub(super) fn open(&self) -> Result<ModelFolder, ImportError> {
        ModelFolder::open(self.path())
    }

    pub(super) fn import(&self) -> Result<Graph, ImportError> {
        crate::import(&self.open()?, &mut |_| {})
    }

    /// Asserts that the import fails without changing the folder, and that the message with all its sources holds every
    /// part. The folder's path is removed from the message first.
    #[track_caller]
    pub(super) fn assert_import_error(&self, parts: &[&str]) {
        let before = self.content();
        let error = self.import().expect_err("the import succeeded");
        assert!(before == self.content(), "the failed import changed the folder");
        assert_contains(&message(&error).replace(&format!("{}/", self.path().display()), ""), parts);
    }

    /// Returns every file with its content.
    pub(super) fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(self.path(), &mut files);
        files
    }
}

/// Returns a message with all its sources.
pub(super) fn message(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        message += &format!(": {error}");
        source = error.source();
    }
    message
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
            files.insert(path, vec![]);
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Asserts that a message holds every part.
#[track_caller]
pub(super) fn assert_contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{message}` does not contain `{part}`");
    }
}
