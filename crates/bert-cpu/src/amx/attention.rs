//! Self-attention, transposed, so that a softmax runs down a column of vectors and needs no work across lanes.
//!
//! 32 queries of one sequence in one head at a time, over all keys:
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
//! computed and dropped, or left out where they fill a half.
//!
//! Scores become powers 32 keys at a time, while they are in the nearest cache; there is no pass over all of them to look
//! for the largest (`softmax` says why none is needed).

use std::{arch::x86_64::*, ops::Range};

use super::{
    layout::{Line, Lines, Strips, Tiled},
    softmax::{ROW, Reference, raise},
    tile::{TILE, Tiles, UNIT},
    vector::{Floats, load_line, round_pairs, store_line, transpose, zip},
};
use crate::buffer::Buffer;

/// Lines of 32 inputs of a right factor: 16 pairs, each a row of 128 bytes.
const RIGHT: usize = 2 * TILE;

/// Memory of one thread, for the longest sequence; grows to the longest seen.
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
pub(super) struct Attention<'a> {
    /// Tokens of each sequence, one after the other.
    pub(super) lengths: &'a [usize],
    /// Which heads.
    pub(super) heads: Range<usize>,
    /// Columns of a head, in units of 32.
    pub(super) parts: usize,
    /// The queries of all heads, then the keys, then the values.
    pub(super) strips: Strips,
    pub(super) out: Tiled,
}

/// Three kinds of strips, in their order.
#[derive(Clone, Copy)]
enum Kind {
    Queries,
    Keys,
    Values,
}

/// Up to 32 queries of a sequence in a head.
#[derive(Clone, Copy)]
struct Group {
    /// The sequence's first row in the block, and its tokens.
    row: usize,
    tokens: usize,
    /// The head's first columns, in units of 32.
    column: usize,
    /// The first query's number in the sequence: a multiple of 32.
    first: usize,
}

/// What the kernel works in.
struct Room {
    /// For each part and 32 keys, two tiles: 16 values × 32 keys each.
    values: Lines,
    /// For each part, 16 pairs of columns × 32 queries.
    queries: Lines,
    /// `[32 keys, 32 queries]` scores in f32.
    scores: Lines,
    /// `[pairs of keys, 32 queries]`, for all keys.
    powers: Lines,
    /// `[32 columns, 32 queries]` in f32.
    result: Lines,
}

impl Group {
    /// Keys, up to whole tiles.
    fn padded(&self) -> usize {
        self.tokens.next_multiple_of(UNIT)
    }

    /// How many times 16 queries there are.
    fn halves(&self) -> usize {
        (self.tokens - self.first).div_ceil(TILE).min(2)
    }
}

