//! Scaled dot-product attention of one sequence in one head, with products of integers of 16 bits.
//!
//! An instruction that multiplies and adds pairs of 16 bits computes twice as many products as one for f32, and the
//! rounding to 16 bits is far below that of linear layers in 8 bits. Queries and the weights of the softmax are rounded
//! with a scale for each row, keys and values with one for all tokens of the sequence, so that a sequence has the same
//! values in any batch. Sums are exact.
//!
//! A pair holds two values of the same sum. Exact sums do not depend on the order of their values, so the values of a
//! pair come from two vectors instead of from neighbors in one:
//!
//! ```text
//!  queries, keys:    columns c and c + width / 2 of the head
//!  weights, values:  tokens  t and t + W of a panel of 2 · W tokens, W = lanes of a vector
//! ```

use encoder_spec::Span;

use super::{GroupDot, Vector, WithGroupDot};
use crate::{
    fp32::{
        attention::{Attention, add_bias, exp2_scores},
        tiles::{self, MR_MAX, RowTileKernel},
    },
    matrix::Matrix,
    positions::PositionBias,
    simd::Simd,
};

/// Largest magnitude of a rounded value; see [`MAX_TOKENS`].
const MAX_VALUE: f32 = 8191.0;

/// Largest sum of the weights of a row, before they are rounded to integers.
const MAX_WEIGHTS: f32 = 131_072.0;

/// Largest rounded weight: the largest integer of 16 bits.
const MAX_WEIGHT: f32 = 32_767.0;

/// Minimum number of tokens of a sequence. With fewer, rounding takes as long as the faster products save: measured
/// with AVX2 and heads of 32 values.
const MIN_TOKENS: usize = 64;

/// Maximum number of tokens of a sequence. Rounding adds at most ½ for each to the sum of the weights, so that the sums
/// of their products with values are below 2³¹.
const MAX_TOKENS: usize = 262_144;

/// Lower bound of the maximum of a matrix, so that its inverse is finite.
const MIN_MAXIMUM: f32 = 1e-30;

/// f32 values before the packed keys: the scale of the keys, that of the values, and padding to a cache line.
const HEADER: usize = 16;

/// Instructions that round to pairs of integers of 16 bits, and that multiply and add them.
pub(super) trait PairDot: GroupDot {
    /// A vector with a pair, or a sum of products, in each lane of 32 bits.
    type Pairs: Copy;

    fn zero(self) -> Self::Pairs;

    /// The pair at `from`, in every lane.
    ///
    /// # Safety
    /// `from` must be valid for reading 32 bits.
    unsafe fn broadcast_pair(self, from: *const f32) -> Self::Pairs;

    /// # Safety
    /// `from` must be valid for reading a vector.
    unsafe fn load_pairs(self, from: *const f32) -> Self::Pairs;

    /// # Safety
    /// `to` must be valid for writing a vector.
    unsafe fn store_pairs(self, to: *mut f32, pairs: Self::Pairs);

    /// Pairs of the nearest integers. The result is unspecified for a magnitude above 32,767.
    fn round_to_pairs(self, first: Vector<Self>, second: Vector<Self>) -> Self::Pairs;

    /// sums + a · b in each lane.
    fn dot_pairs(self, sums: Self::Pairs, a: Self::Pairs, b: Self::Pairs) -> Self::Pairs;

    /// Sums as f32.
    fn sums_to_f32(self, sums: Self::Pairs) -> Vector<Self>;
}

/// Computes the attention of a sequence in a head, in f32 if it has too few or too many tokens. The choice depends only
/// on the number of tokens, so that the results do not depend on the batch.
pub(super) fn run<D: PairDot>(dot: D, attention: Attention<'_>) {
    if (MIN_TOKENS..=MAX_TOKENS).contains(&attention.queries.rows()) {
        dot.run(PairAttention(attention));
    } else {
        dot.simd().run(attention);
    }
}

/// As [`Attention`], for up to [`MAX_TOKENS`] tokens.
pub(super) struct PairAttention<'s>(pub(super) Attention<'s>);

