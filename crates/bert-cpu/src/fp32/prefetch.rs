//! Prefetching of B: while the tiles of a panel are computed, each one brings its share of the next panel to the L2
//! cache.
//!
//! On a Zen 3 this lowers the latency of a single short text by 30 % where the weights exceed the L3 cache, and speeds
//! up batches of 48 tokens by 15 %, against prefetches 4 KiB ahead in the same panel.

use std::ops::Range;

use crate::simd::Simd;

/// The rows of B that a tile has to prefetch.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    next: *const f32,
    /// Rows in each [`STEP`](Self::STEP).
    rows: usize,
}

impl Prefetch {
    /// Rows of B that are multiplied between two calls of [`step`](Self::step).
    pub(crate) const STEP: usize = 16;

    /// B is in the L1d cache.
    pub(crate) const NONE: Self = Self { next: std::ptr::null(), rows: 0 };

    /// The share of a tile with these rows of the `rows` of A in the `depth` rows of `panel`. The address need not be
    /// valid.
    #[inline(always)]
    pub(crate) fn share<S: Simd>(panel: *const f32, depth: usize, tile: Range<usize>, rows: usize) -> Self {
        let [start, end] = [tile.start, tile.end].map(|row| row * depth / rows);
        let next = panel.wrapping_add(start * 2 * S::WIDTH);
        Self { next, rows: ((end - start) * Self::STEP).div_ceil(depth) }
    }

    /// Prefetches the next rows.
    #[inline(always)]
    pub(crate) fn step<S: Simd>(&mut self, simd: S) {
        for _ in 0..self.rows {
            simd.prefetch(self.next);
            self.next = self.next.wrapping_add(2 * S::WIDTH);
        }
    }
}
