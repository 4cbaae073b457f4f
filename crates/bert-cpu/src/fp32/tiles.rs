//! Division of rows into register tiles; the kernel is compiled for each tile height.

use crate::simd::Simd;

/// Maximum of [`Simd::MR`] over all instruction sets.
pub(crate) const MR_MAX: usize = 14;

/// Minimum rows of the last tile. Fewer rows take as long as this many: a fused multiply-add has a latency of four
/// cycles, in which eight can start, and a row has two.
const MR_TAIL: usize = 4;

/// A kernel that computes some rows at a time.
pub(crate) trait RowTileKernel<S: Simd> {
    /// Computes `R` rows from row `row` on.
    ///
    /// # Safety
    /// The rows must exist, and no other code may access the written values.
    unsafe fn run<const R: usize>(&self, simd: S, row: usize);
}

/// Computes `rows` rows, in one tile if they fit. Otherwise in tiles of MR rows, of which the first waits for B from
/// memory and so computes as much as possible meanwhile; the last two tiles split their rows if the last would have
/// less than [`MR_TAIL`].
///
/// # Safety
/// As for [`RowTileKernel::run`], for all rows.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd>(simd: S, rows: usize, kernel: &impl RowTileKernel<S>) {
    const { assert!(MR_TAIL < S::MR && S::MR <= MR_MAX) };
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        let height = if left <= S::MR { left } else { S::MR.min(left - MR_TAIL) };
        // SAFETY: that many rows are left. The guards are constants: an instruction set compiles only its own heights.
        unsafe {
            match height {
                1 => kernel.run::<1>(simd, row),
                2 => kernel.run::<2>(simd, row),
                3 => kernel.run::<3>(simd, row),
                4 => kernel.run::<4>(simd, row),
                5 => kernel.run::<5>(simd, row),
                6 => kernel.run::<6>(simd, row),
                7 if S::MR >= 7 => kernel.run::<7>(simd, row),
                8 if S::MR >= 8 => kernel.run::<8>(simd, row),
                9 if S::MR >= 9 => kernel.run::<9>(simd, row),
                10 if S::MR >= 10 => kernel.run::<10>(simd, row),
                11 if S::MR >= 11 => kernel.run::<11>(simd, row),
                12 if S::MR >= 12 => kernel.run::<12>(simd, row),
                13 if S::MR >= 13 => kernel.run::<13>(simd, row),
                14 if S::MR >= 14 => kernel.run::<14>(simd, row),
                _ => unreachable!("no tile has {height} rows"),
            }
        }
        row += height;
    }
}
