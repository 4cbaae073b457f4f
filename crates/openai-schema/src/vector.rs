//! The vectors of a response, and their two encodings: JSON numbers, and base64 of little-endian f32.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Components that are encoded at a time. A multiple of 3, because 3 components are 12 bytes or 16 base64 characters:
/// only the end of a vector is padded.
const BASE64_CHUNK: usize = 384;

const COMPONENT_BYTES: usize = size_of::<f32>();

/// Vectors of equal length in one row-major array, all components finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    values: Vec<f32>,
    dimensions: usize,
}

/// An error in the vectors of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VectorsError {
    /// The values are not a whole number of vectors.
    #[error("{values} values are not a whole number of vectors of {dimensions} dimensions")]
    Ragged {
        /// The number of values.
        values: usize,
        /// The length of one vector.
        dimensions: usize,
    },
    /// A component is NaN or infinite, which JSON cannot express.
    #[error("component {component} of vector {vector} is not a finite number")]
    NotFinite {
        /// The row, from 0.
        vector: usize,
        /// The position within the row, from 0.
        component: usize,
    },
}

impl Default for Vectors {
    /// No vectors.
    fn default() -> Self {
        Self { values: Vec::new(), dimensions: 1 }
    }
}

impl Vectors {
    /// Creates vectors from rows of `dimensions` components each, in the order of the inputs.
    ///
    /// # Errors
    /// If the rows are not of equal, non-zero length, or a component is NaN or infinite.
    pub fn new(values: Vec<f32>, dimensions: usize) -> Result<Self, VectorsError> {
        if dimensions == 0 || !values.len().is_multiple_of(dimensions) {
            return Err(VectorsError::Ragged { values: values.len(), dimensions });
        }
        // The first check has no branch per value, so that the compiler vectorises it; `position` is not vectorised.
        let all_finite = values.iter().fold(true, |finite, value| finite & value.is_finite());
        let not_finite = || values.iter().position(|value| !value.is_finite());
        if let Some(at) = (!all_finite).then(not_finite).flatten() {
            return Err(VectorsError::NotFinite { vector: at / dimensions, component: at % dimensions });
        }
        Ok(Self { values, dimensions })
    }

    /// Returns the number of vectors.
    #[expect(clippy::len_without_is_empty, reason = "no caller needs `is_empty`")]
    pub fn len(&self) -> usize {
        self.values.len() / self.dimensions
    }

    /// Returns the number of components of each vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Returns the vectors in the order of the inputs.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimensions)
    }

    /// Returns the vector at `index`.
    ///
    /// # Panics
    /// If there are fewer vectors.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dimensions..][..self.dimensions]
    }

    /// Returns the vectors from index `from` on, with their indices.
    pub(crate) fn rows_from(&self, from: usize) -> impl Iterator<Item = (usize, &[f32])> {
        let rows = self.values[from * self.dimensions..].chunks_exact(self.dimensions);
        rows.enumerate().map(move |(offset, row)| (from + offset, row))
    }
}

/// Appends a JSON array of the shortest decimals that read back as the same f32.
pub(crate) fn write_floats(vector: &[f32], out: &mut Vec<u8>) {
    serde_json::to_writer(out, vector).expect("writing numbers to memory cannot fail");
}

/// Appends a JSON string: base64, standard alphabet, padded, of the components as little-endian f32.
pub(crate) fn write_base64(vector: &[f32], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut bytes = [0; BASE64_CHUNK * COMPONENT_BYTES];
    for chunk in vector.chunks(BASE64_CHUNK) {
        let bytes = &mut bytes[..size_of_val(chunk)];
        for (target, value) in bytes.chunks_exact_mut(COMPONENT_BYTES).zip(chunk) {
            target.copy_from_slice(&value.to_le_bytes());
        }
        let start = out.len();
        out.resize(start + base64_len(chunk.len()), 0);
        STANDARD.encode_slice(bytes, &mut out[start..]).expect("the buffer has the length of the encoding");
    }
    out.push(b'"');
}

/// Returns the length of `components` f32 in base64, padding included.
pub(crate) fn base64_len(components: usize) -> usize {
    (components * COMPONENT_BYTES).div_ceil(3) * 4
}
