//! Layer norm and RMSNorm of rows.

use encoder_spec::{NormKind, NormSpec};

use crate::{
    layer::NormParams,
    matrix::Matrix,
    simd::{Simd, WithSimd},
};

/// `output = norm(input)`, or `output += norm(input)`, by the formulas of [`NormKind`].
pub(super) struct Norm<'n> {
    /// `[rows, padded width]`; the padding is zero.
    pub(super) input: Matrix,
    /// As `input`, and possibly the same memory; its padding becomes or stays zero.
    pub(super) output: Matrix,
    /// Adds to the output.
    pub(super) is_added: bool,
    pub(super) params: &'n NormParams,
    pub(super) spec: NormSpec,
}

impl WithSimd for Norm<'_> {
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { input, output, is_added, params: NormParams { width, scale, shift }, spec } = self;
        let (width, padded) = (*width, input.columns());
        assert!(width <= padded && padded.is_multiple_of(S::WIDTH));
        assert!(scale.len() >= padded && shift.len() >= padded);
        assert!(output.rows() == input.rows() && output.columns() == padded);
        let is_centered = matches!(spec.kind, NormKind::LayerNorm { .. });
        let full = width - width % S::WIDTH;
        for row in 0..input.rows() {
            let (x, out) = (input.row(row), output.row(row));
            // SAFETY: both are valid for `padded` values, and the rows are this task's.
            unsafe {
                let mut mean = 0.0;
                if is_centered {
                    // The zeros of the padding add nothing.
                    let mut sum = simd.splat(0.0);
                    for column in (0..padded).step_by(S::WIDTH) {
                        sum = simd.add(sum, simd.load(x.add(column)));
                    }
                    mean = simd.reduce_sum(sum) / width as f32;
                }
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
                let factor = simd.splat(1.0 / (squares / width as f32 + spec.epsilon).sqrt());
                for column in (0..padded).step_by(S::WIDTH) {
                    let deviation = simd.sub(simd.load(x.add(column)), center);
                    let scale = simd.load(scale.as_ptr().add(column));
                    let mut value = simd.load(shift.as_ptr().add(column));
                    if is_added {
                        value = simd.add(value, simd.load(out.add(column)));
                    }
                    simd.store(out.add(column), simd.mul_add(simd.mul(deviation, factor), scale, value));
                }
            }
        }
    }
}
