//! Activations in memory, as the tile instructions read them.
//!
//! Everything in bf16 is made of *lines*: 32 values of one token, one cache line. A matrix that will be a left
//! factor has its lines in the order of its tiles, so that a tile is 1 KiB in one piece:
//!
//! ```text
//!   token   inputs 0–31    32–63   …            line of (token t, inputs 32·k to 32·k + 31):
//!     0    ┌ line 0      ┌ line 16
//!     1    │ line 1      │ line 17               (t / 16 · depth + k) · 16 + t mod 16
//!     …    │ …           │ …
//!    15    └ line 15     └ line 31              with `depth` tiles side by side
//!    16      line 16·depth …
//! ```
//!
//! Queries, keys and values lie in *strips* instead, one for 32 columns of one head, with the lines of all tokens
//! one after the other. A sequence's lines are then in one piece wherever it begins, and any 16 of them are a
//! tile.

use super::tile::{TILE, UNIT};
use crate::buffer::Buffer;

/// 32 values of bf16: a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u16; UNIT]);

impl Line {
    /// How many f32 of a [`Buffer`] it takes.
    pub(super) const VALUES: usize = size_of::<Self>() / size_of::<f32>();
}

/// Lines in a buffer that several threads share. Copied freely between threads; whoever makes one answers for who
/// writes where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    start: *mut Line,
    count: usize,
}

impl Lines {
    /// `count` lines of the buffer, from line `first` on.
    ///
    /// # Panics
    /// When they do not lie within the buffer.
    pub(super) fn of(buffer: &Buffer, first: usize, count: usize) -> Self {
        let held = buffer.len() / Line::VALUES;
        assert!(first + count <= held, "lines {first} to {} of {held}", first + count);
        // The buffer is aligned to a line.
        Self { start: buffer.pointer().cast::<Line>().wrapping_add(first), count }
    }

    /// `count` of these lines, from line `first` on.
    ///
    /// # Panics
    /// When there are fewer.
    pub(super) fn part(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.count, "lines {first} to {} of {}", first + count, self.count);
        Self { start: self.start.wrapping_add(first), count }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Where line `index` begins: valid for any below `count`.
    #[inline(always)]
    pub(super) fn at(&self, index: usize) -> *mut Line {
        debug_assert!(index < self.count, "line {index} of {}", self.count);
        self.start.wrapping_add(index)
    }
}

/// A left factor: `[rows, 32 · depth]` in tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiled {
    lines: Lines,
    rows: usize,
    depth: usize,
}

impl Tiled {
    /// Lines that it takes.
    pub(super) fn lines(rows: usize, depth: usize) -> usize {
        rows.next_multiple_of(TILE) * depth
    }

    /// A view of the buffer's beginning.
    ///
    /// # Panics
    /// When the buffer is too small.
    pub(super) fn of(buffer: &Buffer, rows: usize, depth: usize) -> Self {
        let rows = rows.next_multiple_of(TILE);
        Self { lines: Lines::of(buffer, 0, Self::lines(rows, depth)), rows, depth }
    }

    /// Its rows from `first` on, `count` of them; `first` is a tile's first row.
    ///
    /// # Panics
    /// When there are fewer, or `first` is within a tile.
    pub(super) fn rows_from(self, first: usize, count: usize) -> Self {
        assert!(first.is_multiple_of(TILE), "row {first} is within a tile");
        let lines = self.lines.part(first * self.depth, Self::lines(count, self.depth));
        Self { lines, rows: count.next_multiple_of(TILE), ..self }
    }

    /// The memory of the first of its lines as another matrix.
    ///
    /// # Panics
    /// When that takes more lines.
    pub(super) fn recut(self, rows: usize, depth: usize) -> Self {
        let lines = self.lines.part(0, Self::lines(rows, depth));
        Self { lines, rows: rows.next_multiple_of(TILE), depth }
    }

    /// Rows, a multiple of 16.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Tiles side by side.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// The line of a row's inputs 32 · `k` and on; for the first row of a tile, the whole tile.
    #[inline(always)]
    pub(super) fn line(&self, row: usize, k: usize) -> *mut Line {
        debug_assert!(row < self.rows && k < self.depth);
        self.lines.at((row / TILE * self.depth + k) * TILE + row % TILE)
    }
}