impl<D: PairDot> WithGroupDot<D> for PairAttention<'_> {
    #[inline(always)]
    fn with_dot(self, dot: D) {
        let Attention { queries, keys, values, out, span, bias, has_packed_keys, scratch } = self.0;
        let lanes = D::Simd::WIDTH;
        let panel = 2 * lanes;
        let (tokens, width) = (queries.rows(), queries.columns());
        assert!(width.is_multiple_of(panel), "a head of {width} in panels of {panel}");
        assert!(tokens <= MAX_TOKENS);
        for other in [keys, values, out] {
            assert!(other.rows() == tokens && other.columns() == width);
        }
        let (padded, pairs) = (tokens.next_multiple_of(panel), width / 2);
        let [packed, rows] = scratch;
        let packed = packed.reserve(HEADER + padded * width);
        let rows = rows.reserve(MR_MAX * (pairs + padded + padded / 2));
        let key_panels = [padded / panel * pairs, panel];
        let kernel = PairHeadKernel {
            dot,
            queries,
            out,
            scales: Matrix::of(packed, 0, [1, 2], HEADER),
            keys: Matrix::of(packed, HEADER, key_panels, panel),
            values: Matrix::of(packed, HEADER + padded * pairs, [padded / 2, width], width),
            query_pairs: Matrix::of(rows, 0, [MR_MAX, pairs], pairs),
            scores: Matrix::of(rows, MR_MAX * pairs, [MR_MAX, padded], padded),
            weights: Matrix::of(rows, MR_MAX * (pairs + padded), [MR_MAX, padded / 2], padded / 2),
            span,
            bias,
        };
        // SAFETY: the sizes were checked above; the scratch memory is this call's alone.
        unsafe {
            if !has_packed_keys {
                kernel.pack_keys(keys);
                kernel.pack_values(values);
            }
            tiles::run(dot.simd(), tokens, &kernel);
        }
    }
}

/// Attention of a tile of queries to all keys.
struct PairHeadKernel<'s, D> {
    dot: D,
    /// `[tokens, width]`.
    queries: Matrix,
    out: Matrix,
    /// Scales of the keys and of the values.
    scales: Matrix,
    /// `[panels, width / 2, panel]` pairs.
    keys: Matrix,
    /// `[panels · W, width]` pairs.
    values: Matrix,
    /// `[rows of a tile, width / 2]` pairs.
    query_pairs: Matrix,
    /// `[rows of a tile, padded tokens]`.
    scores: Matrix,
    /// `[rows of a tile, padded tokens / 2]` pairs.
    weights: Matrix,
    span: Span,
    bias: Option<(&'s PositionBias, usize)>,
}

/// Largest magnitude of queries and keys: the sum of `width` products fits an i32.
fn max_of_products(width: usize) -> f32 {
    (i32::MAX as usize / width).isqrt().min(i16::MAX as usize) as f32
}

/// The factor by which the largest magnitude of the rows becomes `limit`, and its inverse, which is NaN if a value is
/// not finite.
///
/// # Safety
/// No other code may write the rows, whose width is a multiple of a vector's.
#[inline(always)]
unsafe fn factor_and_scale<S: Simd>(simd: S, rows: Matrix, limit: f32) -> [f32; 2] {
    let zero = simd.splat(0.0);
    let (mut max, mut check) = (zero, zero);
    for row in 0..rows.rows() {
        for column in (0..rows.columns()).step_by(S::WIDTH) {
            // SAFETY: by the caller's contract.
            let value = unsafe { simd.load(rows.row(row).add(column)) };
            max = simd.max(simd.abs(value), max);
            check = simd.mul_add(value, zero, check);
        }
    }
    let max = simd.reduce_max(max).max(MIN_MAXIMUM);
    [limit / max, max / limit + simd.reduce_sum(check)]
}

