//! First and last step of a GEMM, in f32 whatever the format of its operands: the bias that a sum begins with, and the
//! epilogue that it ends with.

use encoder_spec::Activation;

use super::math;
use crate::{matrix::Matrix, simd::Simd};

/// Destination of a GEMM's result.
#[derive(Clone, Copy)]
pub(crate) struct Output<'p> {
    /// A value for each column of the result.
    pub(crate) bias: &'p [f32],
    pub(crate) c: Matrix,
    pub(crate) epilogue: Epilogue,
}

/// Last step of a GEMM on its result.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Epilogue {
    /// Overwrites `c`.
    Store,
    /// Adds to `c`.
    Add,
    /// Overwrites `c` with the activation of the result.
    Activate(Activation),
    /// Writes the activation of each panel's first half, times its second half, to this matrix, which has half as many
    /// columns; `c` holds the sums between two blocks of K, if there are several.
    Gate(Activation, Matrix),
}

impl Output<'_> {
    /// Checks that a result of `rows × columns` fits.
    ///
    /// # Panics
    /// If it does not.
    #[inline(always)]
    pub(crate) fn assert_fits(&self, rows: usize, columns: usize) {
        assert!(self.bias.len() >= columns);
        if let Epilogue::Gate(_, values) = self.epilogue {
            assert!(values.rows() == rows && 2 * values.columns() >= columns);
        }
    }

    /// The bias of the panel that begins at column `column`, plus `c` in row `row` if the result is added to it.
    ///
    /// # Safety
    /// The row and the panel's columns must exist, and no other code may write them.
    #[inline(always)]
    pub(crate) unsafe fn addend<S: Simd>(&self, simd: S, (row, column): (usize, usize)) -> [S::Vector; 2] {
        // SAFETY: by the caller's contract.
        unsafe {
            let bias = self.bias.as_ptr().add(column);
            let mut sums = [simd.load(bias), simd.load(bias.add(S::WIDTH))];
            if matches!(self.epilogue, Epilogue::Add) {
                let [low, high] = self.load(simd, (row, column));
                sums = [simd.add(sums[0], low), simd.add(sums[1], high)];
            }
            sums
        }
    }

    /// The panel that begins at column `column` of row `row` of `c`.
    ///
    /// # Safety
    /// As [`addend`](Self::addend).
    #[inline(always)]
    pub(crate) unsafe fn load<S: Simd>(&self, simd: S, (row, column): (usize, usize)) -> [S::Vector; 2] {
        // SAFETY: by the caller's contract.
        unsafe {
            let c = self.c.row(row).add(column);
            [simd.load(c), simd.load(c.add(S::WIDTH))]
        }
    }

    /// Finishes the panel that begins at column `column` of row `row`, and writes it.
    ///
    /// # Safety
    /// The row and the panel's columns must exist, and no other code may access them.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        (row, column): (usize, usize),
        [mut low, mut high]: [S::Vector; 2],
    ) {
        // SAFETY: by the caller's contract.
        unsafe {
            match self.epilogue {
                Epilogue::Activate(activation) => {
                    low = math::activate(simd, activation, low);
                    high = math::activate(simd, activation, high);
                }
                Epilogue::Gate(activation, out) => {
                    let product = simd.mul(math::activate(simd, activation, low), high);
                    simd.store(out.row(row).add(column / 2), product);
                    return;
                }
                Epilogue::Store | Epilogue::Add => {}
            }
            self.store(simd, (row, column), [low, high]);
        }
    }

    /// Writes a panel of row `row` to `c` as it is.
    ///
    /// # Safety
    /// As [`finish`](Self::finish).
    #[inline(always)]
    pub(crate) unsafe fn store<S: Simd>(
        &self,
        simd: S,
        (row, column): (usize, usize),
        [low, high]: [S::Vector; 2],
    ) {
        // SAFETY: by the caller's contract.
        unsafe {
            let c = self.c.row(row).add(column);
            simd.store(c, low);
            simd.store(c.add(S::WIDTH), high);
        }
    }
}