/// Queries, keys and values: `[strips, rows]` lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strips {
    lines: Lines,
    rows: usize,
}

/// Lines after a strip's last row. Tiles of the last sequence reach beyond its end; what they read there does not
/// matter, but it must be memory.
const SLACK: usize = 2 * TILE;

impl Strips {
    /// Lines that they take.
    pub(super) fn lines(strips: usize, rows: usize) -> usize {
        strips * (rows + SLACK)
    }

    /// A view of the buffer's beginning.
    ///
    /// # Panics
    /// When the buffer is too small.
    pub(super) fn of(buffer: &Buffer, strips: usize, rows: usize) -> Self {
        Self { lines: Lines::of(buffer, 0, Self::lines(strips, rows)), rows }
    }

    /// The line of a row in a strip.
    #[inline(always)]
    pub(super) fn line(&self, strip: usize, row: usize) -> *mut Line {
        debug_assert!(row < self.rows);
        self.lines.at(strip * (self.rows + SLACK) + row)
    }

    /// A sequence's lines in a strip, and then enough for whole tiles.
    ///
    /// # Panics
    /// When there is no such strip, or no such rows.
    pub(super) fn sequence(&self, strip: usize, first: usize, rows: usize) -> Lines {
        assert!(first + rows <= self.rows, "rows {first} to {} of {}", first + rows, self.rows);
        self.lines.part(strip * (self.rows + SLACK) + first, rows + SLACK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tile_is_sixteen_lines_in_one_piece() {
        let buffer = Buffer::zeroed(Tiled::lines(20, 3) * Line::VALUES);
        let tiled = Tiled::of(&buffer, 20, 3);
        assert_eq!((tiled.rows(), tiled.depth()), (32, 3));
        let index = |row, k| (tiled.line(row, k).addr() - buffer.pointer().addr()) / size_of::<Line>();
        assert_eq!([index(0, 0), index(15, 0), index(0, 1), index(16, 0), index(17, 2)], [0, 15, 16, 48, 81]);
        let lower = tiled.rows_from(16, 3);
        assert_eq!((lower.rows(), lower.line(1, 2)), (16, tiled.line(17, 2)));
        let other = tiled.recut(30, 2);
        assert_eq!((other.rows(), other.depth(), other.line(16, 0)), (32, 2, tiled.line(0, 2)));
    }

    #[test]
    fn out_of_bounds_panics() {
        let buffer = Buffer::zeroed(64 * Line::VALUES);
        let panics = |make: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).is_err();
        assert!(panics(&|| _ = Lines::of(&buffer, 1, 64)));
        assert!(panics(&|| _ = Lines::of(&buffer, 0, 64).part(60, 5)));
        assert!(panics(&|| _ = Tiled::of(&buffer, 17, 3)));
        let tiled = Tiled::of(&buffer, 20, 2);
        assert!(panics(&|| _ = tiled.rows_from(16, 17)));
        assert!(panics(&|| _ = tiled.rows_from(4, 1)));
        assert!(panics(&|| _ = tiled.recut(33, 2)));
        assert!(panics(&|| _ = Strips::of(&buffer, 2, 1)));
        let strips = Strips::of(&buffer, 1, 32);
        assert!(panics(&|| _ = strips.sequence(0, 30, 3)));
        assert!(panics(&|| _ = strips.sequence(1, 0, 1)));
        assert_eq!(strips.sequence(0, 30, 2).count(), 34);
    }

    proptest! {
        #[test]
        fn every_line_has_its_own_place(rows in 1usize..70, depth in 1usize..9, strips in 1usize..9) {
            let count = Tiled::lines(rows, depth).max(Strips::lines(strips, rows));
            let buffer = Buffer::zeroed(count * Line::VALUES);
            let (tiled, strip) = (Tiled::of(&buffer, rows, depth), Strips::of(&buffer, strips, rows));
            let distinct = |mut lines: Vec<*mut Line>| {
                let count = lines.len();
                lines.sort_unstable();
                lines.dedup();
                lines.len() == count
            };
            let pairs = |across: usize| (0..rows).flat_map(move |row| (0..across).map(move |k| (row, k)));
            prop_assert!(distinct(pairs(depth).map(|(row, k)| tiled.line(row, k)).collect()));
            prop_assert!(distinct(pairs(strips).map(|(row, k)| strip.line(k, row)).collect()));
        }
    }
}
