//! Products of linear layers in int8 and in bf16, by instructions that multiply and add groups of values.
//!
//! Both operands are rounded to groups of values next to each other along K. A group of A takes 32 bits: one load puts
//! it in every lane, and each lane of B holds the group of another column.
//!
//! ```text
//!  A: [rows][scale, zero point, K / group][group]        B: [panels][K / group][panel width][group]
//! ```
//!
//! In int8 (`int8`) sums are exact, so their bits do not depend on the instruction set; in bf16 (`bf16`) they are f32.
//! Attention multiplies activations with each other; `attention` rounds them to 16 bits.

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod gemm;
pub(crate) mod int8;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod speed;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{Avx2Int8, AvxVnni};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512Bf16, Avx512Vnni};
use gemm::RoundedGemm;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::NeonDotprod;
use pack::{RoundedB, WeightFormat};

use crate::{
    fp32::{
        attention::Attention,
        format::{Format, Operand},
        output::Output,
    },
    layer::UnpackedB,
    matrix::Matrix,
    simd::Simd,
};

/// Words before the groups of a row of A: its scale, and its zero point, with [`GroupDot::OFFSET`], as the bits of an
/// i32.
const HEADER: usize = 2;

/// Instructions that multiply and add groups, as a proof token like [`Simd`].
pub(crate) trait GroupDot: Copy + Send + Sync + 'static {
    /// The instruction set of the steps in f32.
    type Simd: Simd;

    /// Format of B.
    type Weight: WeightFormat;

    /// A group of A, to multiply with in every lane.
    type Group: Copy;

    /// A vector with a group of B in each lane.
    type Groups: Copy;

    /// A vector of sums.
    type Sums: Copy;

    /// Values in a group.
    const GROUP: usize;

    /// Added to the integers of A and their zero point, which are from 0 to 255, so that the instruction can multiply
    /// them: −128 if it multiplies only signed values.
    const OFFSET: i32 = 0;

    fn simd(self) -> Self::Simd;

    /// Runs a kernel with the instructions enabled.
    fn run(self, op: impl WithGroupDot<Self>);

    /// The group at `from`.
    ///
    /// # Safety
    /// `from` must be valid for reading 32 bits.
    unsafe fn broadcast(self, from: *const f32) -> Self::Group;

    /// # Safety
    /// `from` must be valid for reading a group for each lane.
    unsafe fn load(self, from: *const Self::Weight) -> Self::Groups;

    /// sums + a · b in each lane.
    fn dot(self, sums: Self::Sums, a: Self::Group, b: Self::Groups) -> Self::Sums;

    /// The sums before the first group: those of the zero point with a sign, for each column.
    ///
    /// # Safety
    /// `column_sums` must be valid for reading a value for each lane, if the format has a zero point.
    unsafe fn initial(self, zero_point: i32, column_sums: *const i32) -> Self::Sums;

    /// sums · scale · column_scales + addend, as f32.
    ///
    /// # Safety
    /// `column_scales` must be valid for reading a value for each lane, if the format has scales.
    unsafe fn finish(
        self,
        sums: Self::Sums,
        scale: f32,
        column_scales: *const f32,
        addend: Vector<Self>,
    ) -> Vector<Self>;

    /// Rounds the values of two vectors to integers, adds the zero point, and writes the groups; in bf16 only rounds.
    ///
    /// # Safety
    /// `to` must be valid for writing the groups.
    unsafe fn store_rounded(self, to: *mut f32, values: [Vector<Self>; 2], zero_point: i32);

    /// Computes the attention of a sequence in a head.
    fn attention(self, attention: Attention<'_>);
}

/// A vector of f32 as wide as one of groups.
type Vector<D> = <<D as GroupDot>::Simd as Simd>::Vector;

/// A kernel that [`GroupDot::run`] compiles for its instructions, as [`WithSimd`](crate::simd::WithSimd).
pub(crate) trait WithGroupDot<D> {
    fn with_dot(self, dot: D);
}

/// Operands of products are rounded to the format of `D`.
#[derive(Clone, Copy)]
pub(crate) struct Rounded<D>(pub(crate) D);

impl<D: GroupDot> Format for Rounded<D> {
    type Simd = D::Simd;

    type B = RoundedB<D::Weight>;

    fn simd(self) -> D::Simd {
        self.0.simd()
    }

    fn pack(self, unpacked: UnpackedB<'_>, maxima: Option<&[f32]>) -> Self::B {
        RoundedB::pack([2 * D::Simd::WIDTH, D::GROUP], unpacked, maxima)
    }

    fn columns(b: &Self::B) -> usize {
        b.columns()
    }

    fn rounded_width(columns: usize) -> usize {
        HEADER + columns / D::GROUP
    }

    fn round(self, from: Matrix, to: Matrix, b: &Self::B) {
        self.0.run(RoundRows { from, to, b });
    }

    fn multiply(self, a: Operand, b: &Self::B, panels: Range<usize>, output: Output<'_>) {
        self.0.run(RoundedGemm { a: a.rounded, b, panels, output });
    }

    fn attention(self, attention: Attention<'_>) {
        self.0.attention(attention);
    }
}

/// Rounds the rows of a matrix A.
struct RoundRows<'p, W> {
    /// `[rows, K]`.
    from: Matrix,
    /// `[rows, header and groups]`.
    to: Matrix,
    /// The matrix that A is multiplied with.
    b: &'p RoundedB<W>,
}

impl<D: GroupDot> WithGroupDot<D> for RoundRows<'_, D::Weight> {
    #[inline(always)]
    fn with_dot(self, dot: D) {
        let Self { from, to, b } = self;
        let width = b.input_factors().len();
        assert!(width.is_multiple_of(2 * D::Simd::WIDTH) && from.columns() >= width);
        assert!(to.rows() == from.rows() && to.columns() >= HEADER + width / D::GROUP);
        for row in 0..from.rows() {
            // SAFETY: the assertions above check rows and widths; no other thread accesses these rows.
            unsafe { D::Weight::round_row(dot, from.row(row), b.input_factors(), to.row(row)) };
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod attention_tests;
#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod scalar_model;
#[cfg(test)]
mod tests;
