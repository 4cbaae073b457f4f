//! Self-attention of one sequence in one head, transposed, so that a softmax runs down a column of vectors and
//! needs no work across lanes.
//!
//! 32 queries at a time, over all keys:
//!
//! ```text
//!              32 queries                      32 queries                       32 queries
//!           ┌──────────────┐                 ┌────────────┐                   ┌────────────┐
//!      keys │ scores  f32  │  = keys         │ queriesᵀ   │   values   │ = valuesᵀ       │ powersᵀ    │
//!           │              │    as stored  · │ pairs      │            │   tiles       · │ pairs      │
//!           └──────────────┘                 └────────────┘            └──────            └────────────┘
//!             ▼ 2^(s − max), in bf16, in place: powersᵀ, pairs of keys
//! ```
//!
//! The left factor of the first product is the keys' strip as it lies. Queries are transposed for each 32 of them,
//! values once for the head. Nothing is masked but the keys after the last one: they take no part in a sum, and
//! their powers and values are zero. Queries after the last one are other tokens' or none; their lanes are
//! computed and dropped.

use std::arch::x86_64::*;

use super::{
    layout::{Line, Lines, Strips, Tiled},
    tile::{TILE, Tiles, UNIT},
    vector::{Floats, exp2, load_line, round_pairs, store_line, transpose, zip},
};
use crate::memory::Buffer;

/// Lines of a row of 32 f32: a key's scores, or a place in all 32 results.
const ROW: usize = 2;
/// Lines of 32 inputs of a right factor: 16 pairs, each a row of 128 bytes.
const RIGHT: usize = 2 * TILE;

/// Memory of one thread, for one head of one sequence; grows to the longest seen.
#[derive(Default)]
pub(super) struct Scratch(Option<Buffer>);

impl Scratch {
    fn lines(&mut self, count: usize) -> Lines {
        if self.0.as_ref().is_none_or(|buffer| buffer.len() < count * Line::VALUES) {
            self.0 = Some(Buffer::zeroed(count * Line::VALUES));
        }
        match &self.0 {
            Some(buffer) => Lines::of(buffer, 0, count),
            None => unreachable!("it was filled"),
        }
    }
}

/// `out = softmax₂(queries · keysᵀ) · values`, where softmax₂ takes powers of two: the factor log₂ e / √width is
/// in the queries already.
pub(super) struct Attention {
    /// The sequence's first row in the block.
    pub(super) row: usize,
    /// Its tokens.
    pub(super) tokens: usize,
    /// The queries of all heads, then the keys, then the values.
    pub(super) strips: Strips,
    pub(super) out: Tiled,
    /// The head's first columns, and how many they are, in units of 32.
    pub(super) column: usize,
    pub(super) parts: usize,
}

/// Three kinds of strips, in their order.
#[derive(Clone, Copy)]
enum Kind {
    Queries,
    Keys,
    Values,
}

/// What the kernel works in; sizes for `parts` and `tokens`.
struct Room {
    /// For each part and 32 keys, two tiles: 16 values × 32 keys each.
    values: Lines,
    /// For each part, 16 pairs of columns × 32 queries.
    queries: Lines,
    /// `[keys, 32 queries]` scores; then `[pairs of keys, 32 queries]` powers.
    scores: Lines,
    /// `[32 columns, 32 queries]` in f32.
    result: Lines,
}

