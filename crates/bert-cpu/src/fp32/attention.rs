//! Scaled dot-product attention of one sequence in one head.
//!
//! Scores of a tile of queries stay in the L1d cache from Q·Kᵀ through the softmax to P·V. A tile reads only the keys
//! that one of its queries attends to.

use std::ops::Range;

use encoder_spec::Span;

use super::{
    gemm::microkernel,
    math,
    prefetch::Prefetch,
    tiles::{self, MR_MAX, RowTileKernel},
};
use crate::{
    matrix::Matrix,
    network::ThreadScratch,
    positions::PositionBias,
    simd::{Simd, WithSimd},
};

/// `out = softmax₂(queries · keysᵀ + bias) · values`, where softmax₂ takes powers of 2: the queries and the bias
/// include the factor log₂ e.
pub(crate) struct Attention<'s> {
    /// `[tokens, padded head_dim]` each; the width is a multiple of a panel's.
    pub(crate) queries: Matrix,
    pub(crate) keys: Matrix,
    pub(crate) values: Matrix,
    pub(crate) out: Matrix,
    pub(crate) span: Span,
    /// The bias, and the head's index in it.
    pub(crate) bias: Option<(&'s PositionBias, usize)>,
    /// The scratch memory holds these keys already, from the call before.
    pub(crate) has_packed_keys: bool,
    /// For the keys as panels, and for the scores.
    pub(crate) scratch: &'s mut ThreadScratch,
}

impl WithSimd for Attention<'_> {
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let panel = 2 * S::WIDTH;
        let (tokens, width) = (self.queries.rows(), self.queries.columns());
        assert!(width.is_multiple_of(panel), "a head of {width} in panels of {panel}");
        for other in [self.keys, self.values, self.out] {
            assert!(other.rows() == tokens && other.columns() == width);
        }
        let padded = tokens.next_multiple_of(panel);
        let [keys, scores] = self.scratch;
        let (keys, scores) = (keys.reserve(padded * width), scores.reserve(MR_MAX * padded));
        let keys = Matrix::of(keys, 0, [padded / panel * width, panel], panel);
        let scores = Matrix::of(scores, 0, [MR_MAX, padded], padded);
        let Self { queries, values, out, span, bias, .. } = self;
        let kernel = HeadKernel { queries, keys, values, out, scores, span, bias };
        // SAFETY: the sizes were checked above; the scratch memory is this call's alone.
        unsafe {
            if !self.has_packed_keys {
                transpose(self.keys, keys, panel);
            }
            tiles::run(simd, tokens, &kernel);
        }
    }
}

/// Transposes `[tokens, width]` into panels of `panel` tokens: `[tokens / panel, width, panel]`, zeros after the last.
///
/// # Safety
/// `to` must have `width` rows of `panel` values for every full or partial panel; no other code may access it.
#[inline(always)]
unsafe fn transpose(from: Matrix, to: Matrix, panel: usize) {
    let width = from.columns();
    for token in 0..from.rows().next_multiple_of(panel) {
        let (first, lane) = (token / panel * width, token % panel);
        for column in 0..width {
            // SAFETY: by the caller's contract.
            unsafe {
                let value = if token < from.rows() { *from.row(token).add(column) } else { 0.0 };
                *to.row(first + column).add(lane) = value;
            }
        }
    }
}

/// Attention of a tile of queries to all keys.
struct HeadKernel<'s> {
    queries: Matrix,
    /// As panels.
    keys: Matrix,
    values: Matrix,
    out: Matrix,
    scores: Matrix,
    span: Span,
    bias: Option<(&'s PositionBias, usize)>,
}

