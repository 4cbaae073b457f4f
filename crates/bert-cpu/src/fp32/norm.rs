//! Layer norm (Ba, Kiros and Hinton 2016, arXiv 1607.06450), in place.

use crate::{
    matrix::Matrix,
    simd::{Simd, WithSimd},
};

/// `(x − mean) / √(variance + epsilon) · scale + shift` of every row.
pub(super) struct LayerNorm<'n> {
    /// `[rows, padded width]`; the padding is zero, and stays so.
    pub(super) rows: Matrix,
    /// Columns without padding.
    pub(super) width: usize,
    /// A value for each column; zero in the padding.
    pub(super) scale: &'n [f32],
    /// As `scale`.
    pub(super) shift: &'n [f32],
    pub(super) epsilon: f32,
}

impl WithSimd for LayerNorm<'_> {
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, width, scale, shift, epsilon } = self;
        let padded = rows.columns();
        assert!(width <= padded && padded.is_multiple_of(S::WIDTH));
        assert!(scale.len() >= padded && shift.len() >= padded);
        let full = width - width % S::WIDTH;
        for row in 0..rows.rows() {
            let x = rows.row(row);
            // SAFETY: `x` is valid for `padded` values, and the row is this task's.
            unsafe {
                // The zeros of the padding add nothing.
                let mut sum = simd.splat(0.0);
                for column in (0..padded).step_by(S::WIDTH) {
                    sum = simd.add(sum, simd.load(x.add(column)));
                }
                let mean = simd.reduce_sum(sum) / width as f32;
                let center = simd.splat(mean);
                let mut squares = simd.splat(0.0);
                for column in (0..full).step_by(S::WIDTH) {
                    let deviation = simd.sub(simd.load(x.add(column)), center);
                    squares = simd.mul_add(deviation, deviation, squares);
                }
                let mut squares = simd.reduce_sum(squares);
                for column in full..width {
                    let deviation = *x.add(column) - mean;
                    squares += deviation * deviation;
                }
                let factor = simd.splat(1.0 / (squares / width as f32 + epsilon).sqrt());
                for column in (0..padded).step_by(S::WIDTH) {
                    let deviation = simd.sub(simd.load(x.add(column)), center);
                    let scale = simd.load(scale.as_ptr().add(column));
                    let shift = simd.load(shift.as_ptr().add(column));
                    simd.store(x.add(column), simd.mul_add(simd.mul(deviation, factor), scale, shift));
                }
            }
        }
    }
}
