//! The GEMM: nearly all of the run time.
//!
//! An accumulator tile of 32 × 32 f32 stays in four tile registers while one loop over K adds to it. A panel of weights
//! stays in the L1d cache while it is multiplied with MC tiles of rows; these rows stay in the L2 cache while they are
//! multiplied with all panels. The epilogue of a finished tile (bias, activation, rounding) is vector code. It runs a
//! few rows at a time between the tile instructions of the next tile, so that neither unit waits for the other.

use std::{arch::x86_64::*, ops::Range};

use super::{
    layout::TiledMatrix,
    pack::AmxPackedB,
    tile::{NR, TILE, Tiles},
    vector::{Floats, load, store},
};
use crate::{buffer::ScratchBuffer, matrix::Matrix};

/// K of one pass over the rows, in blocks of 32: 24 KiB of a panel, half of an L1d cache of 48 KiB.
pub(super) const KC: usize = 12;

/// Rows of one pass over the panels, in tiles: 240 KiB with a K of 384, 960 KiB with a K of 1536.
pub(super) const MC: usize = 20;

/// `a · b`, for a range of panels and a range of blocks of K of `b`.
pub(super) struct AmxGemm<'p> {
    /// `[rows, K]`: activations.
    pub(super) a: TiledMatrix,
    /// Rows that have results; the rest of the last tile is computed and dropped.
    pub(super) rows: usize,
    /// `[K, columns]`: weights.
    pub(super) b: &'p AmxPackedB,
    /// Blocks of K of `b` that the columns of `a` belong to.
    pub(super) k: Range<usize>,
    pub(super) panels: Range<usize>,
}

/// Splits a range into parts of at most `max`, as equal as possible, in order.
pub(super) fn split_evenly(range: Range<usize>, max: usize) -> impl Iterator<Item = Range<usize>> {
    let (start, len) = (range.start, range.len());
    let parts = len.div_ceil(max);
    (0..parts).map(move |part| start + len * part / parts..start + len * (part + 1) / parts)
}

/// Results of a finished accumulator tile, on their way from tile registers to vectors.
#[repr(align(64))]
struct AccTile([[[f32; 16]; 2]; 2 * TILE]);

/// Rows of a finished accumulator tile that the epilogue has not seen yet.
#[derive(Default)]
struct PendingEpilogue {
    panel: usize,
    row: usize,
    rows: Range<usize>,
}

/// An accumulator tile and some of its blocks of K.
struct TileTask {
    panel: usize,
    tile: usize,
    k: Range<usize>,
    init: AccInit,
}

/// Initial values of an accumulator tile.
#[derive(Clone, Copy)]
enum AccInit {
    Zero,
    /// The partial sums from this row on.
    Load(Matrix, usize),
}

