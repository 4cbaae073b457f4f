//! Pooling, dense layers and normalization: from token embeddings to one sentence vector.
//!
//! The definitions are those of sentence-transformers (`models/Pooling.py`, `models/Dense.py`, `models/Normalize.py`)
//! for a sequence without padding.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1};

use crate::error::StartError;

/// Pooling mode: combines the token embeddings of a sequence, as sentence-transformers' `Pooling` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Mean of all tokens.
    Mean,
    /// The first token.
    Cls,
    /// Maximum of all tokens, for each dimension.
    Max,
    /// The last token.
    LastToken,
    /// Sum of all tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// Mean of all tokens with weights 1, 2, 3, … by position.
    WeightedMean,
}

impl Pooling {
    /// Pools `tokens` (`[length, hidden]`) into `out` (`[hidden]`). A sequence without tokens gives the zero vector.
    pub(crate) fn pool(self, tokens: ArrayView2<'_, f32>, out: &mut [f32]) {
        let length = tokens.nrows();
        let mut out = ArrayViewMut1::from(out);
        out.fill(0.0);
        if length == 0 {
            return;
        }
        match self {
            Self::Cls => out.assign(&tokens.row(0)),
            Self::LastToken => out.assign(&tokens.row(length - 1)),
            Self::Max => {
                out.assign(&tokens.row(0));
                for row in tokens.rows() {
                    out.zip_mut_with(&row, |maximum, &value| *maximum = maximum.max(value));
                }
            }
            Self::Mean | Self::MeanSqrtLen => {
                for row in tokens.rows() {
                    out += &row;
                }
                let length = length as f32;
                out /= if self == Self::Mean { length } else { length.sqrt() };
            }
            Self::WeightedMean => {
                for (position, row) in tokens.rows().into_iter().enumerate() {
                    out.scaled_add((position + 1) as f32, &row);
                }
                out /= (length * (length + 1) / 2) as f32;
            }
        }
    }
}

/// Activation function of a [`Dense`] layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// No activation.
    Identity,
    /// Hyperbolic tangent.
    Tanh,
}

/// A dense layer after pooling: `activation(weight · x + bias)`, as sentence-transformers' `Dense`.
#[derive(Debug, Clone)]
pub struct Dense {
    weight: Array2<f32>,
    bias: Option<Array1<f32>>,
    activation: Activation,
}

impl Dense {
    /// A layer from a row-major `weight` of shape `[outputs, inputs]` and a `bias` of shape `[outputs]`.
    ///
    /// # Errors
    /// [`StartError::Config`] if `weight` or `bias` has another number of values.
    pub fn new(
        [outputs, inputs]: [usize; 2],
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        activation: Activation,
    ) -> Result<Self, StartError> {
        let found = (weight.len(), bias.as_ref().map(Vec::len));
        match Array2::from_shape_vec((outputs, inputs), weight) {
            Ok(weight) if found.1.is_none_or(|length| length == outputs) => {
                Ok(Self { weight, bias: bias.map(Array1::from), activation })
            }
            _ => Err(StartError::Config(format!(
                "a dense layer of shape [{outputs}, {inputs}] cannot hold {} weights and {} biases",
                found.0,
                found.1.unwrap_or(0)
            ))),
        }
    }

    fn apply(&self, input: ArrayView1<'_, f32>) -> Array1<f32> {
        let mut output = self.weight.dot(&input);
        if let Some(bias) = &self.bias {
            output += bias;
        }
        if self.activation == Activation::Tanh {
            output.mapv_inplace(f32::tanh);
        }
        output
    }
}

/// Pooling and dense layers: all steps from token embeddings to the sentence vector, except normalization.
#[derive(Debug, Clone)]
pub struct Head {
    /// The pooling mode.
    pub pooling: Pooling,
    /// Dense layers, in order. Most models have none.
    pub dense: Vec<Dense>,
}

impl Head {
    /// Pools `tokens` (`[length, hidden]`) and writes the sentence vector to `out` (`[dimensions]`).
    pub(crate) fn apply(&self, tokens: ArrayView2<'_, f32>, out: &mut [f32]) {
        if self.dense.is_empty() {
            return self.pooling.pool(tokens, out);
        }
        let mut pooled = vec![0.0; tokens.ncols()];
        self.pooling.pool(tokens, &mut pooled);
        let mut vector = Array1::from(pooled);
        for layer in &self.dense {
            vector = layer.apply(vector.view());
        }
        ArrayViewMut1::from(out).assign(&vector);
    }