impl Attention<'_> {
    /// # Safety
    /// Nobody else may write the strips, nor access the heads' columns of `out`.
    ///
    /// # Panics
    /// When a size does not fit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn run(&self, tiles: &Tiles, scratch: &mut Scratch) {
        let longest = self.lengths.iter().copied().max().unwrap_or(0).next_multiple_of(UNIT);
        assert!(self.heads.end * self.parts <= self.out.depth());
        assert!(self.lengths.iter().sum::<usize>() <= self.out.rows());
        let sizes = [self.parts * longest, self.parts * RIGHT, UNIT * ROW, longest / 2 * ROW, UNIT * ROW];
        let lines = scratch.lines(sizes.iter().sum());
        let mut begun = 0;
        let [values, queries, scores, powers, result] = sizes.map(|size| {
            begun += size;
            lines.part(begun - size, size)
        });
        let room = Room { values, queries, scores, powers, result };
        let mut row = 0;
        for &tokens in self.lengths {
            for head in self.heads.clone() {
                for first in (0..tokens).step_by(UNIT) {
                    let group = Group { row, tokens, column: head * self.parts, first };
                    // SAFETY: the room is this call's alone, and as large as the longest sequence needs; what each step
                    // reads, the ones before it wrote.
                    unsafe {
                        if first == 0 {
                            self.transpose_values(&group, &room);
                        }
                        self.transpose_queries(&group, &room);
                        match group.halves() {
                            1 => self.attend::<1>(tiles, &group, &room),
                            _ => self.attend::<2>(tiles, &group, &room),
                        }
                    }
                }
            }
            row += tokens;
        }
    }

    /// One group, of which the first 16 queries matter, or all 32 if `HALVES` is 2.
    ///
    /// # Safety
    /// As [`softmax`](Self::softmax) and [`mix`](Self::mix).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn attend<const HALVES: usize>(&self, tiles: &Tiles, group: &Group, room: &Room) {
        // SAFETY: by the caller's promise.
        unsafe {
            let sums = self.softmax::<HALVES>(tiles, group, room);
            self.mix(tiles, group, sums, room);
        }
    }

    /// A sequence's lines of one kind in its head's columns from 32 · `part` on, up to a multiple of 32.
    ///
    /// # Panics
    /// When there are none such.
    #[inline]
    fn lines(&self, group: &Group, kind: Kind, part: usize) -> Lines {
        let strip = kind as usize * self.out.depth() + group.column + part;
        let lines = self.strips.sequence(strip, group.row, group.tokens);
        assert!(lines.count() >= group.padded());
        lines
    }

    /// Writes the values as left tiles, columns down and keys across; zeros after the last key.
    ///
    /// # Safety
    /// Nobody else may access the room.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn transpose_values(&self, group: &Group, room: &Room) {
        let zero = _mm512_setzero_si512();
        for part in 0..self.parts {
            let values = self.lines(group, Kind::Values, part);
            for first in (0..group.tokens).step_by(UNIT) {
                let (mut low, mut high) = ([zero; 16], [zero; 16]);
                for pair in 0..TILE {
                    let key = first + 2 * pair;
                    let line = |key: usize| {
                        if key >= group.tokens {
                            return zero;
                        }
                        // SAFETY: a strip has lines up to a whole multiple of 32.
                        unsafe { load_line(values.at(key)) }
                    };
                    [low[pair], high[pair]] = zip(line(key), line(key + 1));
                }
                let tile = part * group.padded() + first;
                for (half, pairs) in [low, high].into_iter().enumerate() {
                    for (index, column) in transpose(pairs).into_iter().enumerate() {
                        // SAFETY: two tiles for each 32 keys of each part, 32 lines.
                        unsafe { store_line(room.values.at(tile + half * TILE + index), column) };
                    }
                }
            }
        }
    }

    /// Writes the queries as a right factor, pairs of columns down and queries across.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn transpose_queries(&self, group: &Group, room: &Room) {
        for part in 0..self.parts {
            let queries = self.lines(group, Kind::Queries, part);
            for half in 0..group.halves() {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (index, row) in rows.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *row = unsafe { load_line(queries.at(group.first + half * TILE + index)) };
                }
                for (pair, column) in transpose(rows).into_iter().enumerate() {
                    // SAFETY: 16 rows of two lines for each part.
                    unsafe { store_line(room.queries.at(part * RIGHT + pair * ROW + half), column) };
                }
            }
        }
    }

    /// Writes the powers of the group's scores, and returns their sums.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values); the queries must have been transposed.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn softmax<const HALVES: usize>(
        &self,
        tiles: &Tiles,
        group: &Group,
        room: &Room,
    ) -> [Floats; HALVES] {
        let mut references = [0; HALVES].map(|_| Reference::zero());
        let mut sums = [_mm512_setzero_ps(); HALVES];
        // The second time may leave a reference a little off, where scores are beyond all measure; the third is the last.
        for _ in 0..3 {
            sums = [_mm512_setzero_ps(); HALVES];
            for key in (0..group.tokens).step_by(UNIT) {
                let keys = (group.tokens - key).min(UNIT);
                let out = room.powers.part(key / 2 * ROW, TILE * ROW);
                // SAFETY: by the caller's promise; the scores are those of these keys.
                unsafe {
                    self.score(tiles, group, key, room);
                    raise(room.scores, out, keys, &mut references, &mut sums);
                }
            }
            let mut moved = false;
            for reference in &mut references {
                moved |= reference.moves();
            }
            if !moved {
                break;
            }
        }
        sums
    }

    /// Writes the scores of a group with the keys from `key` on, up to 32.
    ///
    /// # Safety
    /// As [`softmax`](Self::softmax), and there must be such keys.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn score(&self, tiles: &Tiles, group: &Group, key: usize, room: &Room) {
        let out = room.scores.at(0).cast();
        // SAFETY: by the caller's promise; the strips have rows up to a whole multiple of 32, and the scores 32.
        unsafe {
            if key + TILE < group.tokens {
                self.score_keys::<true>(tiles, group, key, room);
                tiles.store::<true>(out, UNIT);
            } else {
                self.score_keys::<false>(tiles, group, key, room);
                tiles.store::<false>(out, UNIT);
            }
        }
    }

    /// Leaves in the tiles the scores of a group with the keys from `key` on: 32, or 16 unless `PAIR`.
    ///
    /// # Safety
    /// As [`score`](Self::score).
    #[inline(always)]
    unsafe fn score_keys<const PAIR: bool>(&self, tiles: &Tiles, group: &Group, key: usize, room: &Room) {
        tiles.clear::<PAIR>();
        for part in 0..self.parts {
            let upper = self.lines(group, Kind::Keys, part).at(key).cast_const();
            let lower = upper.wrapping_add(TILE);
            let right = room.queries.at(part * RIGHT).cast_const();
            // SAFETY: 16 lines each from the keys, 32 of queries; see `score`.
            unsafe { tiles.multiply::<PAIR, false>(upper.cast(), lower.cast(), right.cast()) };
        }
    }

    /// Sums up the values with the powers, and writes the results of the group's queries.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values); the room must hold the values and the powers, `sums` be those of
    /// the powers; nobody else may access these queries' lines in `out`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn mix<const HALVES: usize>(
        &self,
        tiles: &Tiles,
        group: &Group,
        sums: [Floats; HALVES],
        room: &Room,
    ) {
        let scales = sums.map(|sum| _mm512_div_ps(_mm512_set1_ps(1.0), sum));
        for part in 0..self.parts {
            tiles.clear::<true>();
            for key in (0..group.tokens).step_by(UNIT) {
                let upper = room.values.at(part * group.padded() + key).cast_const();
                let powers = room.powers.at(key / 2 * ROW).cast_const();
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
            for (half, scale) in scales.into_iter().enumerate() {
                let mut pairs = [_mm512_setzero_si512(); 16];
                for (pair, out) in pairs.iter_mut().enumerate() {
                    let column = |index: usize| {
                        // SAFETY: as above; a row is 32 queries.
                        let values = unsafe { _mm512_load_ps(result.add(index * UNIT + half * TILE)) };
                        _mm512_mul_ps(values, scale)
                    };
                    *out = round_pairs(column(2 * pair), column(2 * pair + 1));
                }
                let first = group.first + half * TILE;
                let queries = (group.tokens - first).min(TILE);
                for (index, line) in transpose(pairs).into_iter().take(queries).enumerate() {
                    let row = group.row + first + index;
                    // SAFETY: the query and the column exist in `out`; by the caller's promise.
                    unsafe { store_line(self.out.line(row, group.column + part), line) };
                }
            }
        }
    }
}
