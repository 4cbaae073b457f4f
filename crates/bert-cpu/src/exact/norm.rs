//! The layer norm (Ba, Kiros and Hinton 2016, arXiv 1607.06450), in place, row by row.

use crate::{
    lanes::{Kernel, Lanes},
    matrix::Matrix,
};

/// `(x − mean) / √(variance + epsilon) · scale + shift` for every row.
pub(super) struct LayerNorm<'n> {
    /// `[rows, padded]`; what lies beyond `width` is zero, and stays so.
    pub(super) rows: Matrix,
    /// Columns that are real.
    pub(super) width: usize,
    /// A value for each column, zeros in the padding.
    pub(super) scale: &'n [f32],
    /// As `scale`.
    pub(super) shift: &'n [f32],
    pub(super) epsilon: f32,
}

impl Kernel for LayerNorm<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { rows, width, scale, shift, epsilon } = self;
        let padded = rows.columns();
        assert!(width <= padded && padded.is_multiple_of(L::WIDTH));
        assert!(scale.len() >= padded && shift.len() >= padded);
        let whole = width - width % L::WIDTH;
        for row in 0..rows.rows() {
            let x = rows.row(row);
            // SAFETY: `x` is valid for `padded` values, and the caller of the step gave this row to this task.
            unsafe {
                // Zeros in the padding add nothing.
                let mut sum = lanes.splat(0.0);
                for column in (0..padded).step_by(L::WIDTH) {
                    sum = lanes.add(sum, lanes.load(x.add(column)));
                }
                let mean = lanes.sum(sum) / width as f32;
                let center = lanes.splat(mean);
                let mut squares = lanes.splat(0.0);
                for column in (0..whole).step_by(L::WIDTH) {
                    let off = lanes.sub(lanes.load(x.add(column)), center);
                    squares = lanes.mul_add(off, off, squares);
                }
                let mut squares = lanes.sum(squares);
                for column in whole..width {
                    let off = *x.add(column) - mean;
                    squares += off * off;
                }
                let factor = lanes.splat(1.0 / (squares / width as f32 + epsilon).sqrt());
                for column in (0..padded).step_by(L::WIDTH) {
                    let off = lanes.sub(lanes.load(x.add(column)), center);
                    let scale = lanes.load(scale.as_ptr().add(column));
                    let shift = lanes.load(shift.as_ptr().add(column));
                    lanes.store(x.add(column), lanes.mul_add(lanes.mul(off, factor), scale, shift));
                }
            }
        }
    }
}
