//! A tensor in a memory-mapped file of weights, in whichever format the file is.

use std::ops::Range;

use crate::float_type::FloatType;

/// The location and format of a tensor in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The format of its elements, or the description of a format that weights cannot have.
    pub(crate) float_type: Result<FloatType, String>,
    /// Its elements in the file, row-major: within the file, and as many as the shape has.
    pub(crate) bytes: Range<usize>,
}
