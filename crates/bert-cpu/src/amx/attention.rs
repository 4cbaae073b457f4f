//! Scaled dot-product attention, transposed: a softmax runs down a column of vectors and needs no work across lanes.
//!
//! One tile of 32 queries of one sequence in one head at a time, over all keys:
//!
//! ```text
//! scores    [keys, 32 queries]           f32   = keys, as stored · queriesᵀ, in pairs of columns
//! powers    [pairs of keys, 32 queries]  bf16  = 2^(score − shift)
//! contextᵀ  [columns, 32 queries]        f32   = valuesᵀ, in tiles · powers, divided by their sum
//! ```
//!
//! Queries are transposed for each tile, values once for each head. A tile reads only the keys that one of its queries
//! attends to; 32 keys are masked only if not all queries attend to all of them. Keys after the last one take no part
//! in a sum, and their powers and values are zero. Lanes of queries after the last one are computed and dropped, or
//! left out if they fill a half of 16.
//!
//! Scores become powers 32 keys at a time, while they are in the L1d cache, without a pass for the maximum (see
//! `softmax`).

use std::{arch::x86_64::*, ops::Range};

use encoder_spec::Span;

use super::{
    layout::{CacheLine, LineSpan, QkvBlocks, TiledMatrix},
    softmax::{LINES_PER_ROW, RunningShift, exp2_scores},
    tile::{K_BLOCK, NR, TILE, Tiles},
    vector::{Floats, load, load_line, round_pairs, store_line, transpose, zip},
};
use crate::{buffer::ScratchBuffer, positions::PositionBias};

/// Lines of the two B tiles of one instruction: 16 rows of 128 bytes.
const B_TILE_LINES: usize = 2 * TILE;

/// Score of a key that a query does not attend to: its power is the smallest.
const MASKED: f32 = -1e30;

/// `out = softmax₂(queries · keysᵀ + bias) · values`, where softmax₂ takes powers of 2: the queries and the bias
/// include the factor log₂ e.
pub(super) struct AmxAttention<'a> {
    /// Tokens of each sequence of the batch.
    pub(super) lengths: &'a [usize],
    /// Heads to compute.
    pub(super) heads: Range<usize>,
    /// Column blocks of a head.
    pub(super) head_blocks: usize,
    /// Query heads for each key head, and key heads.
    pub(super) group: usize,
    pub(super) kv_heads: usize,
    pub(super) span: Span,
    /// With rows along the queries.
    pub(super) bias: Option<&'a PositionBias>,
    /// The queries of all heads, then the keys, then the values.
    pub(super) qkv: QkvBlocks,
    pub(super) out: TiledMatrix,
}

/// One of the three matrices in [`AmxAttention::qkv`].
#[derive(Clone, Copy)]
enum Qkv {
    Queries,
    Keys,
    Values,
}

/// Up to 32 queries of a sequence in a head.
#[derive(Clone, Copy)]
struct QueryTile {
    /// First row of the sequence in the batch, and its tokens.
    row: usize,
    tokens: usize,
    head: usize,
    /// First column block of the head.
    block: usize,
    /// Index of the first query in the sequence: a multiple of 32.
    first: usize,
    /// First key that one of the queries attends to, rounded down to a multiple of 32, and the end of these keys.
    first_key: usize,
    end_key: usize,
}

/// Intermediate results of one sequence in one head.
struct AttentionWorkspace {
    /// For each column block and 32 keys, two tiles of 16 columns × 32 keys.
    values: LineSpan,
    /// For each column block, 16 pairs of columns × 32 queries.
    queries: LineSpan,
    /// `[32 keys, 32 queries]` in f32.
    scores: LineSpan,
    /// `[pairs of keys, 32 queries]`, for all keys.
    powers: LineSpan,
    /// `[32 columns, 32 queries]` in f32.
    context: LineSpan,
}

impl QueryTile {
    /// Keys, padded to whole tiles.
    fn padded_keys(&self) -> usize {
        self.tokens.next_multiple_of(K_BLOCK)
    }

    /// Index of the last query in the sequence.
    fn last(&self) -> usize {
        self.tokens.min(self.first + NR) - 1
    }

    /// Halves of 16 queries, of which the last may be partial.
    fn halves(&self) -> usize {
        (self.tokens - self.first).div_ceil(TILE).min(2)
    }
}

