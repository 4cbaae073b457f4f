//! A matrix in a buffer that several threads share. Bounds are checked when the view is made, once for a task, so that
//! the kernels' loops need no checks.

use crate::buffer::Buffer;

/// A view of row-major values: row `r` begins at `r · stride`. Views may be copied between threads; the code that makes
/// one is responsible for which thread writes where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    start: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl Matrix {
    /// A view of `rows × columns` that begins `offset` values into the buffer.
    ///
    /// # Panics
    /// If it does not lie within the buffer.
    pub(crate) fn of(buffer: &Buffer, offset: usize, [rows, columns]: [usize; 2], stride: usize) -> Self {
        assert!(columns <= stride, "a row of {columns} in a stride of {stride}");
        let end = if rows == 0 { offset } else { offset + (rows - 1) * stride + columns };
        assert!(end <= buffer.len(), "a matrix up to {end} in a buffer of {}", buffer.len());
        // SAFETY: `offset ≤ end ≤ len`.
        let start = unsafe { buffer.pointer().add(offset) };
        Self { start, rows, columns, stride }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// `count` rows from row `first` on.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn rows_from(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "rows {first} to {} of {}", first + count, self.rows);
        // SAFETY: within the view, which lies within its buffer (a view of no rows stays at its start).
        let start = if count == 0 { self.start } else { unsafe { self.start.add(first * self.stride) } };
        Self { start, rows: count, ..self }
    }

    /// `count` columns from column `first` on.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn columns_from(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.columns, "columns {first} to {} of {}", first + count, self.columns);
        // SAFETY: as above; `first` is at most the last column of a row that exists.
        let start = if self.rows == 0 || count == 0 { self.start } else { unsafe { self.start.add(first) } };
        Self { start, columns: count, ..self }
    }

    /// Address of the row's first value. For any row below `rows`, the next `columns` values lie within the buffer.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> *mut f32 {
        debug_assert!(row < self.rows, "row {row} of {}", self.rows);
        self.start.wrapping_add(row * self.stride)
    }

    /// The values of one row.
    ///
    /// # Safety
    /// No other access to the row's columns of this view while the slice lives.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) unsafe fn row_mut<'b>(self, row: usize) -> &'b mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the view lies within its buffer; exclusive by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.row(row), self.columns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_of_a_view_addresses_its_own_values() {
        let mut buffer = Buffer::zeroed(24);
        buffer.as_mut_slice().iter_mut().enumerate().for_each(|(index, value)| *value = index as f32);
        let matrix = Matrix::of(&buffer, 2, [3, 5], 7);
        let part = matrix.rows_from(1, 2).columns_from(2, 3);
        // SAFETY: nothing else accesses the buffer.
        assert_eq!(unsafe { part.row_mut(1) }, [18.0, 19.0, 20.0]);
    }

    #[test]
    fn views_out_of_bounds_panic() {
        let buffer = Buffer::zeroed(20);
        let panics = |make: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).is_err();
        assert!(panics(&|| _ = Matrix::of(&buffer, 0, [3, 7], 7)));
        assert!(panics(&|| _ = Matrix::of(&buffer, 0, [1, 8], 7)));
        let matrix = Matrix::of(&buffer, 0, [2, 5], 10);
        assert!(panics(&|| _ = matrix.rows_from(1, 2)));
        assert!(panics(&|| _ = matrix.columns_from(3, 3)));
        // SAFETY: panics before a slice exists.
        assert!(panics(&|| _ = unsafe { matrix.row_mut(2) }));
    }
}
