//! Known texts with known vectors, checked on the very encoder that will serve before anyone is served.

use std::time::{Duration, Instant};

use crate::{
    EmbedError, Embeddings, Engine, Input, Job, SubmitError, TruncationPolicy, intake::Purpose,
    pooling::cosine,
};

/// A text that every tokenizer reads.
pub(crate) const PROBE: &str = "The quick brown fox jumps over the lazy dog.";

/// Longest time for a check: generous, because the machine may be busy while the server starts.
const DEADLINE: Duration = Duration::from_secs(300);

/// One golden text.
#[derive(Debug, Clone, Copy)]
pub struct GoldenText<'a> {
    /// The text.
    pub text: &'a str,
    /// Tokens that the model reads for it, special tokens included, after truncation.
    pub tokens: usize,
    /// Its vector, or the vector's first values where only those are known.
    pub vector: &'a [f32],
}

/// The result of a passed check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenReport {
    /// Number of texts.
    pub texts: usize,
    /// Smallest cosine between a computed and a golden vector.
    pub worst_cosine: f64,
}

/// The encoder does not compute what it should.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A token count differs: the wrong tokenizer, or the wrong window.
    #[error(
        "golden text {index} ({text:?}) has {found} tokens, expected {expected}: wrong tokenizer or window"
    )]
    Tokens {
        /// Position among the golden texts.
        index: usize,
        /// The text's beginning.
        text: String,
        /// Tokens counted here.
        found: usize,
        /// Tokens in the manifest.
        expected: usize,
    },
    /// A vector differs: wrong weights, pooling or arithmetic.
    #[error(
        "golden text {index} ({text:?}) has cosine {cosine:.6} to its golden vector, at least {minimum} is needed: \
         wrong weights, wrong pooling, or a provider that computes something else"
    )]
    Vector {
        /// Position among the golden texts.
        index: usize,
        /// The text's beginning.
        text: String,
        /// Cosine found.
        cosine: f64,
        /// Cosine needed.
        minimum: f64,
    },
    /// A golden vector is longer than the model's vectors.
    #[error("golden text {index} has {found} values, but the model has {dimensions} dimensions")]
    Dimensions {
        /// Position among the golden texts.
        index: usize,
        /// Values in the manifest.
        found: usize,
        /// The model's dimensions.
        dimensions: usize,
    },
    /// The engine refused the texts.
    #[error("the engine refused the texts of the check")]
    Submit(#[from] SubmitError),
    /// The engine failed on them.
    #[error("the engine failed on the texts of the check")]
    Embed(#[from] EmbedError),
}

impl Engine {
    /// Embeds one short text through the whole engine, which must yield finite values. For a model without golden
    /// vectors this is the only proof that it computes at all. Blocks; not for async threads.
    ///
    /// # Errors
    /// The engine's own error.
    pub fn probe(&self) -> Result<(), GoldenError> {
        self.embed_anew([PROBE]).map(drop)
    }

    /// Embeds `golden` through the whole engine and compares. Blocks; not for async threads. Every text is computed
    /// here and now: no cache answers for it, and none keeps its vector.
    ///
    /// # Errors
    /// The first difference found, or the engine's own error.
    pub fn check_golden(
        &self,
        golden: &[GoldenText<'_>],
        min_cosine: f64,
    ) -> Result<GoldenReport, GoldenError> {
        compare(golden, &self.embed_anew(golden.iter().map(|golden| golden.text))?, min_cosine)
    }

    /// Embeds texts with the encoder, without the caches.
    fn embed_anew<'text>(
        &self,
        texts: impl IntoIterator<Item = &'text str>,
    ) -> Result<Embeddings, GoldenError> {
        let job = Job {
            inputs: texts.into_iter().map(|text| Input::Text(text.to_owned())).collect(),
            truncation: TruncationPolicy::Truncate,
            max_input_tokens: None,
            deadline: Instant::now() + DEADLINE,
            max_tokens: usize::MAX,
            caller: None,
        };
        Ok(self.submit_for(Purpose::Check, job)?.wait()?)
    }
}

fn compare(golden: &[GoldenText<'_>], found: &Embeddings, minimum: f64) -> Result<GoldenReport, GoldenError> {
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
