//! Estimate of the memory that a loaded model takes, from its folder.

use std::fs;

use serde::Deserialize;

use crate::{ImportError, ModelFolder, folder::ModelSource, json};

/// The part of `config.json` that states the number format of the weights, by transformers' old and new name.
#[derive(Deserialize)]
struct DtypeConfig {
    torch_dtype: Option<String>,
    dtype: Option<String>,
}

impl ModelFolder {
    /// Estimates the memory of the loaded model, in bytes: the size of its files, weights with 16 bits counted twice,
    /// because they are computed in fp32.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn estimate_memory(&self) -> Result<usize, ImportError> {
        let mut bytes = self.file_bytes()?;
        if self.has_16_bit_weights()? {
            bytes = bytes.saturating_mul(2);
        }
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Size of the files that the model consists of, in bytes. Nearly all of it are weights.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn file_bytes(&self) -> Result<u64, ImportError> {
        let size = |path| {
            let read = ImportError::read(path, "it is part of the model");
            Ok(fs::metadata(path).map_err(read)?.len())
        };
        self.files.iter().try_fold(0, |sum: u64, path| Ok(sum.saturating_add(size(path)?)))
    }

    fn has_16_bit_weights(&self) -> Result<bool, ImportError> {
        // A graph is run in its own number format.
        let ModelSource::Weights { folder, .. } = &self.source else { return Ok(false) };
        let config: DtypeConfig = json::read(&folder.join("config.json"), "")?;
        let dtype = config.dtype.or(config.torch_dtype);
        Ok(dtype.is_some_and(|dtype| ["float16", "bfloat16"].contains(&dtype.as_str())))
    }
}
