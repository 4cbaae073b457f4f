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
    vector::{Floats, load, store},
};
use crate::{buffer::Buffer, matrix::Matrix};

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
    /// `out += left · right`, 384 inputs at a time.
    ///
    /// # Safety
    /// Nobody else may access the panels' columns of `out`, nor write `left`.
    ///
    /// # Panics
    /// When a size does not fit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn add(&self, tiles: &Tiles, out: Matrix) {
        assert!(out.columns() >= self.right.columns() && out.rows() >= self.rows);
        // Not by beginning the tiles' sums with what is there: loading that would hold up the first products, and vectors
        // have nothing else to do here.
        let then = |panel: usize, row: usize, values: [Floats; 2]| {
            let place = out.row(row).wrapping_add(panel * UNIT).cast::<[[f32; TILE]; 2]>();
            // SAFETY: the row and the panel's 32 columns exist, as was checked, and are the caller's.
            let place = unsafe { &mut *place };
            for (place, values) in place.iter_mut().zip(values) {
                let sums = _mm512_add_ps(load(place), values);
                store(place, sums);
            }
        };
        // SAFETY: by the caller's promise.
        unsafe { self.compute(tiles, None, then) }
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
        // SAFETY: by the caller's promise.
        unsafe { self.compute(tiles, Some(sums.matrix()), then) }
    }

    /// Hands each row of a block to `then` when it is complete. `waiting` is where the sums of a group wait for the next
    /// inputs, one panel at a time: a group's rows, and 32 columns. Without it nothing waits, and each pass over the
    /// inputs hands on its own sums.
    ///
    /// # Safety
    /// Nobody else may access `waiting`, nor write `left`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn compute(
        &self,
        tiles: &Tiles,
        waiting: Option<Matrix>,
        then: impl FnMut(usize, usize, [Floats; 2]),
    ) {
        assert!(self.left.depth() == self.inputs.len() && self.left.rows() >= self.rows);
        assert!(self.panels.end <= self.right.panels() && self.inputs.end <= self.right.depth());
        // SAFETY: by the caller's promise, and the sizes were checked.
        unsafe {
            if self.rows > 2 * TILE {
                self.stream::<false>(tiles, waiting, then);
            } else {
                // Each panel is used once.
                self.stream::<true>(tiles, waiting, then);
            }
        }
    }

    /// # Safety
    /// As [`compute`](Self::compute), and the sizes must fit together.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn stream<const STREAM: bool>(
        &self,
        tiles: &Tiles,
        waiting: Option<Matrix>,
        mut then: impl FnMut(usize, usize, [Floats; 2]),
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
                        let begin = match waiting {
                            Some(sums) if !begins => Begin::Load(sums, (tile - group) * TILE),
                            _ => Begin::Zero,
                        };
                        let step = || {
                            for _ in 0..ahead {
                                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                                next = next.wrapping_add(64);
                            }
                            finished.hand_on(&block, rows, &mut then);
                        };
                        let place = Place { panel, tile, inputs: inputs.clone(), begin };
                        let pair = tile + 1 < end;
                        // SAFETY: the tiles exist, and so do their sums; by the caller's promise nobody else
                        // accesses those. `block` has been handed on: there were enough steps for its rows.
                        unsafe {
                            match pair {
                                true => self.sum::<true, STREAM>(tiles, place, step),
                                false => self.sum::<false, STREAM>(tiles, place, step),
                            }
                            let (to, stride) = match waiting {
                                Some(sums) if !ends => (sums.row((tile - group) * TILE), sums.stride()),
                                _ => (block.0.as_mut_ptr().cast(), UNIT),
                            };
                            match pair {
                                true => tiles.store::<true>(to, stride),
                                false => tiles.store::<false>(to, stride),
                            }
                        }
                        if ends || waiting.is_none() {
                            let row = tile * TILE;
                            let end = self.rows.min(end * TILE).min(row + 2 * TILE);
                            finished = Finished { panel, row, rows: 0..end - row };
                        }
                    }
                }
            }
        }
        finished.hand_on(&block, 2 * TILE, &mut then);
    }

    /// Adds one block's products to its sums, and leaves them in the tiles. Calls `step` after each instruction's
    /// inputs.
    ///
    /// # Safety
    /// The panel, the tile and, if `PAIR`, the one after it must exist, and as many rows where the sums begin.
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
                Begin::Load(sums, row) => tiles.load::<PAIR>(sums.row(row), sums.stride()),
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
    begin: Begin,
}

/// What a block's sums begin with.
#[derive(Clone, Copy)]
enum Begin {
    Zero,
    /// With what is stored from this row on.
    Load(Matrix, usize),
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
