//! Layer norm (Ba, Kiros and Hinton 2016, arXiv 1607.06450) in f32. Its result is written as the next GEMM reads it: in
//! bf16 as A, and in f32 as the residual stream, with the bias of the next GEMM that adds to it.

use std::arch::x86_64::*;

use super::{
    layout::TiledMatrix,
    tile::K_BLOCK,
    vector::{Floats, load, round, store, store_line},
};

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

/// `(x − mean) / √(variance + epsilon) · scale + shift`. The slices are padded with zeros to a multiple of 32.
pub(super) struct AmxLayerNorm<'n> {
    /// Columns without padding.
    pub(super) width: usize,
    pub(super) scale: &'n [f32],
    pub(super) shift: &'n [f32],
    pub(super) epsilon: f32,
    /// Added to the f32 result only.
    pub(super) bias: &'n [f32],
}

impl AmxLayerNorm<'_> {
    /// Normalizes one row of the residual stream in place, and writes it to row `index` of `normed`. The padding of
    /// `row` must be zero.
    ///
    /// # Safety
    /// No other code may access that row of `normed`.
    ///
    /// # Panics
    /// If a size does not fit.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn run(&self, row: &mut [f32], normed: TiledMatrix, index: usize) {
        let padded = normed.k_blocks() * K_BLOCK;
        assert!(index < normed.rows() && self.width <= padded);
        let is_padded = |values: &[f32]| values.len() == padded;
        assert!(is_padded(row) && is_padded(self.scale) && is_padded(self.shift) && is_padded(self.bias));
        let count = self.width as f32;

        let (values, _) = row.as_chunks_mut::<16>();
        // The zeros of the padding add nothing to the sum, but would add the mean's square to the squares.
        let mean = sum(values, |vector| load(vector)) / count;
        let (full, rest) = values.split_at(self.width / 16);
        let mean = _mm512_set1_ps(mean);
        let mut squares = sum(full, |vector| {
            let deviation = _mm512_sub_ps(load(vector), mean);
            _mm512_mul_ps(deviation, deviation)
        });
        if !self.width.is_multiple_of(16) {
            let mask = (1 << (self.width % 16)) - 1;
            let deviation = _mm512_maskz_sub_ps(mask, load(&rest[0]), mean);
            squares += _mm512_reduce_add_ps(_mm512_mul_ps(deviation, deviation));
        }
        let factor = 1.0 / (squares / count + self.epsilon).sqrt();
        let factor = _mm512_set1_ps(factor);
        let scaled_mean = _mm512_mul_ps(mean, factor);

        let (scale, _) = self.scale.as_chunks::<16>();
        let (shift, _) = self.shift.as_chunks::<16>();
        let (bias, _) = self.bias.as_chunks::<16>();
        for (k, halves) in values.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let mut results = [mean; 2];
            for (half, vector) in halves.iter_mut().enumerate() {
                let index = 2 * k + half;
                let standardized = _mm512_fmsub_ps(load(vector), factor, scaled_mean);
                results[half] = _mm512_fmadd_ps(standardized, load(&scale[index]), load(&shift[index]));
                store(vector, _mm512_add_ps(results[half], load(&bias[index])));
            }
            let [low, high] = results;
            // SAFETY: the line exists, as was checked, and is the caller's.
            unsafe { store_line(normed.line(index, k), round(low, high)) };
        }
    }
}