    /// Checks that the head maps `hidden` values to `dimensions` values.
    pub(crate) fn check(&self, hidden: usize, dimensions: usize) -> Result<(), StartError> {
        let mut length = hidden;
        for layer in &self.dense {
            if layer.weight.ncols() != length {
                return Err(StartError::Config(format!(
                    "dense layer expects {} inputs, got {length}",
                    layer.weight.ncols()
                )));
            }
            length = layer.weight.nrows();
        }
        if length == dimensions {
            Ok(())
        } else {
            Err(StartError::Config(format!(
                "the model computes {length} dimensions, but the model folder states {dimensions}"
            )))
        }
    }
}

/// Divides `vector` by its Euclidean norm. The zero vector is not changed, so the result is never NaN.
///
/// The sum is computed in f64, so its rounding error does not depend on the length.
pub(crate) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    if norm > 0.0 {
        let scale = 1.0 / norm;
        for value in vector {
            *value = (f64::from(*value) * scale) as f32;
        }
    }
}

/// Cosine of the angle between `a` and `b`; 1 for two zero vectors, 0 if one vector is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { f64::from(u8::from(a == b)) }
}

/// Keeps the first `to` values of each row of length `dimensions` and normalizes them again. Matryoshka models are
/// trained for this (Kusupati et al. 2022, arXiv 2205.13147).
///
/// # Panics
/// If `to` is 0 or greater than `dimensions`, or if `vectors` is not a whole number of rows.
pub fn truncate_dimensions(vectors: &mut Vec<f32>, dimensions: usize, to: usize) {
    assert!(to > 0 && to <= dimensions && vectors.len().is_multiple_of(dimensions));
    let rows = vectors.len() / dimensions;
    for row in 0..rows {
        vectors.copy_within(row * dimensions..row * dimensions + to, row * to);
        normalize(&mut vectors[row * to..(row + 1) * to]);
    }
    vectors.truncate(rows * to);
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_pool(pooling: Pooling, expected: [f32; 2]) {
        let tokens = array![[1.0, 2.0], [3.0, -4.0], [5.0, 0.0]];
        let mut out = [f32::NAN; 2];
        pooling.pool(tokens.view(), &mut out);
        for (found, expected) in out.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{pooling:?}: {out:?}");
        }
    }

    #[test]
    fn each_pooling_mode_matches_its_formula() {
        check_pool(Pooling::Mean, [3.0, -2.0 / 3.0]);
        check_pool(Pooling::Cls, [1.0, 2.0]);
        check_pool(Pooling::Max, [5.0, 2.0]);
        check_pool(Pooling::LastToken, [5.0, 0.0]);
        check_pool(Pooling::MeanSqrtLen, [9.0 / 3f32.sqrt(), -2.0 / 3f32.sqrt()]);
        check_pool(Pooling::WeightedMean, [22.0 / 6.0, -1.0]);
    }

    #[test]
    fn a_sequence_without_tokens_gives_zero_not_nan() {
        let mut out = [f32::NAN; 2];
        Pooling::Mean.pool(Array2::zeros((0, 2)).view(), &mut out);
        assert_eq!(out, [0.0, 0.0]);
        normalize(&mut out);
        assert_eq!(out, [0.0, 0.0]);
    }

    #[test]
    fn a_dense_layer_is_applied_after_pooling_and_sizes_that_do_not_fit_are_errors() {
        let dense = Dense::new([1, 2], vec![0.5, -1.0], Some(vec![0.25]), Activation::Tanh).unwrap();
        let head = Head { pooling: Pooling::Cls, dense: vec![dense] };
        head.check(2, 1).unwrap();
        assert!(head.check(3, 1).is_err() && head.check(2, 2).is_err());
        let mut out = [0.0];
        head.apply(array![[1.0, 2.0]].view(), &mut out);
        assert!((out[0] - (0.5f32 - 2.0 + 0.25).tanh()).abs() < 1e-7);
        assert!(Dense::new([1, 2], vec![0.5], None, Activation::Identity).is_err());
        assert!(Dense::new([1, 1], vec![0.5], Some(vec![]), Activation::Identity).is_err());
    }

    #[test]
    fn truncated_rows_are_unit_prefixes() {
        let mut vectors = vec![3.0, 4.0, 12.0, 0.0, 0.0, 1.0];
        truncate_dimensions(&mut vectors, 3, 2);
        assert_eq!(vectors, [0.6, 0.8, 0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn a_normalized_vector_has_norm_one_and_the_same_direction(
            vector in prop::collection::vec(-1e30f32..1e30, 1..64)
        ) {
            let mut unit = vector.clone();
            normalize(&mut unit);
            prop_assert!(unit.iter().all(|value| value.is_finite()));
            if vector.iter().any(|&value| value != 0.0) {
                let norm: f64 = unit.iter().map(|&value| f64::from(value).powi(2)).sum();
                prop_assert!((norm - 1.0).abs() < 1e-5);
                prop_assert!(cosine(&vector, &unit) > 1.0 - 1e-6);
            }
        }
    }
}
