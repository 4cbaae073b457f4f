//! Norm and rotary position embedding of each head's queries and keys, in place.

use crate::{
    layer::NormParams,
    matrix::Matrix,
    positions::RopeTable,
    simd::{Simd, WithSimd},
};

/// `x = rotate(norm(x), position)` for each head of each row.
pub(crate) struct QueryKey<'q> {
    /// `[rows, (heads + kv_heads) · padded head]`: queries, then keys.
    pub(crate) rows: Matrix,
    /// Position of each row in its sequence.
    pub(crate) positions: &'q [usize],
    /// Query heads; the others are keys.
    pub(crate) heads: usize,
    /// Padded width of a head.
    pub(crate) padded: usize,
    /// RMSNorm of queries and of keys, in the layout of a head, and its epsilon.
    pub(crate) norm: Option<([&'q NormParams; 2], f32)>,
    pub(crate) rope: Option<&'q RopeTable>,
}

impl WithSimd for QueryKey<'_> {
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, positions, heads, padded, norm, rope } = self;
        assert!(rows.rows() == positions.len() && rows.columns().is_multiple_of(padded));
        assert!(padded.is_multiple_of(2 * S::WIDTH));
        if let Some((norms, _)) = norm {
            assert!(norms.iter().all(|params| params.scale.len() == padded));
        }
        for (row, &position) in positions.iter().enumerate() {
            for head in 0..rows.columns() / padded {
                let x = rows.row(row).wrapping_add(head * padded);
                if let Some((norms, epsilon)) = norm {
                    // SAFETY: `x` is valid for a head, as is the scale; the row is this task's.
                    unsafe { rms_norm(simd, x, norms[usize::from(head >= heads)], epsilon) };
                }
                if let Some(rope) = rope {
                    // SAFETY: as above.
                    unsafe { rotate(simd, x, padded / 2, rope.at(position)) };
                }
            }
        }
    }
}

/// # Safety
/// `x` must be valid for as many values as the norm's scale has, a multiple of the vector width.
#[inline(always)]
unsafe fn rms_norm<S: Simd>(simd: S, x: *mut f32, norm: &NormParams, epsilon: f32) {
    // SAFETY: by the caller's contract.
    unsafe {
        let mut squares = simd.splat(0.0);
        for column in (0..norm.scale.len()).step_by(S::WIDTH) {
            let value = simd.load(x.add(column));
            squares = simd.mul_add(value, value, squares);
        }
        let mean = simd.reduce_sum(squares) / norm.width as f32;
        let factor = simd.splat(1.0 / (mean + epsilon).sqrt());
        for column in (0..norm.scale.len()).step_by(S::WIDTH) {
            let scale = simd.load(norm.scale.as_ptr().add(column));
            let value = simd.mul(simd.load(x.add(column)), factor);
            simd.store(x.add(column), simd.mul(value, scale));
        }
    }
}

/// # Safety
/// `x` must be valid for two halves of `half` values, a multiple of the vector width; so must be the slices for one.
#[inline(always)]
unsafe fn rotate<S: Simd>(simd: S, x: *mut f32, half: usize, [cos, sin]: [&[f32]; 2]) {
    assert!(cos.len() == half && sin.len() == half);
    for column in (0..half).step_by(S::WIDTH) {
        // SAFETY: by the caller's contract.
        unsafe {
            let (first, second) = (x.add(column), x.add(half + column));
            let (a, b) = (simd.load(first), simd.load(second));
            let (cos, sin) = (simd.load(cos.as_ptr().add(column)), simd.load(sin.as_ptr().add(column)));
            simd.store(first, simd.sub(simd.mul(a, cos), simd.mul(b, sin)));
            simd.store(second, simd.mul_add(b, cos, simd.mul(a, sin)));
        }
    }
}
