//! The GEMM: nearly all of the run time.
//!
//! A register tile of the result, up to MR rows of two vectors, is accumulated over K by the micro-kernel. A panel of
//! packed B stays in the L1d cache while all rows of A pass over it, and KC columns of A stay in the L2 cache while all
//! panels do. A value of the result is always the same sum in the same order, whatever the other rows.

use std::ops::Range;

use encoder_spec::Activation;

use super::{
    math,
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

/// K between two rounds of prefetches.
const PREFETCH_STEP: usize = 16;

/// `c = epilogue(a · b + bias)`.
pub(super) struct Gemm<'p> {
    /// `[rows, K]`: activations.
    pub(super) a: Matrix,
    /// `[K, columns]`: weights.
    pub(super) b: &'p PackedB,
    /// Panels of `b` to compute.
    pub(super) panels: Range<usize>,
    /// A value for each column of `b`.
    pub(super) bias: &'p [f32],
    pub(super) c: Matrix,
    pub(super) epilogue: Epilogue,
}

/// Last step of a GEMM on its result.
#[derive(Debug, Clone, Copy)]
pub(super) enum Epilogue {
    /// Overwrites `c`.
    Store,
    /// Adds to `c`.
    Add,
    /// Overwrites `c` with the activation of the result.
    Activate(Activation),
    /// Writes the activation of each panel's first half, times its second half, to this matrix, which has half as many
    /// columns; `c` holds the sums between two blocks of K.
    Gate(Activation, Matrix),
}

impl WithSimd for Gemm<'_> {
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { a, b, panels, bias, c, .. } = &self;
        assert_eq!(b.panel_width(), 2 * S::WIDTH, "B is packed for another instruction set");
        assert!(a.columns() >= b.k() && bias.len() >= b.columns());
        assert!(c.rows() == a.rows() && c.columns() >= b.columns());
        assert!(panels.end * b.panel_width() <= b.columns());
        if let Epilogue::Gate(_, values) = self.epilogue {
            assert!(values.rows() == c.rows() && 2 * values.columns() >= b.columns());
        }
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

impl RowTileKernel for PanelKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize>(&self, simd: S, first: usize) {
        let Self { gemm, panel, k } = self;
        let column = panel * 2 * S::WIDTH;
        let c = gemm.c.row(first).wrapping_add(column);
        let stride = gemm.c.stride();
        let mut sums = [[simd.splat(0.0); 2]; R];
        // SAFETY: by the caller's contract all reads and writes here lie within their matrices.
        unsafe {
            if k.start == 0 {
                let bias = gemm.bias.as_ptr().add(column);
                let bias = [simd.load(bias), simd.load(bias.add(S::WIDTH))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    *sums = bias;
                    if matches!(gemm.epilogue, Epilogue::Add) {
                        let c = c.add(row * stride);
                        sums[0] = simd.add(sums[0], simd.load(c));
                        sums[1] = simd.add(sums[1], simd.load(c.add(S::WIDTH)));
                    }
                }
            } else {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let c = c.add(row * stride);
                    *sums = [simd.load(c), simd.load(c.add(S::WIDTH))];
                }
            }
            let a = gemm.a.row(first).add(k.start);
            let b = gemm.b.row(*panel, k.start);
            let prefetch = Prefetch::next_panel(gemm, b, first..first + R, k.len());
            microkernel(simd, (a, gemm.a.stride()), (b, 2 * S::WIDTH), k.len(), prefetch, &mut sums);
            let is_last_block = k.end == gemm.b.k();
            for (row, [mut low, mut high]) in sums.into_iter().enumerate() {
                match gemm.epilogue {
                    Epilogue::Activate(activation) if is_last_block => {
                        low = math::activate(simd, activation, low);
                        high = math::activate(simd, activation, high);
                    }
                    Epilogue::Gate(activation, out) if is_last_block => {
                        let product = simd.mul(math::activate(simd, activation, low), high);
                        simd.store(out.row(first + row).add(column / 2), product);
                        continue;
                    }
                    Epilogue::Store | Epilogue::Add | Epilogue::Activate(_) | Epilogue::Gate(..) => {}
                }
                let c = c.add(row * stride);
                simd.store(c, low);
                simd.store(c.add(S::WIDTH), high);
            }
        }
    }
}

/// Rows of B that a tile prefetches while it computes.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    from: *const f32,
    /// Rows in each [`PREFETCH_STEP`].
    rows: usize,
}

impl Prefetch {
    /// B is in the L1d cache.
    pub(super) const NONE: Self = Self { from: std::ptr::null(), rows: 0 };

    /// The share of a tile with these rows of A in the `depth` rows of the panel after `panel`. All tiles together
    /// prefetch it evenly, while they compute with the panel before. On a Zen 3 this lowers the latency of a single
    /// short text by 30 % where the weights exceed the L3 cache, against prefetches 4 KiB ahead in the same panel.
    #[inline(always)]
    fn next_panel(gemm: &Gemm<'_>, panel: *const f32, tile: Range<usize>, depth: usize) -> Self {
        let [start, end] = [tile.start, tile.end].map(|row| row * depth / gemm.a.rows());
        let from = panel.wrapping_add((gemm.b.k() + start) * gemm.b.panel_width());
        Self { from, rows: ((end - start) * PREFETCH_STEP).div_ceil(depth) }
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
    prefetch: Prefetch,
    sums: &mut [[S::Vector; 2]; R],
) {
    let whole = depth / PREFETCH_STEP * PREFETCH_STEP;
    let mut next = prefetch.from;
    for start in (0..whole).step_by(PREFETCH_STEP) {
        for _ in 0..prefetch.rows {
            simd.prefetch(next);
            next = next.wrapping_add(b_stride);
        }
        // SAFETY: by the caller's contract.
        unsafe { multiply(simd, (a, a_stride), (b, b_stride), start..start + PREFETCH_STEP, sums) };
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