impl<D: PairDot> PairHeadKernel<'_, D> {
    /// Rounds a query or key to the pairs at `to`.
    ///
    /// # Safety
    /// `from` must be valid for a head, and `to` for writing half as many pairs.
    #[inline(always)]
    unsafe fn round_row(&self, from: *const f32, factor: f32, to: *mut f32) {
        let (dot, simd) = (self.dot, self.dot.simd());
        let (factor, pairs) = (simd.splat(factor), self.queries.columns() / 2);
        for pair in (0..pairs).step_by(D::Simd::WIDTH) {
            // SAFETY: by the caller's contract.
            unsafe {
                let (first, second) = (simd.load(from.add(pair)), simd.load(from.add(pairs + pair)));
                let rounded = dot.round_to_pairs(simd.mul(first, factor), simd.mul(second, factor));
                dot.store_pairs(to.add(pair), rounded);
            }
        }
    }

    /// Writes sums times `scale`.
    ///
    /// # Safety
    /// `to` must be valid for writing two vectors.
    #[inline(always)]
    unsafe fn store_scaled(&self, to: *mut f32, sums: [D::Pairs; 2], scale: f32) {
        let (dot, simd) = (self.dot, self.dot.simd());
        let scale = simd.splat(scale);
        for (index, sums) in sums.into_iter().enumerate() {
            // SAFETY: by the caller's contract.
            unsafe {
                simd.store(to.add(index * D::Simd::WIDTH), simd.mul(dot.sums_to_f32(sums), scale));
            }
        }
    }

    /// Rounds the keys and transposes them into panels. The places after the last token are not written: their scores
    /// are replaced.
    ///
    /// # Safety
    /// No other code may access the scratch memory, or write the keys.
    #[inline(always)]
    unsafe fn pack_keys(&self, from: Matrix) {
        let (dot, panel) = (self.dot, self.keys.columns());
        let (width, row) = (from.columns(), self.query_pairs.row(0));
        // SAFETY: by the caller's contract; the loops stay within the matrices.
        unsafe {
            let [factor, scale] = factor_and_scale(dot.simd(), from, max_of_products(width));
            *self.scales.row(0) = scale;
            for token in 0..from.rows() {
                self.round_row(from.row(token), factor, row);
                let to = self.keys.row(token / panel * (width / 2)).add(token % panel).cast::<u32>();
                for pair in 0..width / 2 {
                    *to.add(pair * panel) = *row.cast::<u32>().add(pair);
                }
            }
        }
    }

    /// Rounds the values. Pairs without a token are not written, and their weights are 0.
    ///
    /// # Safety
    /// As for [`pack_keys`](Self::pack_keys).
    #[inline(always)]
    unsafe fn pack_values(&self, from: Matrix) {
        let (dot, simd, lanes) = (self.dot, self.dot.simd(), D::Simd::WIDTH);
        // SAFETY: by the caller's contract; the loops stay within the matrices.
        unsafe {
            let [factor, scale] = factor_and_scale(simd, from, MAX_VALUE);
            *self.scales.row(0).add(1) = scale;
            let factor = simd.splat(factor);
            for pair in 0..self.values.rows() {
                let token = pair / lanes * 2 * lanes + pair % lanes;
                if token >= from.rows() {
                    continue;
                }
                for column in (0..from.columns()).step_by(lanes) {
                    let first = simd.mul(simd.load(from.row(token).add(column)), factor);
                    let second = if token + lanes < from.rows() {
                        simd.mul(simd.load(from.row(token + lanes).add(column)), factor)
                    } else {
                        simd.splat(0.0)
                    };
                    dot.store_pairs(self.values.row(pair).add(column), dot.round_to_pairs(first, second));
                }
            }
        }
    }
}

