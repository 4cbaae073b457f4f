//! The layer norm (Ba, Kiros and Hinton 2016, arXiv 1607.06450), in f32, and what the next product wants from it:
//! the state in bf16, and the state with that product's bias added, which then begins its sums.

use std::arch::x86_64::*;

use super::{
    layout::Tiled,
    tile::UNIT,
    vector::{Floats, load, round, store, store_line},
};

/// The sum of what `of` makes of each vector, over all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn total(vectors: &[[f32; 16]], of: impl Fn(&[f32; 16]) -> Floats) -> f32 {
    // Four chains, or every addition would wait for the one before.
    let mut sums = [_mm512_setzero_ps(); 4];
    let (fours, rest) = vectors.as_chunks::<4>();
    for four in fours {
        for (sum, vector) in sums.iter_mut().zip(four) {
            *sum = _mm512_add_ps(*sum, of(vector));
        }
    }
    for (sum, vector) in sums.iter_mut().zip(rest) {
        *sum = _mm512_add_ps(*sum, of(vector));
    }
    let [a, b, c, d] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

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

        let (values, _) = row.as_chunks_mut::<16>();
        // The padding is zero: it adds nothing to the sum, but would add the mean's square to the squares.
        let mean = total(values, |part| load(part)) / count;
        let (whole, rest) = values.split_at(self.width / 16);
        let mean = _mm512_set1_ps(mean);
        let mut squares = total(whole, |part| {
            let off = _mm512_sub_ps(load(part), mean);
            _mm512_mul_ps(off, off)
        });
        if !self.width.is_multiple_of(16) {
            let real = (1 << (self.width % 16)) - 1;
            let off = _mm512_maskz_sub_ps(real, load(&rest[0]), mean);
            squares += _mm512_reduce_add_ps(_mm512_mul_ps(off, off));
        }
        let factor = 1.0 / (squares / count + self.epsilon).sqrt();
        let factor = _mm512_set1_ps(factor);
        let moved = _mm512_mul_ps(mean, factor);

        let (scale, _) = self.scale.as_chunks::<16>();
        let (shift, _) = self.shift.as_chunks::<16>();
        let (bias, _) = self.bias.as_chunks::<16>();
        for (k, halves) in values.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let mut normed = [mean; 2];
            for (half, part) in halves.iter_mut().enumerate() {
                let place = 2 * k + half;
                let off = _mm512_fmsub_ps(load(part), factor, moved);
                normed[half] = _mm512_fmadd_ps(off, load(&scale[place]), load(&shift[place]));
                store(part, _mm512_add_ps(normed[half], load(&bias[place])));
            }
            let [low, high] = normed;
            // SAFETY: the line exists, as was checked, and is the caller's.
            unsafe { store_line(narrow.line(index, k), round(low, high)) };
        }
    }
}
