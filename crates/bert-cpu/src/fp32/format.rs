//! The interface between the network and the products of its linear layers, and its implementation in f32.

use std::ops::Range;

use super::{attention::Attention, gemm::Gemm, output::Output, pack::PackedB};
use crate::{layer::UnpackedB, matrix::Matrix, simd::Simd};

/// Format of the operands of linear layers' products, and the kernels that compute them. All else is f32.
pub(crate) trait Format: Copy + Send + Sync + 'static {
    /// Instruction set of the steps in f32. Panels of B have two of its vectors.
    type Simd: Simd;

    /// A packed weight matrix.
    type B: Send + Sync;

    fn simd(self) -> Self::Simd;

    /// Packs a matrix B; `maxima` are those of its input's channels, if known.
    fn pack(self, unpacked: UnpackedB<'_>, maxima: Option<&[f32]>) -> Self::B;

    /// Number of columns of B.
    fn columns(b: &Self::B) -> usize;

    /// Width of a row of `columns` values after rounding, in f32's size; 0 if products read the values themselves.
    fn rounded_width(columns: usize) -> usize;

    /// Rounds rows of the input of `b`'s product.
    fn round(self, from: Matrix, to: Matrix, b: &Self::B);

    /// Multiplies an input with panels of `b`.
    fn multiply(self, a: Operand, b: &Self::B, panels: Range<usize>, output: Output<'_>);

    /// Computes the attention of a sequence in a head.
    fn attention(self, attention: Attention<'_>);
}

/// The matrix A of a product.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    /// `[rows, K]` in f32.
    pub(crate) values: Matrix,
    /// The same rows, rounded, if the format has that.
    pub(crate) rounded: Matrix,
}

/// All operands are f32.
#[derive(Clone, Copy)]
pub(crate) struct Fp32<S>(pub(crate) S);

impl<S: Simd> Format for Fp32<S> {
    type Simd = S;

    type B = PackedB;

    fn simd(self) -> S {
        self.0
    }

    fn pack(self, unpacked: UnpackedB<'_>, _: Option<&[f32]>) -> PackedB {
        PackedB::pack(2 * S::WIDTH, unpacked)
    }

    fn columns(b: &PackedB) -> usize {
        b.columns()
    }

    fn rounded_width(_: usize) -> usize {
        0
    }

    fn round(self, _: Matrix, _: Matrix, _: &PackedB) {}

    fn multiply(self, a: Operand, b: &PackedB, panels: Range<usize>, output: Output<'_>) {
        self.0.run(Gemm { a: a.values, b, panels, output });
    }

    fn attention(self, attention: Attention<'_>) {
        self.0.run(attention);
    }
}