impl<D: PairDot> RowTileKernel<D::Simd> for PairHeadKernel<'_, D> {
    #[inline(always)]
    unsafe fn run<const R: usize>(&self, simd: D::Simd, row: usize) {
        let (dot, lanes) = (self.dot, D::Simd::WIDTH);
        let panel = 2 * lanes;
        let (tokens, width) = (self.queries.rows(), self.queries.columns());
        let pairs = width / 2;
        // The spans of consecutive queries move forward, so the tile's keys end with those of its last query.
        let keys = self.span.keys(row, tokens).start..self.span.keys(row + R - 1, tokens).end;
        let panels = keys.start / panel..keys.end.div_ceil(panel);
        let columns = panels.start * panel..panels.end * panel;
        let mut scales = [0.0; R];
        // SAFETY: by the caller's contract all rows exist; the loop bounds keep each access within its matrix.
        unsafe {
            let [key_scale, value_scale] = [*self.scales.row(0), *self.scales.row(0).add(1)];
            for (index, scale) in scales.iter_mut().enumerate() {
                let query = self.queries.rows_from(row + index, 1);
                let [factor, inverse] = factor_and_scale(simd, query, max_of_products(width));
                *scale = inverse * key_scale;
                self.round_row(query.row(0), factor, self.query_pairs.row(index));
            }
            let queries = (self.query_pairs.row(0).cast_const(), pairs);
            for index in panels.clone() {
                let mut sums = [[dot.zero(); 2]; R];
                multiply(dot, queries, (self.keys.row(index * pairs), panel, pairs), &mut sums);
                for (row, sums) in sums.into_iter().enumerate() {
                    self.store_scaled(self.scores.row(row).add(index * panel), sums, scales[row]);
                }
            }
            for (index, scale) in scales.iter_mut().enumerate() {
                let (query, scores) = (row + index, self.scores.row(index));
                if let Some(bias) = self.bias {
                    add_bias(simd, scores, (bias, query), columns.clone());
                }
                let sum = exp2_scores(simd, scores, self.span.keys(query, tokens), columns.clone());
                let factor = simd.splat((MAX_WEIGHTS / sum).min(MAX_WEIGHT));
                // Equal weights round to equal integers. Since the result is divided by the sum of the rounded weights,
                // it is still the mean of the values.
                let (one, mut total) = (simd.splat(1.0), dot.zero());
                let ones = dot.round_to_pairs(one, one);
                for index_of_panel in panels.clone() {
                    let from = scores.add(index_of_panel * panel);
                    let (first, second) = (simd.load(from), simd.load(from.add(lanes)));
                    let weights = dot.round_to_pairs(simd.mul(first, factor), simd.mul(second, factor));
                    dot.store_pairs(self.weights.row(index).add(index_of_panel * lanes), weights);
                    total = dot.dot_pairs(total, weights, ones);
                }
                *scale = value_scale / simd.reduce_sum(dot.sums_to_f32(total));
            }
            let first = panels.start * lanes;
            let last_panel = panels.end - 1;
            let depth = last_panel * lanes + lanes.min(keys.end - last_panel * panel) - first;
            let weights = (self.weights.row(0).add(first).cast_const(), self.weights.stride());
            for column in (0..width).step_by(panel) {
                let mut sums = [[dot.zero(); 2]; R];
                let values = (self.values.row(first).add(column).cast_const(), width, depth);
                multiply(dot, weights, values, &mut sums);
                for (index, sums) in sums.into_iter().enumerate() {
                    self.store_scaled(self.out.row(row + index).add(column), sums, scales[index]);
                }
            }
        }
    }
}

/// `sums[r][v] += Σ a[r, k] · b[k, v]` over the pairs k. Each operand is its address and its stride in pairs; that of B
/// also has its rows, `depth`.
///
/// # Safety
/// `a` must be valid for `R` rows of `depth` pairs, `b` for `depth` rows of two vectors.
#[inline(always)]
unsafe fn multiply<D: PairDot, const R: usize>(
    dot: D,
    (a, a_stride): (*const f32, usize),
    (b, b_stride, depth): (*const f32, usize, usize),
    sums: &mut [[D::Pairs; 2]; R],
) {
    for k in 0..depth {
        // SAFETY: by the caller's contract.
        unsafe {
            let b = b.add(k * b_stride);
            let (low, high) = (dot.load_pairs(b), dot.load_pairs(b.add(D::Simd::WIDTH)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let pair = dot.broadcast_pair(a.add(row * a_stride + k));
                sums[0] = dot.dot_pairs(sums[0], pair, low);
                sums[1] = dot.dot_pairs(sums[1], pair, high);
            }
        }
    }
}
