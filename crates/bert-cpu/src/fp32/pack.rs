//! Matrix B of a GEMM, laid out in the order in which the kernel reads it.

use crate::{buffer::Buffer, layer::UnpackedB};

/// `[K, columns]` in panels of `panel_width` columns, each row-major and contiguous.
pub(crate) struct PackedB {
    data: Buffer,
    k: usize,
    columns: usize,
    panel_width: usize,
}

impl PackedB {
    pub(super) fn pack(panel_width: usize, UnpackedB { rows, columns, column, .. }: UnpackedB<'_>) -> Self {
        assert!(columns.is_multiple_of(panel_width), "{columns} columns in panels of {panel_width}");
        let mut data = Buffer::zeroed(rows.len() * columns);
        let panel = rows.len() * panel_width;
        for (index, out) in data.as_mut_slice().chunks_exact_mut(panel.max(1)).enumerate() {
            for lane in 0..panel_width {
                let Some((values, factor)) = column(index * panel_width + lane) else { continue };
                for (k, source) in rows.iter().enumerate() {
                    if let Some(source) = *source {
                        out[k * panel_width + lane] = values[source] * factor;
                    }
                }
            }
        }
        Self { data, k: rows.len(), columns, panel_width }
    }

    /// The reduction dimension: rows.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn panel_width(&self) -> usize {
        self.panel_width
    }

    /// Address of row `k` of a panel; the panel's next rows follow.
    #[inline(always)]
    pub(super) fn row(&self, panel: usize, k: usize) -> *const f32 {
        debug_assert!(panel < self.columns / self.panel_width && k <= self.k);
        self.data.pointer().wrapping_add((panel * self.k + k) * self.panel_width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear_input::LinearInput;

    #[test]
    fn panels_are_row_major_and_padding_is_zero() {
        // The second row and the last column are padding; the factor is 2.
        let weight = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let column = |index: usize| weight.get(index).map(|row| (row.as_slice(), 2.0));
        let unpacked = UnpackedB {
            input: LinearInput::EmbeddingProjection,
            rows: &[Some(1), None],
            columns: 4,
            column: &column,
        };
        let mut packed = PackedB::pack(2, unpacked);
        assert_eq!(packed.data.as_mut_slice(), [4.0, 8.0, 0.0, 0.0, 12.0, 0.0, 0.0, 0.0]);
        assert_eq!((packed.k(), packed.columns(), packed.panel_width()), (2, 4, 2));
    }
}
