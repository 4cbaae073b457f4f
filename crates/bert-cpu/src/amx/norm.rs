//! Layer norm and RMSNorm of one row in f32.

use std::arch::x86_64::*;

use encoder_spec::{NormKind, NormSpec};

use super::vector::{Floats, load};
use crate::layer::NormParams;

/// Sum of `map` of each vector, over all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn sum(vectors: &[[f32; 16]], map: impl Fn(&[f32; 16]) -> Floats) -> f32 {
    // Four independent chains, so that additions overlap.
    let mut sums = [_mm512_setzero_ps(); 4];
    let (fours, rest) = vectors.as_chunks::<4>();
    for four in fours {
        for (sum, vector) in sums.iter_mut().zip(four) {
            *sum = _mm512_add_ps(*sum, map(vector));
        }
    }
    for (sum, vector) in sums.iter_mut().zip(rest) {
        *sum = _mm512_add_ps(*sum, map(vector));
    }
    let [a, b, c, d] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

/// A norm by the formulas of [`NormKind`].
pub(super) struct AmxNorm<'n> {
    pub(super) params: &'n NormParams,
    pub(super) spec: NormSpec,
}

impl AmxNorm<'_> {
    /// Passes the normalized values of `row` to `write`, 32 at a time: their index, the values before, which it may
    /// change, and the normalized ones. The padding of `row` must be zero.
    ///
    /// # Panics
    /// If the row has another padded width than the parameters.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) fn run(
        &self,
        row: &mut [f32],
        mut write: impl FnMut(usize, &mut [[f32; 16]; 2], [Floats; 2]),
    ) {
        let NormParams { width, scale, shift } = self.params;
        let width = *width;
        assert!(width <= row.len() && scale.len() == row.len() && shift.len() == row.len());
        let count = width as f32;

        let (values, _) = row.as_chunks_mut::<16>();
        // The zeros of the padding add nothing to the sum, but would add the mean's square to the squares.
        let mean = match self.spec.kind {
            NormKind::LayerNorm { .. } => sum(values, |vector| load(vector)) / count,
            NormKind::RmsNorm { .. } => 0.0,
        };
        let (full, rest) = values.split_at(width / 16);
        let mean = _mm512_set1_ps(mean);
        let mut squares = sum(full, |vector| {
            let deviation = _mm512_sub_ps(load(vector), mean);
            _mm512_mul_ps(deviation, deviation)
        });
        if !width.is_multiple_of(16) {
            let mask = (1 << (width % 16)) - 1;
            let deviation = _mm512_maskz_sub_ps(mask, load(&rest[0]), mean);
            squares += _mm512_reduce_add_ps(_mm512_mul_ps(deviation, deviation));
        }
        let factor = 1.0 / (squares / count + self.spec.epsilon).sqrt();
        let factor = _mm512_set1_ps(factor);
        let scaled_mean = _mm512_mul_ps(mean, factor);

        let (scale, _) = scale.as_chunks::<16>();
        let (shift, _) = shift.as_chunks::<16>();
        for (k, halves) in values.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let mut results = [mean; 2];
            for (half, vector) in halves.iter().enumerate() {
                let index = 2 * k + half;
                let standardized = _mm512_fmsub_ps(load(vector), factor, scaled_mean);
                results[half] = _mm512_fmadd_ps(standardized, load(&scale[index]), load(&shift[index]));
            }
            write(k, halves, results);
        }
    }
}
