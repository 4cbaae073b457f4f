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
        let mut bytes: u64 = 0;
        for path in &self.files {
            let read = ImportError::read(path, "it is part of the model");
            bytes = bytes.saturating_add(fs::metadata(path).map_err(read)?.len());
        }
        if self.has_16_bit_weights()? {
            bytes = bytes.saturating_mul(2);
        }
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn has_16_bit_weights(&self) -> Result<bool, ImportError> {
        // A graph is run in its own number format.
        let ModelSource::Weights { folder, .. } = &self.source else { return Ok(false) };
        let config: DtypeConfig = json::read(&folder.join("config.json"), "")?;
        let dtype = config.dtype.or(config.torch_dtype);
        Ok(dtype.is_some_and(|dtype| ["float16", "bfloat16"].contains(&dtype.as_str())))
    }
}
