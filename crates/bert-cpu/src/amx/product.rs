//! The matrix product: where nearly all the time goes.
//!
//! A block of 32 × 32 sums stays in four tile registers while one loop over the inputs adds to it. A panel of the
//! weights stays in the first-level cache while the rows of a group pass over it; the rows of a group stay in the
//! second-level cache while all panels do. What becomes of a finished block (bias, activation, rounding) is
//! vector work; it is done a few rows at a time between the tile instructions of the next block, so that neither
//! unit waits for the other.

use std::{arch::x86_64::*, ops::Range};

use super::{
    layout::Tiled,
    pack::Panels,
    tile::{TILE, Tiles, UNIT},
    vector::{Floats, load},
};
use crate::{matrix::Matrix, memory::Buffer};

/// Inputs of one pass over the rows, in units of 32: 24 KiB of a panel, half a first-level cache.
pub(super) const DEPTH: usize = 12;

/// Rows that pass over the panels together, in tiles: in a group, 384 inputs are 240 KiB, and 1536 are 960 KiB.
pub(super) const GROUP: usize = 20;

/// `left · right`, in some panels of `right`, over some of its inputs.
pub(super) struct Product<'p> {
    /// `[rows, inputs]`.
    pub(super) left: Tiled,
    /// Rows that matter; those after them, up to a whole tile, are computed for nobody.
    pub(super) rows: usize,
    pub(super) right: &'p Panels,
    /// Which inputs of `right` those of `left` are, in units of 32.
    pub(super) inputs: Range<usize>,
    pub(super) panels: Range<usize>,
}

/// Shares of at most `most` of `range`, as equal as can be; in order.
pub(super) fn shares(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let (start, count) = (range.start, range.len());
    let shares = count.div_ceil(most);
    (0..shares).map(move |share| start + count * share / shares..start + count * (share + 1) / shares)
}

/// Where the sums of a group wait for the next inputs: memory of one thread.
#[derive(Default)]
pub(super) struct Sums(Option<Buffer>);

impl Sums {
    fn matrix(&mut self) -> Matrix {
        let buffer = self.0.get_or_insert_with(|| Buffer::zeroed(GROUP * TILE * UNIT));
        Matrix::of(buffer, 0, [GROUP * TILE, UNIT], UNIT)
    }
}

/// What becomes of the sums.
enum Then<F> {
    /// They are what was in this matrix before, and go back into it.
    Add(Matrix),
    /// They begin at zero and may wait in this matrix, one group and one panel at a time; each row of a block is
    /// handed on when complete: panel, row, and its 32 values.
    Hand(Matrix, F),
}

/// A finished block whose rows are still to be handed on.
#[derive(Default)]
struct Finished {
    panel: usize,
    row: usize,
    rows: Range<usize>,
}

/// A block's sums, on their way from the tiles to vectors.
#[repr(align(64))]
struct Block([[[f32; 16]; 2]; 2 * TILE]);

