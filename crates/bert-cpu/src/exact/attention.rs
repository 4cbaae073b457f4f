//! Self-attention of one sequence in one head.
//!
//! Some rows of scores at a time, so that they stay in the first-level cache from the product with the keys,
//! through softmax, to the product with the values. Nothing is masked: a sequence attends to itself alone.

use super::{
    math,
    product::accumulate,
    tiles::{self, MOST_ROWS, Tiled},
};
use crate::{
    buffer::Buffer,
    lanes::{Kernel, Lanes},
    matrix::Matrix,
};

/// Memory of one thread, for one head of one sequence; grows to the longest seen.
#[derive(Default)]
pub(super) struct Scratch {
    /// The keys as panels, like a right factor: `[panels, width, two vectors]`.
    keys: Option<Buffer>,
    /// Rows of scores, each padded to whole panels.
    scores: Option<Buffer>,
}

impl Scratch {
    fn reserve(&mut self, keys: usize, scores: usize) -> (&Buffer, &Buffer) {
        for (buffer, len) in [(&mut self.keys, keys), (&mut self.scores, scores)] {
            if buffer.as_ref().is_none_or(|buffer| buffer.len() < len) {
                *buffer = Some(Buffer::zeroed(len));
            }
        }
        let (Some(keys), Some(scores)) = (&self.keys, &self.scores) else { unreachable!("both were filled") };
        (keys, scores)
    }
}

/// `out = softmax₂(queries · keysᵀ) · values`, where softmax₂ takes powers of two: the factor log₂ e / √width is
/// in the queries already.
pub(super) struct Attention<'s> {
    /// `[tokens, width]` each; `width` is a whole number of panels.
    pub(super) queries: Matrix,
    pub(super) keys: Matrix,
    pub(super) values: Matrix,
    pub(super) out: Matrix,
    pub(super) scratch: &'s mut Scratch,
}

impl Kernel for Attention<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let panel = 2 * L::WIDTH;
        let (tokens, width) = (self.queries.rows(), self.queries.columns());
        assert!(width.is_multiple_of(panel), "a head of {width} in panels of {panel}");
        for other in [self.keys, self.values, self.out] {
            assert!(other.rows() == tokens && other.columns() == width);
        }
        let padded = tokens.next_multiple_of(panel);
        let (keys, scores) = self.scratch.reserve(padded * width, MOST_ROWS * padded);
        let keys = Matrix::of(keys, 0, [padded / panel * width, panel], panel);
        let scores = Matrix::of(scores, 0, [MOST_ROWS, padded], padded);
        let head = Head { queries: self.queries, keys, values: self.values, out: self.out, scores };
        // SAFETY: sizes were checked above; the scratch is this call's alone.
        unsafe {
            transpose(self.keys, keys, panel);
            tiles::compute(lanes, tokens, &head);
        }
    }
}

/// Writes `[tokens, width]` as panels of `panel` tokens: `[tokens / panel, width, panel]`, zeros after the last.
///
/// # Safety
/// `to` must have `width` rows of `panel` values for every panel begun, and be accessed by nobody else.
#[inline(always)]
unsafe fn transpose(from: Matrix, to: Matrix, panel: usize) {
    let width = from.columns();
    for token in 0..from.rows().next_multiple_of(panel) {
        let (first, lane) = (token / panel * width, token % panel);
        for column in 0..width {
            // SAFETY: by the caller's promise.
            unsafe {
                let value = if token < from.rows() { *from.row(token).add(column) } else { 0.0 };
                *to.row(first + column).add(lane) = value;
            }
        }
    }
}

/// One head's matrices; `keys` as panels.
struct Head {
    queries: Matrix,
    keys: Matrix,
    values: Matrix,
    out: Matrix,
    scores: Matrix,
}

impl Tiled for Head {
    #[inline(always)]
    unsafe fn tile<L: Lanes, const R: usize>(&self, lanes: L, row: usize) {
        let (tokens, width, padded) = (self.queries.rows(), self.queries.columns(), self.scores.columns());
        let panel = 2 * L::WIDTH;
        let mut scale = [0.0; R];
        // SAFETY: by the caller's promise everything lies within its matrix; see each loop's bounds.
        unsafe {
            let queries = (self.queries.row(row).cast_const(), self.queries.stride());
            for index in 0..padded / panel {
                let mut sums = [[lanes.splat(0.0); 2]; R];
                let keys = (self.keys.row(index * width).cast_const(), panel);
                accumulate(lanes, queries, keys, width, &mut sums);
                for (row, [low, high]) in sums.into_iter().enumerate() {
                    let out = self.scores.row(row).add(index * panel);
                    lanes.store(out, low);
                    lanes.store(out.add(L::WIDTH), high);
                }
            }
            for (row, scale) in scale.iter_mut().enumerate() {
                *scale = 1.0 / softmax(lanes, self.scores.row(row), tokens, padded);
            }
            let scores = (self.scores.row(0).cast_const(), padded);
            for column in (0..width).step_by(panel) {
                let mut sums = [[lanes.splat(0.0); 2]; R];
                let values = (self.values.row(0).add(column).cast_const(), self.values.stride());
                accumulate(lanes, scores, values, tokens, &mut sums);
                for (index, [low, high]) in sums.into_iter().enumerate() {
                    let out = self.out.row(row + index).add(column);
                    let scale = lanes.splat(scale[index]);
                    lanes.store(out, lanes.mul(low, scale));
                    lanes.store(out.add(L::WIDTH), lanes.mul(high, scale));
                }
            }
        }
    }
}

/// Replaces the first `tokens` scores by 2^(score − largest), and returns their sum.
///
/// # Safety
/// `scores` must be valid for `padded` values, a multiple of the vector's width and no less than `tokens`.
#[inline(always)]
unsafe fn softmax<L: Lanes>(lanes: L, scores: *mut f32, tokens: usize, padded: usize) -> f32 {
    // SAFETY: by the caller's promise.
    unsafe {
        for index in tokens..padded {
            *scores.add(index) = f32::NEG_INFINITY;
        }
        let mut largest = lanes.splat(f32::NEG_INFINITY);
        for index in (0..padded).step_by(L::WIDTH) {
            largest = lanes.max(largest, lanes.load(scores.add(index)));
        }
        let largest = lanes.splat(lanes.maximum(largest));
        let mut sum = lanes.splat(0.0);
        for index in (0..padded).step_by(L::WIDTH) {
            let at = scores.add(index);
            let power = math::exp2(lanes, lanes.sub(lanes.load(at), largest));
            lanes.store(at, power);
            sum = lanes.add(sum, power);
        }
        lanes.sum(sum)
    }
}
