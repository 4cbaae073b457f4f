//! The GEMM: nearly all of the run time.
//!
//! A register tile of the result, up to MR rows of two vectors, is accumulated over K by the micro-kernel. A panel of
//! packed B stays in the L1d cache while all rows of A pass over it, and KC columns of A stay in the L2 cache while all
//! panels do. A value of the result is always the same sum in the same order, whatever the other rows.

use std::ops::Range;

use super::{
    output::Output,
    pack::PackedB,
    tiles::{self, RowTileKernel},
};
use crate::{
    matrix::Matrix,
    simd::{Simd, WithSimd},
};

/// K of one block. A panel of KC rows and two vectors takes 24 KiB (AVX2) or 48 KiB (AVX-512), about the L1d cache of
/// CPUs with each, and 12 KiB with NEON.
const KC: usize = 384;

/// Prefetch distance in a panel: one page of 4 KiB, since the hardware prefetcher stops at page boundaries. On a Xeon
/// this lowers the latency of a single short text by 10 % (AVX-512) to 33 % (AVX2); 1 KiB gives half of that, 8 KiB no
/// more (`embedgate model bench --threads 1`).
pub(crate) const PREFETCH_BYTES: usize = 4096;

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
        for start in (0..b.k()).step_by(KC) {
            let k = start..b.k().min(start + KC);
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
            microkernel(simd, (rows, a.stride()), (panel, 2 * S::WIDTH), k.len(), &mut sums);
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

/// `sums[r][v] += Σ a[r, k] · b[k, v]` over k, in the order of k. Each operand is its address and its stride in values.
///
/// # Safety
/// `a` must be valid for `R` rows of `depth` values, `b` for `depth` rows of two vectors.
#[inline(always)]
pub(super) unsafe fn microkernel<S: Simd, const R: usize>(
    simd: S,
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    depth: usize,
    sums: &mut [[S::Vector; 2]; R],
) {
    let prefetch_distance = PREFETCH_BYTES / size_of::<[S::Vector; 2]>() * b_stride;
    for k in 0..depth {
        // SAFETY: by the caller's contract.
        unsafe {
            let b = b.add(k * b_stride);
            simd.prefetch(b.wrapping_add(prefetch_distance));
            let (low, high) = (simd.load(b), simd.load(b.add(S::WIDTH)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = simd.splat(*a.add(row * a_stride + k));
                sums[0] = simd.mul_add(value, low, sums[0]);
                sums[1] = simd.mul_add(value, high, sums[1]);
            }
        }
    }
}