impl Product<'_> {
    /// `out += left · right`.
    ///
    /// # Safety
    /// Nobody else may access the panels' columns of `out`, nor write `left`.
    ///
    /// # Panics
    /// When a size does not fit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn add(&self, tiles: &Tiles, out: Matrix) {
        assert!(out.columns() >= self.right.columns() && out.rows() >= self.rows.next_multiple_of(TILE));
        // SAFETY: by the caller's promise; the sizes were checked.
        unsafe { self.compute(tiles, Then::<fn(usize, usize, [Floats; 2])>::Add(out)) }
    }

    /// Hands each row of each panel to `then`: panel, row, and 32 values.
    ///
    /// # Safety
    /// Nobody else may write `left`.
    ///
    /// # Panics
    /// When a size does not fit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn each(
        &self,
        tiles: &Tiles,
        sums: &mut Sums,
        then: impl FnMut(usize, usize, [Floats; 2]),
    ) {
        // SAFETY: by the caller's promise; the sums have a row for each of a group, and 32 columns.
        unsafe { self.compute(tiles, Then::Hand(sums.matrix(), then)) }
    }

    /// # Safety
    /// Nobody else may access the panels' columns of the matrix in `then`, nor write `left`. Where sums are added
    /// to the matrix, it must have every column of `right` and every row of `left`'s tiles; otherwise a group's
    /// rows and 32 columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn compute<F: FnMut(usize, usize, [Floats; 2])>(&self, tiles: &Tiles, then: Then<F>) {
        assert!(self.left.depth() == self.inputs.len() && self.left.rows() >= self.rows);
        assert!(self.panels.end <= self.right.panels() && self.inputs.end <= self.right.depth());
        // SAFETY: by the caller's promise, and the sizes were checked.
        unsafe {
            if self.rows > 2 * TILE {
                self.stream::<F, false>(tiles, then);
            } else {
                // Each panel is used once.
                self.stream::<F, true>(tiles, then);
            }
        }
    }

    /// # Safety
    /// As [`compute`](Self::compute), and the sizes must fit together.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn stream<F: FnMut(usize, usize, [Floats; 2]), const STREAM: bool>(
        &self,
        tiles: &Tiles,
        mut then: Then<F>,
    ) {
        let last = self.rows.div_ceil(TILE);
        let mut block = Block([[[0.0; 16]; 2]; 2 * TILE]);
        let mut finished = Finished::default();
        for group in (0..last).step_by(GROUP) {
            let end = last.min(group + GROUP);
            for panel in self.panels.clone() {
                for inputs in shares(self.inputs.clone(), DEPTH) {
                    let (begins, ends) = (inputs.start == self.inputs.start, inputs.end == self.inputs.end);
                    // The weights of the next pass are fetched during this one's steps.
                    let mut next = match ends && panel + 1 < self.right.panels() {
                        true => self.right.at(panel + 1, self.inputs.start),
                        false => self.right.at(panel, inputs.end),
                    };
                    let steps = (end - group).div_ceil(2);
                    let ahead = (inputs.len() * 32).div_ceil(steps * inputs.len());
                    let rows = (2 * TILE).div_ceil(inputs.len());
                    for tile in (group..end).step_by(2) {
                        let (sums, stride, begin) = match &then {
                            Then::Add(out) => {
                                let sums = out.row(tile * TILE).wrapping_add(panel * UNIT);
                                (sums, out.stride(), Begin::Load)
                            }
                            Then::Hand(sums, _) => {
                                let begin = if begins { Begin::Zero } else { Begin::Load };
                                (sums.row((tile - group) * TILE), sums.stride(), begin)
                            }
                        };
                        let complete = ends && matches!(then, Then::Hand(..));
                        let step = || {
                            for _ in 0..ahead {
                                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                                next = next.wrapping_add(64);
                            }
                            if let Then::Hand(_, hand) = &mut then {
                                finished.hand_on(&block, rows, hand);
                            }
                        };
                        let place = Place { panel, tile, inputs: inputs.clone(), sums, stride, begin };
                        // SAFETY: the tiles exist, and so do their sums; by the caller's promise nobody else
                        // accesses those. `block` has been handed on: there were enough steps for its rows.
                        unsafe {
                            if tile + 1 < end {
                                self.sum::<true, STREAM>(tiles, place, step);
                                match complete {
                                    true => tiles.store::<true>(block.0.as_mut_ptr().cast(), UNIT),
                                    false => tiles.store::<true>(sums, stride),
                                }
                            } else {
                                self.sum::<false, STREAM>(tiles, place, step);
                                match complete {
                                    true => tiles.store::<false>(block.0.as_mut_ptr().cast(), UNIT),
                                    false => tiles.store::<false>(sums, stride),
                                }
                            }
                        }
                        if complete {
                            let row = tile * TILE;
                            let end = self.rows.min(end * TILE).min(row + 2 * TILE);
                            finished = Finished { panel, row, rows: 0..end - row };
                        }
                    }
                }
            }
        }
        if let Then::Hand(_, hand) = &mut then {
            finished.hand_on(&block, 2 * TILE, hand);
        }
    }

    /// Adds one block's products to its sums, and leaves them in the tiles. Calls `step` after each instruction's
    /// inputs.
    ///
    /// # Safety
    /// The panel, the tile and, if `PAIR`, the one after it must exist, and the sums be valid for as many rows
    /// and 32 columns.
    #[inline(always)]
    unsafe fn sum<const PAIR: bool, const STREAM: bool>(
        &self,
        tiles: &Tiles,
        place: Place,
        mut step: impl FnMut(),
    ) {
        let row = place.tile * TILE;
        // SAFETY: by the caller's promise; a tile of `left` is 1 KiB, 32 inputs of a panel are 2 KiB.
        unsafe {
            match place.begin {
                Begin::Zero => tiles.clear::<PAIR>(),
                Begin::Load => tiles.load::<PAIR>(place.sums, place.stride),
            }
            for k in place.inputs {
                let left = k - self.inputs.start;
                let upper = self.left.line(row, left).cast_const();
                let lower = if PAIR { self.left.line(row + TILE, left).cast_const() } else { upper };
                let right = self.right.at(place.panel, k);
                tiles.multiply::<PAIR, STREAM>(upper.cast(), lower.cast(), right);
                step();
            }
        }
    }
}

/// One block of the product, and some of its inputs.
struct Place {
    panel: usize,
    tile: usize,
    /// In units of 32.
    inputs: Range<usize>,
    sums: *mut f32,
    stride: usize,
    begin: Begin,
}

/// What a block's sums begin with.
#[derive(Clone, Copy)]
enum Begin {
    Zero,
    /// With what is stored.
    Load,
}

impl Finished {
    /// Hands on the next `count` rows, or as many as there still are.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn hand_on(&mut self, block: &Block, count: usize, then: &mut impl FnMut(usize, usize, [Floats; 2])) {
        for index in self.rows.by_ref().take(count) {
            let [low, high] = &block.0[index];
            then(self.panel, self.row + index, [load(low), load(high)]);
        }
    }
}