impl<S: Simd> RowTileKernel<S> for HeadKernel<'_> {
    #[inline(always)]
    unsafe fn run<const R: usize>(&self, simd: S, row: usize) {
        let (tokens, width, padded) = (self.queries.rows(), self.queries.columns(), self.scores.columns());
        let panel = 2 * S::WIDTH;
        // The spans of consecutive queries move forward, so the tile's keys end with those of its last query.
        let keys = self.span.keys(row, tokens).start..self.span.keys(row + R - 1, tokens).end;
        let panels = keys.start / panel..keys.end.div_ceil(panel);
        let columns = panels.start * panel..panels.end * panel;
        let mut scale = [0.0; R];
        // SAFETY: by the caller's contract all rows exist; the loop bounds keep each access within its matrix.
        unsafe {
            let queries = (self.queries.row(row).cast_const(), self.queries.stride());
            for index in panels {
                let mut sums = [[simd.splat(0.0); 2]; R];
                let keys = (self.keys.row(index * width).cast_const(), panel, width);
                microkernel(simd, queries, keys, Prefetch::NONE, &mut sums);
                for (row, [low, high]) in sums.into_iter().enumerate() {
                    let out = self.scores.row(row).add(index * panel);
                    simd.store(out, low);
                    simd.store(out.add(S::WIDTH), high);
                }
            }
            for (index, scale) in scale.iter_mut().enumerate() {
                let (query, scores) = (row + index, self.scores.row(index));
                if let Some(bias) = self.bias {
                    add_bias(simd, scores, (bias, query), columns.clone());
                }
                *scale = 1.0 / exp2_scores(simd, scores, self.span.keys(query, tokens), columns.clone());
            }
            let depth = keys.len();
            let scores = (self.scores.row(0).add(keys.start).cast_const(), padded);
            for column in (0..width).step_by(panel) {
                let mut sums = [[simd.splat(0.0); 2]; R];
                let values = self.values.row(keys.start).add(column).cast_const();
                let values = (values, self.values.stride(), depth);
                microkernel(simd, scores, values, Prefetch::NONE, &mut sums);
                for (index, [low, high]) in sums.into_iter().enumerate() {
                    let out = self.out.row(row + index).add(column);
                    let scale = simd.splat(scale[index]);
                    simd.store(out, simd.mul(low, scale));
                    simd.store(out.add(S::WIDTH), simd.mul(high, scale));
                }
            }
        }
    }
}

/// Adds to the scores of a query the bias by position, which is that of a head.
///
/// # Safety
/// `scores` must be valid for `columns`, which are whole vectors.
#[inline(always)]
pub(crate) unsafe fn add_bias<S: Simd>(
    simd: S,
    scores: *mut f32,
    ((bias, head), query): ((&PositionBias, usize), usize),
    columns: Range<usize>,
) {
    // A panel may begin before the first key of the span, but not before the first token.
    let bias = bias.row(head, query, columns.start);
    assert!(bias.len() >= columns.len());
    for column in (0..columns.len()).step_by(S::WIDTH) {
        // SAFETY: by the caller's contract, and by the assertion.
        unsafe {
            let address = scores.add(columns.start + column);
            let sum = simd.add(simd.load(address), simd.load(bias.as_ptr().add(column)));
            simd.store(address, sum);
        }
    }
}

/// Replaces the scores of `keys` by 2^(score − maximum), and returns their sum. The other scores of `columns` become
/// 2⁻⁶⁴, which changes no sum in f32: the largest power is 1.
///
/// # Safety
/// `scores` must be valid for `columns`, which are whole vectors and include `keys`.
#[inline(always)]
pub(crate) unsafe fn exp2_scores<S: Simd>(
    simd: S,
    scores: *mut f32,
    keys: Range<usize>,
    columns: Range<usize>,
) -> f32 {
    // SAFETY: by the caller's contract.
    unsafe {
        for index in (columns.start..keys.start).chain(keys.end..columns.end) {
            *scores.add(index) = f32::NEG_INFINITY;
        }
        let mut max = simd.splat(f32::NEG_INFINITY);
        for index in columns.clone().step_by(S::WIDTH) {
            max = simd.max(max, simd.load(scores.add(index)));
        }
        let max = simd.splat(simd.reduce_max(max));
        let mut sum = simd.splat(0.0);
        for index in columns.step_by(S::WIDTH) {
            let address = scores.add(index);
            let power = math::exp2(simd, simd.sub(simd.load(address), max));
            simd.store(address, power);
            sum = simd.add(sum, power);
        }
        simd.reduce_sum(sum)
    }
}