impl AmxGemm<'_> {
    /// `c += a · b`, KC blocks of K at a time.
    ///
    /// # Safety
    /// No other code may access the panels' columns of `c`, nor write `a`.
    ///
    /// # Panics
    /// If a size does not fit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn accumulate(&self, tiles: &Tiles, c: Matrix) {
        assert!(c.columns() >= self.b.columns() && c.rows() >= self.rows);
        // The epilogue adds the values of `c`. To load them into the accumulators instead would delay the first
        // products, and the vector unit is idle here.
        let epilogue = |panel: usize, row: usize, values: [Floats; 2]| {
            let out = c.row(row).wrapping_add(panel * NR).cast::<[[f32; TILE]; 2]>();
            // SAFETY: the row and the panel's 32 columns exist, as was checked, and are the caller's.
            let out = unsafe { &mut *out };
            for (out, values) in out.iter_mut().zip(values) {
                let sums = _mm512_add_ps(load(out), values);
                store(out, sums);
            }
        };
        // SAFETY: by the caller's contract.
        unsafe { self.run(tiles, None, epilogue) }
    }

    /// Passes each row of each panel to `epilogue`: panel, row, and 32 values.
    ///
    /// # Safety
    /// No other code may write `a`.
    ///
    /// # Panics
    /// If a size does not fit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn with_epilogue(
        &self,
        tiles: &Tiles,
        scratch: &mut ScratchBuffer,
        epilogue: impl FnMut(usize, usize, [Floats; 2]),
    ) {
        let partial_sums = Matrix::of(scratch.reserve(MC * TILE * NR), 0, [MC * TILE, NR], NR);
        // SAFETY: by the caller's contract.
        unsafe { self.run(tiles, Some(partial_sums), epilogue) }
    }

    /// Passes each finished row of an accumulator tile to `epilogue`. `partial_sums` keeps the accumulators of MC tiles
    /// of rows and one panel from one pass over K to the next. Without it, each pass hands its own sums to the
    /// epilogue.
    ///
    /// # Safety
    /// No other code may access `partial_sums`, nor write `a`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn run(
        &self,
        tiles: &Tiles,
        partial_sums: Option<Matrix>,
        epilogue: impl FnMut(usize, usize, [Floats; 2]),
    ) {
        assert!(self.a.k_blocks() == self.k.len() && self.a.rows() >= self.rows);
        assert!(self.panels.end <= self.b.panels() && self.k.end <= self.b.k_blocks());
        // SAFETY: by the caller's contract, and the sizes were checked.
        unsafe {
            if self.rows > 2 * TILE {
                self.run_non_temporal::<false>(tiles, partial_sums, epilogue);
            } else {
                // Each panel is used once.
                self.run_non_temporal::<true>(tiles, partial_sums, epilogue);
            }
        }
    }

    /// `NT_B` selects the operand that is loaded non-temporally: B, or else A.
    ///
    /// # Safety
    /// As [`run`](Self::run), and the sizes must fit together.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn run_non_temporal<const NT_B: bool>(
        &self,
        tiles: &Tiles,
        partial_sums: Option<Matrix>,
        mut epilogue: impl FnMut(usize, usize, [Floats; 2]),
    ) {
        let last = self.rows.div_ceil(TILE);
        let mut acc_tile = AccTile([[[0.0; 16]; 2]; 2 * TILE]);
        let mut pending = PendingEpilogue::default();
        for start in (0..last).step_by(MC) {
            let end = last.min(start + MC);
            for panel in self.panels.clone() {
                for k in split_evenly(self.k.clone(), KC) {
                    let (is_first, is_last) = (k.start == self.k.start, k.end == self.k.end);
                    // The weights of the next pass are prefetched during this one.
                    let mut next = match is_last && panel + 1 < self.b.panels() {
                        true => self.b.block(panel + 1, self.k.start),
                        false => self.b.block(panel, k.end),
                    };
                    let steps = (end - start).div_ceil(2);
                    let prefetches = (k.len() * 32).div_ceil(steps * k.len());
                    let rows = (2 * TILE).div_ceil(k.len());
                    for tile in (start..end).step_by(2) {
                        let init = match partial_sums {
                            Some(sums) if !is_first => AccInit::Load(sums, (tile - start) * TILE),
                            _ => AccInit::Zero,
                        };
                        let between_tiles = || {
                            for _ in 0..prefetches {
                                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                                next = next.wrapping_add(64);
                            }
                            pending.flush(&acc_tile, rows, &mut epilogue);
                        };
                        let task = TileTask { panel, tile, k: k.clone(), init };
                        let pair = tile + 1 < end;
                        // SAFETY: the tiles exist, and so do their partial sums; by the caller's contract no other
                        // code accesses those. `acc_tile` is flushed: there were enough steps for its rows.
                        unsafe {
                            match pair {
                                true => self.multiply::<true, NT_B>(tiles, task, between_tiles),
                                false => self.multiply::<false, NT_B>(tiles, task, between_tiles),
                            }
                            let (to, stride) = match partial_sums {
                                Some(sums) if !is_last => (sums.row((tile - start) * TILE), sums.stride()),
                                _ => (acc_tile.0.as_mut_ptr().cast(), NR),
                            };
                            match pair {
                                true => tiles.store::<true>(to, stride),
                                false => tiles.store::<false>(to, stride),
                            }
                        }
                        if is_last || partial_sums.is_none() {
                            let row = tile * TILE;
                            let end = self.rows.min(end * TILE).min(row + 2 * TILE);
                            pending = PendingEpilogue { panel, row, rows: 0..end - row };
                        }
                    }
                }
            }
        }
        pending.flush(&acc_tile, 2 * TILE, &mut epilogue);
    }

    /// Leaves the products of one accumulator tile, added to its initial values, in the tile registers. Calls
    /// `between_tiles` after each block of K.
    ///
    /// # Safety
    /// The panel, the tile and, if `PAIR`, the tile after it must exist, and the rows of the initial values.
    #[inline(always)]
    unsafe fn multiply<const PAIR: bool, const NT_B: bool>(
        &self,
        tiles: &Tiles,
        task: TileTask,
        mut between_tiles: impl FnMut(),
    ) {
        let row = task.tile * TILE;
        // SAFETY: by the caller's contract; a tile of A is 1 KiB, a block of a panel 2 KiB.
        unsafe {
            match task.init {
                AccInit::Zero => tiles.clear::<PAIR>(),
                AccInit::Load(sums, row) => tiles.load::<PAIR>(sums.row(row), sums.stride()),
            }
            for k in task.k {
                let a_k = k - self.k.start;
                let a_upper = self.a.line(row, a_k).cast_const();
                let a_lower = if PAIR { self.a.line(row + TILE, a_k).cast_const() } else { a_upper };
                let b = self.b.block(task.panel, k);
                tiles.multiply::<PAIR, NT_B>(a_upper.cast(), a_lower.cast(), b);
                between_tiles();
            }
        }
    }
}

impl PendingEpilogue {
    /// Passes the next `count` rows to `epilogue`, or all that are left.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn flush(&mut self, tile: &AccTile, count: usize, epilogue: &mut impl FnMut(usize, usize, [Floats; 2])) {
        for index in self.rows.by_ref().take(count) {
            let [low, high] = &tile.0[index];
            epilogue(self.panel, self.row + index, [load(low), load(high)]);
        }
    }
}