impl AmxAttention<'_> {
    /// # Safety
    /// No other code may write `qkv`, nor access the heads' columns of `out`.
    ///
    /// # Panics
    /// If a size does not fit.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    pub(super) unsafe fn run(&self, tiles: &Tiles, scratch: &mut ScratchBuffer) {
        let max_keys = self.lengths.iter().copied().max().unwrap_or(0).next_multiple_of(K_BLOCK);
        assert!(self.heads.end * self.head_blocks <= self.out.k_blocks());
        assert!(self.group * self.kv_heads * self.head_blocks == self.out.k_blocks());
        assert!(self.lengths.iter().sum::<usize>() <= self.out.rows());
        let sizes = [
            self.head_blocks * max_keys,
            self.head_blocks * B_TILE_LINES,
            K_BLOCK * LINES_PER_ROW,
            max_keys / 2 * LINES_PER_ROW,
            K_BLOCK * LINES_PER_ROW,
        ];
        let count = sizes.iter().sum();
        let lines = LineSpan::of(scratch.reserve(count * CacheLine::VALUES), 0, count);
        let mut end = 0;
        let [values, queries, scores, powers, context] = sizes.map(|size| {
            end += size;
            lines.subspan(end - size, size)
        });
        let workspace = AttentionWorkspace { values, queries, scores, powers, context };
        let mut row = 0;
        for &tokens in self.lengths {
            let mut transposed = None;
            for head in self.heads.clone() {
                for first in (0..tokens).step_by(NR) {
                    let tile = self.query_tile(row, tokens, head, first);
                    // SAFETY: the workspace is this call's alone, and large enough for the longest sequence; each step
                    // reads what earlier steps wrote.
                    unsafe {
                        if transposed != Some(head / self.group) {
                            self.transpose_values(&tile, &workspace);
                            transposed = Some(head / self.group);
                        }
                        self.transpose_queries(&tile, &workspace);
                        match tile.halves() {
                            1 => self.attend::<1>(tiles, &tile, &workspace),
                            _ => self.attend::<2>(tiles, &tile, &workspace),
                        }
                    }
                }
            }
            row += tokens;
        }
    }

    fn query_tile(&self, row: usize, tokens: usize, head: usize, first: usize) -> QueryTile {
        let block = head * self.head_blocks;
        let mut tile = QueryTile { row, tokens, head, block, first, first_key: 0, end_key: tokens };
        // The spans of consecutive queries move forward.
        tile.first_key = self.span.keys(first, tokens).start / K_BLOCK * K_BLOCK;
        tile.end_key = self.span.keys(tile.last(), tokens).end;
        tile
    }

    /// Computes one tile: only its first 16 queries, or all 32 if `HALVES` is 2.
    ///
    /// # Safety
    /// As [`softmax`](Self::softmax) and [`weighted_sum`](Self::weighted_sum).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn attend<const HALVES: usize>(
        &self,
        tiles: &Tiles,
        tile: &QueryTile,
        workspace: &AttentionWorkspace,
    ) {
        // SAFETY: by the caller's contract.
        unsafe {
            let sums = self.softmax::<HALVES>(tiles, tile, workspace);
            self.weighted_sum(tiles, tile, sums, workspace);
        }
    }

    /// The sequence's lines of one matrix in column block `block` of the head, padded to a multiple of 32.
    ///
    /// # Panics
    /// If there are none such.
    #[inline]
    fn lines(&self, tile: &QueryTile, matrix: Qkv, block: usize) -> LineSpan {
        let kv_block = tile.head / self.group * self.head_blocks;
        let (queries, keys) = (self.out.k_blocks(), self.kv_heads * self.head_blocks);
        let block = match matrix {
            Qkv::Queries => tile.block + block,
            Qkv::Keys => queries + kv_block + block,
            Qkv::Values => queries + keys + kv_block + block,
        };
        let lines = self.qkv.sequence(block, tile.row, tile.tokens);
        assert!(lines.count() >= tile.padded_keys());
        lines
    }

    /// Writes the values as A tiles, columns down and keys across, with zeros after the last key.
    ///
    /// # Safety
    /// No other code may access the workspace.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn transpose_values(&self, tile: &QueryTile, workspace: &AttentionWorkspace) {
        let zero = _mm512_setzero_si512();
        for block in 0..self.head_blocks {
            let values = self.lines(tile, Qkv::Values, block);
            for first in (0..tile.tokens).step_by(K_BLOCK) {
                let (mut low, mut high) = ([zero; 16], [zero; 16]);
                for pair in 0..TILE {
                    let key = first + 2 * pair;
                    let line = |key: usize| {
                        if key >= tile.tokens {
                            return zero;
                        }
                        // SAFETY: a column block has lines up to a multiple of 32.
                        unsafe { load_line(values.line(key)) }
                    };
                    [low[pair], high[pair]] = zip(line(key), line(key + 1));
                }
                let start = block * tile.padded_keys() + first;
                for (half, pairs) in [low, high].into_iter().enumerate() {
                    for (index, column) in transpose(pairs).into_iter().enumerate() {
                        // SAFETY: two tiles for each 32 keys of each column block, 32 lines.
                        unsafe { store_line(workspace.values.line(start + half * TILE + index), column) };
                    }
                }
            }
        }
    }

    /// Writes the queries as B, pairs of columns down and queries across.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn transpose_queries(&self, tile: &QueryTile, workspace: &AttentionWorkspace) {
        for block in 0..self.head_blocks {
            let queries = self.lines(tile, Qkv::Queries, block);
            for half in 0..tile.halves() {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (index, row) in rows.iter_mut().enumerate() {
                    // SAFETY: as above.
                    *row = unsafe { load_line(queries.line(tile.first + half * TILE + index)) };
                }
                for (pair, column) in transpose(rows).into_iter().enumerate() {
                    let line = block * B_TILE_LINES + pair * LINES_PER_ROW + half;
                    // SAFETY: 16 rows of two lines for each column block.
                    unsafe { store_line(workspace.queries.line(line), column) };
                }
            }
        }
    }

    /// Writes the powers of the tile's scores, and returns their sums.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values), and the workspace must hold the transposed queries.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn softmax<const HALVES: usize>(
        &self,
        tiles: &Tiles,
        tile: &QueryTile,
        workspace: &AttentionWorkspace,
    ) -> [Floats; HALVES] {
        let mut shifts = [0; HALVES].map(|_| RunningShift::zero());
        let mut sums = [_mm512_setzero_ps(); HALVES];
        // Scores of enormous magnitude can leave the shift imprecise after the second pass; the third is always the
        // last.
        for _ in 0..3 {
            sums = [_mm512_setzero_ps(); HALVES];
            for key in (tile.first_key..tile.end_key).step_by(K_BLOCK) {
                let keys = (tile.end_key - key).min(K_BLOCK);
                let powers = workspace.powers.subspan(key / 2 * LINES_PER_ROW, TILE * LINES_PER_ROW);
                // SAFETY: by the caller's contract; the scores are those of these keys.
                unsafe {
                    self.score(tiles, tile, key, workspace);
                    self.add_bias::<HALVES>(tile, key..key + keys, workspace);
                    self.mask::<HALVES>(tile, key..key + keys, workspace);
                    exp2_scores(workspace.scores, powers, keys, &mut shifts, &mut sums);
                }
            }
            let mut changed = false;
            for shift in &mut shifts {
                changed |= shift.update();
            }
            if !changed {
                break;
            }
        }
        sums
    }

    /// Writes the scores of the tile's queries with up to 32 keys, from `key` on.
    ///
    /// # Safety
    /// As [`softmax`](Self::softmax), and `key` must exist.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn score(&self, tiles: &Tiles, tile: &QueryTile, key: usize, workspace: &AttentionWorkspace) {
        let out = workspace.scores.line(0).cast();
        // SAFETY: by the caller's contract; the column blocks have rows up to a multiple of 32, the scores have 32.
        unsafe {
            if key + TILE < tile.end_key {
                self.multiply_keys::<true>(tiles, tile, key, workspace);
                tiles.store::<true>(out, NR);
            } else {
                self.multiply_keys::<false>(tiles, tile, key, workspace);
                tiles.store::<false>(out, NR);
            }
        }
    }

    /// Adds the position bias to the scores of up to 32 keys.
    ///
    /// # Safety
    /// As [`softmax`](Self::softmax); the scores must be those of `keys`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn add_bias<const HALVES: usize>(
        &self,
        tile: &QueryTile,
        keys: Range<usize>,
        workspace: &AttentionWorkspace,
    ) {
        let Some(bias) = self.bias else { return };
        for (index, key) in keys.enumerate() {
            let (bias, _) = bias.row(tile.head, key, tile.first).as_chunks::<16>();
            for (half, bias) in bias[..HALVES].iter().enumerate() {
                let scores = workspace.scores.line(index * LINES_PER_ROW + half).cast::<f32>();
                // SAFETY: by the caller's contract; the scores of a key are two lines.
                unsafe { _mm512_store_ps(scores, _mm512_add_ps(_mm512_load_ps(scores), load(bias))) };
            }
        }
    }

    /// Masks the scores of up to 32 keys for the queries that do not attend to them.
    ///
    /// # Safety
    /// As [`add_bias`](Self::add_bias).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn mask<const HALVES: usize>(
        &self,
        tile: &QueryTile,
        keys: Range<usize>,
        workspace: &AttentionWorkspace,
    ) {
        let (first, last) = (tile.first, tile.last());
        let is_whole = [first, last]
            .into_iter()
            .all(|query| self.span.contains(query, keys.start) && self.span.contains(query, keys.end - 1));
        if is_whole {
            return;
        }
        let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        // Queries after the last one count as the last: a query with no key at all would move the shift.
        let queries: [__m512i; HALVES] = std::array::from_fn(|half| {
            let first = _mm512_set1_epi32((first + half * TILE) as i32);
            _mm512_min_epi32(_mm512_add_epi32(first, lanes), _mm512_set1_epi32(last as i32))
        });
        for (index, key) in keys.enumerate() {
            for (half, queries) in queries.iter().enumerate() {
                let offsets = _mm512_sub_epi32(*queries, _mm512_set1_epi32(key as i32));
                let masked = match self.span {
                    Span::Full => 0,
                    Span::Causal => _mm512_movepi32_mask(offsets),
                    Span::Window(distance) => {
                        let distance = i32::try_from(distance).unwrap_or(i32::MAX);
                        _mm512_cmpgt_epi32_mask(_mm512_abs_epi32(offsets), _mm512_set1_epi32(distance))
                    }
                };
                let scores = workspace.scores.line(index * LINES_PER_ROW + half).cast::<f32>();
                // SAFETY: by the caller's contract; the scores of a key are two lines.
                unsafe { _mm512_mask_store_ps(scores, masked, _mm512_set1_ps(MASKED)) };
            }
        }
    }

    /// Leaves in the tile registers the scores with the keys from `key` on: 32, or 16 unless `PAIR`.
    ///
    /// # Safety
    /// As [`score`](Self::score).
    #[inline(always)]
    unsafe fn multiply_keys<const PAIR: bool>(
        &self,
        tiles: &Tiles,
        tile: &QueryTile,
        key: usize,
        workspace: &AttentionWorkspace,
    ) {
        tiles.clear::<PAIR>();
        for block in 0..self.head_blocks {
            let a_upper = self.lines(tile, Qkv::Keys, block).line(key).cast_const();
            let a_lower = a_upper.wrapping_add(TILE);
            let b = workspace.queries.line(block * B_TILE_LINES).cast_const();
            // SAFETY: 16 lines of keys for each tile of A, 32 of queries for B; see `score`.
            unsafe { tiles.multiply::<PAIR, false>(a_upper.cast(), a_lower.cast(), b.cast()) };
        }
    }

    /// Sums the values weighted by the powers, and writes the tile's rows of the result.
    ///
    /// # Safety
    /// As [`transpose_values`](Self::transpose_values); the workspace must hold the values and the powers, and `sums`
    /// be the sums of the powers; no other code may access these queries' lines in `out`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn weighted_sum<const HALVES: usize>(
        &self,
        tiles: &Tiles,
        tile: &QueryTile,
        sums: [Floats; HALVES],
        workspace: &AttentionWorkspace,
    ) {
        let scales = sums.map(|sum| _mm512_div_ps(_mm512_set1_ps(1.0), sum));
        for block in 0..self.head_blocks {
            tiles.clear::<true>();
            for key in (tile.first_key..tile.end_key).step_by(K_BLOCK) {
                let a_upper = workspace.values.line(block * tile.padded_keys() + key).cast_const();
                let a_lower = a_upper.wrapping_add(TILE);
                let b = workspace.powers.line(key / 2 * LINES_PER_ROW).cast_const();
                // SAFETY: two tiles of values, and 16 rows of powers, for each 32 keys.
                unsafe { tiles.multiply::<true, false>(a_upper.cast(), a_lower.cast(), b.cast()) };
            }
            let context = workspace.context.line(0).cast::<f32>();
            // SAFETY: 32 rows of 32 values.
            unsafe { tiles.store::<true>(context, NR) };
            for (half, scale) in scales.into_iter().enumerate() {
                let mut pairs = [_mm512_setzero_si512(); 16];
                for (pair, out) in pairs.iter_mut().enumerate() {
                    let column = |index: usize| {
                        // SAFETY: as above; a row is 32 queries.
                        let values = unsafe { _mm512_load_ps(context.add(index * NR + half * TILE)) };
                        _mm512_mul_ps(values, scale)
                    };
                    *out = round_pairs(column(2 * pair), column(2 * pair + 1));
                }
                let first = tile.first + half * TILE;
                let queries = (tile.tokens - first).min(TILE);
                for (index, line) in transpose(pairs).into_iter().take(queries).enumerate() {
                    let row = tile.row + first + index;
                    // SAFETY: the row and the column block exist in `out` and are the caller's.
                    unsafe { store_line(self.out.line(row, tile.block + block), line) };
                }
            }
        }
    }
}
