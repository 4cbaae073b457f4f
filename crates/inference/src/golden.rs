//! The golden check: known texts must give known vectors on the encoder that will serve.

use crate::{
    error::{EmbedError, SubmitError},
    job::Embeddings,
    pooling::cosine,
};

/// A text that every model can read.
pub(crate) const PROBE: &str = "The quick brown fox jumps over the lazy dog.";

/// One golden text.
#[derive(Debug, Clone, Copy)]
pub struct GoldenText<'a> {
    /// The text.
    pub text: &'a str,
    /// Number of its tokens, special tokens included, after truncation.
    pub tokens: usize,
    /// Its vector, or the vector's first values.
    pub vector: &'a [f32],
}

/// Result of a passed check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenReport {
    /// Number of texts.
    pub texts: usize,
    /// Smallest cosine between a computed and a golden vector.
    pub worst_cosine: f64,
}

/// The golden check failed.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A token count differs: the wrong tokenizer, or the wrong `max_input_tokens`.
    #[error(
        "golden check failed: text {index} ({text:?}) has {found} tokens, expected {expected}: wrong tokenizer or \
         max_input_tokens"
    )]
    Tokens {
        /// Index of the golden text.
        index: usize,
        /// Start of the text.
        text: String,
        /// Number of tokens found.
        found: usize,
        /// Number of tokens in the manifest.
        expected: usize,
    },
    /// A vector differs: wrong weights, pooling or arithmetic.
    #[error(
        "golden check failed: text {index} ({text:?}) has cosine {cosine:.6} to its golden vector, expected at least \
         {minimum}: wrong weights, wrong pooling, or a backend that computes wrong values"
    )]
    Vector {
        /// Index of the golden text.
        index: usize,
        /// Start of the text.
        text: String,
        /// Cosine found.
        cosine: f64,
        /// Cosine needed.
        minimum: f64,
    },
    /// A golden vector is longer than the model's vectors.
    #[error(
        "golden check failed: the vector of text {index} has {found} values, but the model has {dimensions} dimensions"
    )]
    Dimensions {
        /// Index of the golden text.
        index: usize,
        /// Number of values in the manifest.
        found: usize,
        /// The model's dimensions.
        dimensions: usize,
    },
    /// The engine rejected the texts.
    #[error("the engine rejected the texts of a check at start")]
    Submit(#[from] SubmitError),
    /// The engine failed on the texts.
    #[error("the engine failed on the texts of a check at start")]
    Embed(#[from] EmbedError),
}

/// Compares token counts and vectors of `golden` with those that were computed.
///
/// # Errors
/// The first difference.
pub(crate) fn compare(
    golden: &[GoldenText<'_>],
    found: &Embeddings,
    minimum: f64,
) -> Result<GoldenReport, GoldenError> {
    let mut worst_cosine = 1.0f64;
    let rows = found.vectors.chunks_exact(found.dimensions).zip(&found.tokens);
    for (index, (golden, (vector, &tokens))) in golden.iter().zip(rows).enumerate() {
        let text = || golden.text.chars().take(40).collect();
        if tokens as usize != golden.tokens {
            return Err(GoldenError::Tokens {
                index,
                text: text(),
                found: tokens as usize,
                expected: golden.tokens,
            });
        }
        let Some(prefix) = vector.get(..golden.vector.len()) else {
            return Err(GoldenError::Dimensions {
                index,
                found: golden.vector.len(),
                dimensions: found.dimensions,
            });
        };
        let cosine = cosine(prefix, golden.vector);
        if cosine < minimum {
            return Err(GoldenError::Vector { index, text: text(), cosine, minimum });
        }
        worst_cosine = worst_cosine.min(cosine);
    }
    Ok(GoldenReport { texts: golden.len(), worst_cosine })
}
