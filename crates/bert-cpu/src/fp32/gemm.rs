//! The GEMM: nearly all of the run time.
//!
//! A register tile of the result, up to MR rows of two vectors, is accumulated over K by the micro-kernel. A panel of
//! packed B stays in the L1d or L2 cache while all rows of A pass over it, and [`Simd::KC`] columns of A stay in the L2
//! cache while all panels do. A value of the result is always the same sum in the same order, whatever the other rows.

use std::ops::Range;

use super::{
    output::Output,
    pack::PackedB,
    prefetch::Prefetch,
    tiles::{self, RowTileKernel},
};
use crate::{
    matrix::Matrix,
    simd::{Simd, WithSimd},
};

/// `c = epilogue(a · b + bias)`.
pub(super) struct Gemm<'p> {
    /// `[rows, K]`: activations.
    pub(super) a: Matrix,
    /// `[K, columns]`: weights.
    pub(super) b: &'p PackedB,
    /// Panels of `b` to compute.
    pub(super) panels: Range<usize>,
    pub(super) output: Output<'p>,
}

impl WithSimd for Gemm<'_> {
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { a, b, panels, output } = &self;
        assert_eq!(b.panel_width(), 2 * S::WIDTH, "B is packed for another instruction set");
        assert!(a.columns() >= b.k());
        assert!(output.c.rows() == a.rows() && output.c.columns() >= b.columns());
        assert!(panels.end * b.panel_width() <= b.columns());
        output.assert_fits(a.rows(), b.columns());
        for start in (0..b.k()).step_by(S::KC) {
            let k = start..b.k().min(start + S::KC);
            for panel in panels.clone() {
                let kernel = PanelKernel { gemm: &self, panel, k: k.clone() };
                // SAFETY: the assertions above check rows, columns and K; no other thread accesses these panels of `c`.
                unsafe { tiles::run(simd, a.rows(), &kernel) };
            }
        }
    }
}

/// Multiplies one block of K with one panel of B.
struct PanelKernel<'p> {
    gemm: &'p Gemm<'p>,
    panel: usize,
    k: Range<usize>,
}

impl<S: Simd> RowTileKernel<S> for PanelKernel<'_> {
    #[inline(always)]
    unsafe fn run<const R: usize>(&self, simd: S, first: usize) {
        let Self { gemm: Gemm { a, b, output, .. }, panel, k } = self;
        let column = panel * 2 * S::WIDTH;
        // SAFETY: by the caller's contract all reads and writes here lie within their matrices.
        unsafe {
            let mut sums = [[simd.splat(0.0); 2]; R];
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = if k.start == 0 {
                    output.addend(simd, (first + row, column))
                } else {
                    output.load(simd, (first + row, column))
                };
            }
            let (rows, panel) = (a.row(first).add(k.start), b.row(*panel, k.start));
            let next = panel.wrapping_add(b.k() * b.panel_width());
            let prefetch = Prefetch::share::<S>(next, k.len(), first..first + R, a.rows());
            let panel = (panel, 2 * S::WIDTH, k.len());
            microkernel(simd, (rows, a.stride()), panel, prefetch, &mut sums);
            let is_last_block = k.end == b.k();
            for (row, sums) in sums.into_iter().enumerate() {
                if is_last_block {
                    output.finish(simd, (first + row, column), sums);
                } else {
                    output.store(simd, (first + row, column), sums);
                }
            }
        }
    }
}

/// `sums[r][v] += Σ a[r, k] · b[k, v]` over k, in the order of k. Each operand is its address and its stride in values;
/// that of B also has its rows, `depth`.
///
/// # Safety
/// `a` must be valid for `R` rows of `depth` values, `b` for `depth` rows of two vectors.
#[inline(always)]
pub(super) unsafe fn microkernel<S: Simd, const R: usize>(
    simd: S,
    (a, a_stride): (*const f32, usize),
    (b, b_stride, depth): (*const f32, usize, usize),
    mut prefetch: Prefetch,
    sums: &mut [[S::Vector; 2]; R],
) {
    let whole = depth / Prefetch::STEP * Prefetch::STEP;
    for start in (0..whole).step_by(Prefetch::STEP) {
        prefetch.step(simd);
        // SAFETY: by the caller's contract.
        unsafe { multiply(simd, (a, a_stride), (b, b_stride), start..start + Prefetch::STEP, sums) };
    }
    // SAFETY: by the caller's contract.
    unsafe { multiply(simd, (a, a_stride), (b, b_stride), whole..depth, sums) };
}

/// The part of [`microkernel`] for a range of k, with its contract.
#[inline(always)]
unsafe fn multiply<S: Simd, const R: usize>(
    simd: S,
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    range: Range<usize>,
    sums: &mut [[S::Vector; 2]; R],
) {
    for k in range {
        // SAFETY: by the caller's contract.
        unsafe {
            let b = b.add(k * b_stride);
            let (low, high) = (simd.load(b), simd.load(b.add(S::WIDTH)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = simd.splat(*a.add(row * a_stride + k));
                sums[0] = simd.mul_add(value, low, sums[0]);
                sums[1] = simd.mul_add(value, high, sums[1]);
            }
        }
    }
}