impl Attention {
    /// # Safety
    /// Nobody else may write the strips, nor access the sequence's lines in the head's columns of `out`.
    ///
    /// # Panics
    /// When a size does not fit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub(super) unsafe fn run(&self, tiles: &Tiles, scratch: &mut Scratch) {
        if self.tokens == 0 {
            return;
        }
        let (count, padded) = (self.parts, self.tokens.next_multiple_of(UNIT));
        assert!(self.row + self.tokens <= self.out.rows() && self.column + count <= self.out.depth());
        let (values, queries) = (count * padded, count * RIGHT);
        let (scores, result) = (padded * ROW, UNIT * ROW);
        let lines = scratch.lines(values + queries + scores + result);
        let room = Room {
            values: lines.part(0, values),
            queries: lines.part(values, queries),
            scores: lines.part(values + queries, scores),
            result: lines.part(values + queries + scores, result),
        };
        // SAFETY: the sizes fit, and the room is this call's alone.
        unsafe {
            self.transpose_values(&room);
            for first in (0..self.tokens).step_by(UNIT) {
                self.transpose_queries(first, &room);
                self.score(tiles, &room);
                let scale = self.softmax(&room);
                self.mix(tiles, first, scale, &room);
            }
        }
    }

    /// The sequence's lines of one kind in the head's columns from 32 · `part` on, up to a multiple of 32.
    ///
    /// # Panics
    /// When there are none such.
    #[inline]
    fn lines(&self, kind: Kind, part: usize) -> Lines {
        let strip = kind as usize * self.out.depth() + self.column + part;
        let lines = self.strips.sequence(strip, self.row, self.tokens);
        assert!(lines.count() >= self.tokens.next_multiple_of(UNIT));
        lines
    }

    /// Writes the values as left tiles, columns down and keys across; zeros after the last key.
    ///
    /// # Safety
    /// Nobody else may access the room.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn transpose_values(&self, room: &Room) {
        let zero = _mm512_setzero_si512();
        for part in 0..self.parts {
            let values = self.lines(Kind::Values, part);
            for first in (0..self.tokens).step_by(UNIT) {
                let (mut low, mut high) = ([zero; 16], [zero; 16]);
                for pair in 0..TILE {
                    let key = first + 2 * pair;
                    let line = |key: usize| {
                        if key >= self.tokens {
                            return zero;
                        }
                        // SAFETY: a strip has lines up to a whole multiple of 32.
                        unsafe { load_line(values.at(key)) }
                    };
                    [low[pair], high[pair]] = zip(line(key), line(key + 1));
                }
                let tile = part * self.tokens.next_multiple_of(UNIT) + first;
                for (half, pairs) in [low, high].into_iter().enumerate() {
                    for (index, column) in transpose(pairs).into_iter().enumerate() {
                        // SAFETY: two tiles for each 32 keys of each part, 32 lines.
                        unsafe { store_line(room.values.at(tile + half * TILE + index), column) };
                    }
                }
            }
        }
    }

    /// Writes 32 queries as a right factor, pairs of columns down and queries across.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values), and `first` must be a query's number and divisible by 32.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn transpose_queries(&self, first: usize, room: &Room) {
        for part in 0..self.parts {
            let queries = self.lines(Kind::Queries, part);
            for half in 0..2 {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (index, row) in rows.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *row = unsafe { load_line(queries.at(first + half * TILE + index)) };
                }
                for (pair, column) in transpose(rows).into_iter().enumerate() {
                    // SAFETY: 16 rows of two lines for each part.
                    unsafe { store_line(room.queries.at(part * RIGHT + pair * ROW + half), column) };
                }
            }
        }
    }

    /// Scores of 32 queries with all keys.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values); the queries must have been transposed.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn score(&self, tiles: &Tiles, room: &Room) {
        for key in (0..self.tokens).step_by(2 * TILE) {
            let out = room.scores.at(key * ROW).cast();
            // SAFETY: the strips and the scores have rows up to a whole multiple of 32.
            unsafe {
                if key + TILE < self.tokens {
                    self.score_keys::<true>(tiles, key, room);
                    tiles.store::<true>(out, UNIT);
                } else {
                    self.score_keys::<false>(tiles, key, room);
                    tiles.store::<false>(out, UNIT);
                }
            }
        }
    }

    /// Leaves in the tiles the scores of 32 queries with the keys from `key` on: 32, or 16 unless `PAIR`.
    ///
    /// # Safety
    /// As [`score`](Self::score), and there must be such keys.
    #[inline(always)]
    unsafe fn score_keys<const PAIR: bool>(&self, tiles: &Tiles, key: usize, room: &Room) {
        tiles.clear::<PAIR>();
        for part in 0..self.parts {
            let upper = self.lines(Kind::Keys, part).at(key).cast_const();
            let lower = upper.wrapping_add(TILE);
            let right = room.queries.at(part * RIGHT).cast_const();
            // SAFETY: 16 lines each from the keys, 32 of queries; see `score`.
            unsafe { tiles.multiply::<PAIR, false>(upper.cast(), lower.cast(), right.cast()) };
        }
    }

    /// Replaces scores by 2^(score − largest) in bf16, pairs of keys, zeros after the last; returns one over each
    /// query's sum.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn softmax(&self, room: &Room) -> [Floats; 2] {
        let scores = |key: usize| -> [Floats; 2] {
            let line = room.scores.at(key * ROW).cast::<f32>();
            // SAFETY: a key's scores are two lines.
            unsafe { [_mm512_load_ps(line), _mm512_load_ps(line.add(16))] }
        };
        let [mut low, mut high] = scores(0);
        // Two chains for each half, or every maximum would wait for the one before.
        let (mut other_low, mut other_high) = (low, high);
        for key in (0..self.tokens & !1).step_by(2) {
            let ([a, b], [c, d]) = (scores(key), scores(key + 1));
            (low, high) = (_mm512_max_ps(low, a), _mm512_max_ps(high, b));
            (other_low, other_high) = (_mm512_max_ps(other_low, c), _mm512_max_ps(other_high, d));
        }
        let [a, b] = scores(self.tokens - 1);
        let largest = [
            _mm512_max_ps(_mm512_max_ps(low, a), other_low),
            _mm512_max_ps(_mm512_max_ps(high, b), other_high),
        ];

        let zero = _mm512_setzero_ps();
        let mut sums = [[zero; 2]; 2];
        for pair in 0..self.tokens.next_multiple_of(UNIT) / 2 {
            let mut powers = [[zero; 2]; 2];
            for (which, powers) in powers.iter_mut().enumerate() {
                let key = 2 * pair + which;
                if key < self.tokens {
                    let scores = scores(key);
                    for half in 0..2 {
                        powers[half] = exp2(_mm512_sub_ps(scores[half], largest[half]));
                        sums[which][half] = _mm512_add_ps(sums[which][half], powers[half]);
                    }
                }
            }
            let [even, odd] = powers;
            for half in 0..2 {
                // SAFETY: the pair's row is at most where its first key's scores were, which have been read.
                unsafe {
                    store_line(room.scores.at(pair * ROW + half), round_pairs(even[half], odd[half]));
                }
            }
        }
        let [even, odd] = sums;
        let one = _mm512_set1_ps(1.0);
        let low = _mm512_div_ps(one, _mm512_add_ps(even[0], odd[0]));
        [low, _mm512_div_ps(one, _mm512_add_ps(even[1], odd[1]))]
    }

    /// Sums up the values with the powers, and writes the results of the queries from `first` on.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values); the room must hold values and powers; nobody else may
    /// access these queries' lines in `out`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn mix(&self, tiles: &Tiles, first: usize, scale: [Floats; 2], room: &Room) {
        let padded = self.tokens.next_multiple_of(UNIT);
        for part in 0..self.parts {
            tiles.clear::<true>();
            for key in (0..self.tokens).step_by(UNIT) {
                let upper = room.values.at(part * padded + key).cast_const();
                let powers = room.scores.at(key / 2 * ROW).cast_const();
                // SAFETY: two tiles of values, and 16 rows of powers, for each 32 keys.
                unsafe {
                    tiles.multiply::<true, false>(
                        upper.cast(),
                        upper.wrapping_add(TILE).cast(),
                        powers.cast(),
                    );
                }
            }
            let result = room.result.at(0).cast::<f32>();
            // SAFETY: the result has 32 rows of 32 values.
            unsafe { tiles.store::<true>(result, UNIT) };
            for (half, scale) in scale.into_iter().enumerate() {
                let queries = self.tokens.saturating_sub(first + half * TILE).min(TILE);
                if queries == 0 {
                    break;
                }
                let mut pairs = [_mm512_setzero_si512(); 16];
                for (pair, out) in pairs.iter_mut().enumerate() {
                    let column = |index: usize| {
                        // SAFETY: as above; a row is 32 queries.
                        let values = unsafe { _mm512_load_ps(result.add(index * UNIT + half * TILE)) };
                        _mm512_mul_ps(values, scale)
                    };
                    *out = round_pairs(column(2 * pair), column(2 * pair + 1));
                }
                for (index, line) in transpose(pairs).into_iter().take(queries).enumerate() {
                    let row = self.row + first + half * TILE + index;
                    // SAFETY: the query and the column exist in `out`; by the caller's promise.
                    unsafe { store_line(self.out.line(row, self.column + part), line) };
                }
            }
        }
    }
}
