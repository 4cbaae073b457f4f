//! The GEMM of rounded operands.
//!
//! As in `fp32`, a register tile of the result is accumulated by the micro-kernel while a panel of B passes over the
//! rows of A. K is not divided into blocks: rounded rows take a fourth or half of the memory, so a panel comes from the
//! L2 cache at worst, and sums of integers need not leave the registers.

use std::ops::Range;

use super::{GroupDot, HEADER, WithGroupDot, pack::RoundedB};
use crate::{
    fp32::{
        output::{Epilogue, Output},
        prefetch::Prefetch,
        tiles::{self, RowTileKernel},
    },
    matrix::Matrix,
    simd::Simd,
};

/// `c = epilogue(a · b + bias)`.
pub(super) struct RoundedGemm<'p, W> {
    /// `[rows, header and groups]`: activations.
    pub(super) a: Matrix,
    /// `[K, columns]`: weights.
    pub(super) b: &'p RoundedB<W>,
    /// Panels of `b` to compute.
    pub(super) panels: Range<usize>,
    pub(super) output: Output<'p>,
}

impl<D: GroupDot> WithGroupDot<D> for RoundedGemm<'_, D::Weight> {
    #[inline(always)]
    fn with_dot(self, dot: D) {
        let Self { a, b, panels, output } = &self;
        assert_eq!(b.panel_width(), 2 * D::Simd::WIDTH, "B is packed for another instruction set");
        assert!(a.columns() >= HEADER + b.groups());
        assert!(matches!(output.epilogue, Epilogue::Gate(..)) || output.c.columns() >= b.columns());
        assert!(output.c.rows() == a.rows() && panels.end * b.panel_width() <= b.columns());
        output.assert_fits(a.rows(), b.columns());
        for panel in panels.clone() {
            let kernel = RoundedPanelKernel { dot, gemm: &self, panel };
            // SAFETY: the assertions above check rows, columns and K; no other thread accesses these panels of `c`.
            unsafe { tiles::run(dot.simd(), a.rows(), &kernel) };
        }
    }
}

/// Multiplies all rows with one panel of B.
struct RoundedPanelKernel<'p, D: GroupDot> {
    dot: D,
    gemm: &'p RoundedGemm<'p, D::Weight>,
    panel: usize,
}

impl<D: GroupDot> RowTileKernel<D::Simd> for RoundedPanelKernel<'_, D> {
    #[inline(always)]
    unsafe fn run<const R: usize>(&self, simd: D::Simd, first: usize) {
        let Self { dot, gemm: RoundedGemm { a, b, output, .. }, panel } = self;
        let width = D::Simd::WIDTH;
        let column = panel * 2 * width;
        // SAFETY: by the caller's contract all reads and writes here lie within their matrices.
        unsafe {
            let column_sums = b.column_sums().as_ptr().add(column);
            let mut sums = [[dot.initial(0, column_sums); 2]; R];
            for (row, sums) in sums.iter_mut().enumerate() {
                let zero_point = (*a.row(first + row).add(1)).to_bits() as i32;
                *sums =
                    [dot.initial(zero_point, column_sums), dot.initial(zero_point, column_sums.add(width))];
            }
            let rows = a.row(first).add(HEADER).cast_const();
            let (panel, groups) = (b.panel(*panel), b.groups());
            let next = panel.cast::<f32>().wrapping_add(groups * 2 * width);
            let prefetch = Prefetch::share::<D::Simd>(next, groups, first..first + R, a.rows());
            microkernel(*dot, (rows, a.stride()), (panel, groups), prefetch, &mut sums);
            let column_scales = b.column_scales().as_ptr().add(column);
            for (row, [low, high]) in sums.into_iter().enumerate() {
                let scale = *a.row(first + row);
                let addend = output.addend(simd, (first + row, column));
                let low = dot.finish(low, scale, column_scales, addend[0]);
                let high = dot.finish(high, scale, column_scales.add(width), addend[1]);
                output.finish(simd, (first + row, column), [low, high]);
            }
        }
    }
}

/// `sums[r][v] += Σ a[r, k] · b[k, v]` over the groups k, in their order. The rows of `a` are `stride` words apart.
///
/// # Safety
/// `a` must be valid for `R` rows of `groups` words, `b` for `groups` times two vectors of groups.
#[inline(always)]
unsafe fn microkernel<D: GroupDot, const R: usize>(
    dot: D,
    (a, stride): (*const f32, usize),
    (b, groups): (*const D::Weight, usize),
    mut prefetch: Prefetch,
    sums: &mut [[D::Sums; 2]; R],
) {
    let whole = groups / Prefetch::STEP * Prefetch::STEP;
    for start in (0..whole).step_by(Prefetch::STEP) {
        prefetch.step(dot.simd());
        // SAFETY: by the caller's contract.
        unsafe { multiply(dot, (a, stride), b, start..start + Prefetch::STEP, sums) };
    }
    // SAFETY: by the caller's contract.
    unsafe { multiply(dot, (a, stride), b, whole..groups, sums) };
}

/// The part of [`microkernel`] for a range of groups, with its contract.
#[inline(always)]
unsafe fn multiply<D: GroupDot, const R: usize>(
    dot: D,
    (a, stride): (*const f32, usize),
    b: *const D::Weight,
    range: Range<usize>,
    sums: &mut [[D::Sums; 2]; R],
) {
    let vector = D::Simd::WIDTH * D::GROUP;
    for k in range {
        // SAFETY: by the caller's contract.
        unsafe {
            let b = b.add(k * 2 * vector);
            let (low, high) = (dot.load(b), dot.load(b.add(vector)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let group = dot.broadcast(a.add(row * stride + k));
                sums[0] = dot.dot(sums[0], group, low);
                sums[1] = dot.dot(sums[1], group, high);
            }
        }
    }
}
