//! The matrix product: where nearly all the time goes.
//!
//! A tile of the result, `rows × two vectors`, stays in registers while one loop over the inputs adds to it. The
//! right factor's panel stays in the first-level cache while all rows pass over it, and the left factor's block
//! in the second-level cache while all panels do. A value of the result is always the same sum in the same order,
//! whatever rows stand beside it.

use std::ops::Range;

use super::{
    math,
    panels::Panels,
    tiles::{self, Tiled},
};
use crate::{
    Activation,
    lanes::{Kernel, Lanes},
    matrix::Matrix,
};

/// Inputs of one pass: a panel of two vectors then takes 24 KiB (AVX2) or 48 KiB (AVX-512), about the first-level
/// cache of the processors with each, and 12 KiB with NEON.
const DEPTH: usize = 384;

/// Bytes of a panel that are asked for ahead of their use: a page, at whose end a processor's own prefetching stops.
/// On a Xeon with 4 KiB pages it makes a lone text a tenth (AVX-512) to a third (AVX2) quicker; 1 KiB does half of that,
/// 8 KiB no more (`embedgate model bench --threads 1`).
const AHEAD: usize = 4096;

/// `out = activation(left · right + bias)`, or `out += left · right + bias`.
pub(super) struct Product<'p> {
    pub(super) left: Matrix,
    pub(super) right: &'p Panels,
    /// The panels to compute.
    pub(super) panels: Range<usize>,
    /// A value for each column of `right`.
    pub(super) bias: &'p [f32],
    pub(super) out: Matrix,
    pub(super) then: Then,
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It replaces what was there.
    Store,
    /// It is added to what was there.
    Add,
    /// Its activation replaces what was there.
    Activate(Activation),
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { left, right, panels, bias, out, .. } = &self;
        assert_eq!(right.width(), 2 * L::WIDTH, "panels are packed for another instruction set");
        assert!(left.columns() >= right.inputs() && bias.len() >= right.columns());
        assert!(out.rows() == left.rows() && out.columns() >= right.columns());
        assert!(panels.end * right.width() <= right.columns());
        for from in (0..right.inputs()).step_by(DEPTH) {
            let inputs = from..right.inputs().min(from + DEPTH);
            for panel in panels.clone() {
                let pass = Pass { product: &self, panel, inputs: inputs.clone() };
                // SAFETY: the assertions above hold rows, columns and inputs; the caller, who else accesses them.
                unsafe { tiles::compute(lanes, left.rows(), &pass) };
            }
        }
    }
}

/// Some of a product's inputs passing over one of its panels.
struct Pass<'p> {
    product: &'p Product<'p>,
    panel: usize,
    inputs: Range<usize>,
}

impl Tiled for Pass<'_> {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const R: usize>(&self, lanes: L, row: usize) {
        let Self { product, panel, inputs } = self;
        let column = panel * 2 * L::WIDTH;
        let out = product.out.row(row).wrapping_add(column);
        let stride = product.out.stride();
        let mut sums = [[lanes.splat(0.0); 2]; R];
        // SAFETY: by the caller's promise everything read and written here lies within its matrix.
        unsafe {
            if inputs.start == 0 {
                let bias = product.bias.as_ptr().add(column);
                let bias = [lanes.load(bias), lanes.load(bias.add(L::WIDTH))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    *sums = bias;
                    if product.then == Then::Add {
                        let out = out.add(row * stride);
                        sums[0] = lanes.add(sums[0], lanes.load(out));
                        sums[1] = lanes.add(sums[1], lanes.load(out.add(L::WIDTH)));
                    }
                }
            } else {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let out = out.add(row * stride);
                    *sums = [lanes.load(out), lanes.load(out.add(L::WIDTH))];
                }
            }
            let left = product.left.row(row).add(inputs.start);
            let right = product.right.rows(*panel, inputs.start);
            accumulate(lanes, (left, product.left.stride()), (right, 2 * L::WIDTH), inputs.len(), &mut sums);
            let last = inputs.end == product.right.inputs();
            for (row, [mut low, mut high]) in sums.into_iter().enumerate() {
                if let (Then::Activate(activation), true) = (product.then, last) {
                    low = math::activate(lanes, activation, low);
                    high = math::activate(lanes, activation, high);
                }
                let out = out.add(row * stride);
                lanes.store(out, low);
                lanes.store(out.add(L::WIDTH), high);
            }
        }
    }
}

/// `sums[r][v] += Σₖ left[r, k] · right[k, v]`, the terms in the order of k. Each factor is where it begins, and
/// its stride in values.
///
/// # Safety
/// `left` must be valid for `R` rows of `depth` values, `right` for `depth` rows of two vectors.
#[inline(always)]
pub(super) unsafe fn accumulate<L: Lanes, const R: usize>(
    lanes: L,
    (left, left_stride): (*const f32, usize),
    (right, right_stride): (*const f32, usize),
    depth: usize,
    sums: &mut [[L::Vector; 2]; R],
) {
    let ahead = AHEAD / size_of::<[L::Vector; 2]>() * right_stride;
    for k in 0..depth {
        // SAFETY: by the caller's promise.
        unsafe {
            let right = right.add(k * right_stride);
            lanes.prefetch(right.wrapping_add(ahead));
            let (low, high) = (lanes.load(right), lanes.load(right.add(L::WIDTH)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = lanes.splat(*left.add(row * left_stride + k));
                sums[0] = lanes.mul_add(value, low, sums[0]);
                sums[1] = lanes.mul_add(value, high, sums[1]);
            }
        }
    }
}
