//! Memory layout of activations, as the tile instructions read them.
//!
//! All bf16 activations consist of cache lines with 32 values of one token. A matrix that becomes A of a GEMM has its
//! lines in the order of its tiles, so that a tile is 1 KiB of contiguous memory:
//!
//! ```text
//!   token   columns 0–31   32–63   …            line of (token t, columns 32·k to 32·k + 31):
//!     0    ┌ line 0      ┌ line 16
//!     1    │ line 1      │ line 17               (t / 16 · k_blocks + k) · 16 + t mod 16
//!     …    │ …           │ …
//!    15    └ line 15     └ line 31              with `k_blocks` tiles side by side
//!    16      line 16·k_blocks …
//! ```
//!
//! Queries, keys and values are stored in column blocks instead: 32 columns of one head, with the lines of all tokens
//! one after the other. A sequence's lines are contiguous wherever it begins, and any 16 of them are a tile.

use super::tile::{K_BLOCK, TILE};
use crate::buffer::Buffer;

/// 32 values of bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct CacheLine(pub(super) [u16; K_BLOCK]);

impl CacheLine {
    /// Number of f32 of a [`Buffer`] that it takes.
    pub(super) const VALUES: usize = size_of::<Self>() / size_of::<f32>();
}

/// Consecutive lines of a buffer that several threads share. Copies may go to other threads; the code that makes one is
/// responsible for which thread writes where.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineSpan {
    start: *mut CacheLine,
    count: usize,
}

impl LineSpan {
    /// `count` lines of the buffer, from line `first` on.
    ///
    /// # Panics
    /// If they do not lie within the buffer.
    pub(super) fn of(buffer: &Buffer, first: usize, count: usize) -> Self {
        let available = buffer.len() / CacheLine::VALUES;
        assert!(first + count <= available, "lines {first} to {} of {available}", first + count);
        // The buffer is aligned to a line.
        Self { start: buffer.pointer().cast::<CacheLine>().wrapping_add(first), count }
    }

    /// `count` of these lines, from line `first` on.
    ///
    /// # Panics
    /// If there are fewer.
    pub(super) fn subspan(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.count, "lines {first} to {} of {}", first + count, self.count);
        Self { start: self.start.wrapping_add(first), count }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Address of a line; valid for any index below `count`.
    #[inline(always)]
    pub(super) fn line(&self, index: usize) -> *mut CacheLine {
        debug_assert!(index < self.count, "line {index} of {}", self.count);
        self.start.wrapping_add(index)
    }
}

/// Matrix A of a GEMM: `[rows, 32 · k_blocks]` in tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct TiledMatrix {
    lines: LineSpan,
    rows: usize,
    k_blocks: usize,
}

impl TiledMatrix {
    /// Number of lines that it takes.
    pub(super) fn lines(rows: usize, k_blocks: usize) -> usize {
        rows.next_multiple_of(TILE) * k_blocks
    }

    /// A view of the buffer's first lines.
    ///
    /// # Panics
    /// If the buffer is too small.
    pub(super) fn of(buffer: &Buffer, rows: usize, k_blocks: usize) -> Self {
        let rows = rows.next_multiple_of(TILE);
        Self { lines: LineSpan::of(buffer, 0, Self::lines(rows, k_blocks)), rows, k_blocks }
    }

    /// `count` rows from row `first` on, which must be the first row of a tile.
    ///
    /// # Panics
    /// If there are fewer, or `first` is within a tile.
    pub(super) fn rows_from(self, first: usize, count: usize) -> Self {
        assert!(first.is_multiple_of(TILE), "row {first} is within a tile");
        let lines = self.lines.subspan(first * self.k_blocks, Self::lines(count, self.k_blocks));
        Self { lines, rows: count.next_multiple_of(TILE), ..self }
    }

    /// The memory of the first lines as a matrix of another shape.
    ///
    /// # Panics
    /// If that takes more lines.
    pub(super) fn reshape(self, rows: usize, k_blocks: usize) -> Self {
        let lines = self.lines.subspan(0, Self::lines(rows, k_blocks));
        Self { lines, rows: rows.next_multiple_of(TILE), k_blocks }
    }

    /// Rows, a multiple of 16.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Tiles side by side.
    pub(super) fn k_blocks(&self) -> usize {
        self.k_blocks
    }

    /// The line of a row's columns from 32 · `k` on; for the first row of a tile, the whole tile.
    #[inline(always)]
    pub(super) fn line(&self, row: usize, k: usize) -> *mut CacheLine {
        debug_assert!(row < self.rows && k < self.k_blocks);
        self.lines.line((row / TILE * self.k_blocks + k) * TILE + row % TILE)
    }
}

