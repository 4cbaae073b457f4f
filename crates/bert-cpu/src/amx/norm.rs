//! The layer norm (Ba, Kiros and Hinton 2016, arXiv 1607.06450), in f32, and what the next product wants from it:
//! the state in bf16, and the state with that product's bias added, which then begins its sums.

use std::arch::x86_64::*;

use super::{
    layout::Tiled,
    tile::UNIT,
    vector::{Floats, load, round, store, store_line},
};

/// `(x − mean) / √(variance + epsilon) · scale + shift`. The slices are padded to a multiple of 32, with zeros.
pub(super) struct LayerNorm<'n> {
    /// Columns that are real.
    pub(super) width: usize,
    pub(super) scale: &'n [f32],
    pub(super) shift: &'n [f32],
    pub(super) epsilon: f32,
    /// Added to what is left in f32.
    pub(super) bias: &'n [f32],
}

impl LayerNorm<'_> {
    /// Normalises one row of the state in place, its padding being zero; writes it to row `index` of `narrow`,
    /// too.
    ///
    /// # Safety
    /// Nobody else may access that row of `narrow`.
    ///
    /// # Panics
    /// When a size does not fit.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn run(&self, row: &mut [f32], narrow: Tiled, index: usize) {
        let padded = narrow.depth() * UNIT;
        assert!(index < narrow.rows() && self.width <= padded);
        let whole = |values: &[f32]| values.len() == padded;
        assert!(whole(row) && whole(self.scale) && whole(self.shift) && whole(self.bias));
        let count = self.width as f32;

        let mut sum = _mm512_setzero_ps();
        let (values, _) = row.as_chunks_mut::<16>();
        for part in values.iter() {
            sum = _mm512_add_ps(sum, load(part));
        }
        let mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / count);
        let mut squares = _mm512_setzero_ps();
        for (place, part) in values.iter().enumerate() {
            // Lanes beyond the width would add the mean's square.
            let real = self.width.saturating_sub(place * 16).min(16);
            let mask = ((1u32 << real) - 1) as __mmask16;
            let off = _mm512_maskz_sub_ps(mask, load(part), mean);
            squares = _mm512_fmadd_ps(off, off, squares);
        }
        let variance = _mm512_reduce_add_ps(squares) / count;
        let factor = _mm512_set1_ps(1.0 / (variance + self.epsilon).sqrt());

        let (scale, _) = self.scale.as_chunks::<16>();
        let (shift, _) = self.shift.as_chunks::<16>();
        let (bias, _) = self.bias.as_chunks::<16>();
        for (k, halves) in values.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let mut normed = [mean; 2];
            for (half, part) in halves.iter_mut().enumerate() {
                let place = 2 * k + half;
                let off: Floats = _mm512_mul_ps(_mm512_sub_ps(load(part), mean), factor);
                normed[half] = _mm512_fmadd_ps(off, load(&scale[place]), load(&shift[place]));
                store(part, _mm512_add_ps(normed[half], load(&bias[place])));
            }
            let [low, high] = normed;
            // SAFETY: the line exists, as was checked, and is the caller's.
            unsafe { store_line(narrow.line(index, k), round(low, high)) };
        }
    }
}