/// Queries, keys and values, in column blocks: `[blocks, rows]` lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct QkvBlocks {
    lines: LineSpan,
    rows: usize,
}

/// Lines after the last row of a column block. Tiles of the last sequence extend beyond its end; the values that they
/// read there do not matter, but the memory must be valid.
const SLACK: usize = 2 * TILE;

impl QkvBlocks {
    /// Number of lines that they take.
    pub(super) fn lines(blocks: usize, rows: usize) -> usize {
        blocks * (rows + SLACK)
    }

    /// A view of the buffer's first lines.
    ///
    /// # Panics
    /// If the buffer is too small.
    pub(super) fn of(buffer: &Buffer, blocks: usize, rows: usize) -> Self {
        Self { lines: LineSpan::of(buffer, 0, Self::lines(blocks, rows)), rows }
    }

    /// The line of a row in a column block.
    #[inline(always)]
    pub(super) fn line(&self, block: usize, row: usize) -> *mut CacheLine {
        debug_assert!(row < self.rows);
        self.lines.line(block * (self.rows + SLACK) + row)
    }

    /// A sequence's lines in a column block, followed by enough lines for whole tiles.
    ///
    /// # Panics
    /// If there is no such block, or no such rows.
    pub(super) fn sequence(&self, block: usize, first: usize, rows: usize) -> LineSpan {
        assert!(first + rows <= self.rows, "rows {first} to {} of {}", first + rows, self.rows);
        self.lines.subspan(block * (self.rows + SLACK) + first, rows + SLACK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tile_is_sixteen_contiguous_lines() {
        let buffer = Buffer::zeroed(TiledMatrix::lines(20, 3) * CacheLine::VALUES);
        let tiled = TiledMatrix::of(&buffer, 20, 3);
        assert_eq!((tiled.rows(), tiled.k_blocks()), (32, 3));
        let index = |row, k| (tiled.line(row, k).addr() - buffer.pointer().addr()) / size_of::<CacheLine>();
        assert_eq!([index(0, 0), index(15, 0), index(0, 1), index(16, 0), index(17, 2)], [0, 15, 16, 48, 81]);
        let lower = tiled.rows_from(16, 3);
        assert_eq!((lower.rows(), lower.line(1, 2)), (16, tiled.line(17, 2)));
        let reshaped = tiled.reshape(30, 2);
        assert_eq!((reshaped.rows(), reshaped.k_blocks()), (32, 2));
        assert_eq!(reshaped.line(16, 0), tiled.line(0, 2));
    }

    #[test]
    fn views_out_of_bounds_panic() {
        let buffer = Buffer::zeroed(64 * CacheLine::VALUES);
        let panics = |make: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).is_err();
        assert!(panics(&|| _ = LineSpan::of(&buffer, 1, 64)));
        assert!(panics(&|| _ = LineSpan::of(&buffer, 0, 64).subspan(60, 5)));
        assert!(panics(&|| _ = TiledMatrix::of(&buffer, 17, 3)));
        let tiled = TiledMatrix::of(&buffer, 20, 2);
        assert!(panics(&|| _ = tiled.rows_from(16, 17)));
        assert!(panics(&|| _ = tiled.rows_from(4, 1)));
        assert!(panics(&|| _ = tiled.reshape(33, 2)));
        assert!(panics(&|| _ = QkvBlocks::of(&buffer, 2, 1)));
        let qkv = QkvBlocks::of(&buffer, 1, 32);
        assert!(panics(&|| _ = qkv.sequence(0, 30, 3)));
        assert!(panics(&|| _ = qkv.sequence(1, 0, 1)));
        assert_eq!(qkv.sequence(0, 30, 2).count(), 34);
    }

    proptest! {
        #[test]
        fn no_two_lines_overlap(rows in 1usize..70, k_blocks in 1usize..9, blocks in 1usize..9) {
            let count = TiledMatrix::lines(rows, k_blocks).max(QkvBlocks::lines(blocks, rows));
            let buffer = Buffer::zeroed(count * CacheLine::VALUES);
            let (tiled, qkv) = (TiledMatrix::of(&buffer, rows, k_blocks), QkvBlocks::of(&buffer, blocks, rows));
            let distinct = |mut lines: Vec<*mut CacheLine>| {
                let count = lines.len();
                lines.sort_unstable();
                lines.dedup();
                lines.len() == count
            };
            let pairs = |across: usize| (0..rows).flat_map(move |row| (0..across).map(move |k| (row, k)));
            prop_assert!(distinct(pairs(k_blocks).map(|(row, k)| tiled.line(row, k)).collect()));
            prop_assert!(distinct(pairs(blocks).map(|(row, block)| qkv.line(block, row)).collect()));
        }
    }
}
