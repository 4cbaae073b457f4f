//! The right factor of a matrix product, laid out in the order in which the kernel reads it.

use crate::buffer::Buffer;

/// `[inputs, columns]`, cut into panels of `width` columns: each panel whole, row after row.
pub(super) struct Panels {
    data: Buffer,
    inputs: usize,
    columns: usize,
    width: usize,
}

impl Panels {
    /// Packs a map of `[inputs, columns]`. `column` gives, for each column, its values for the inputs in order
    /// and a factor to multiply them by, or nothing for a column of zeros; `inputs` gives, for each input, its
    /// place among those values, or nothing for a zero.
    pub(super) fn pack<'w>(
        width: usize,
        inputs: &[Option<usize>],
        columns: usize,
        column: impl Fn(usize) -> Option<(&'w [f32], f32)>,
    ) -> Self {
        assert!(columns.is_multiple_of(width), "{columns} columns in panels of {width}");
        let mut data = Buffer::zeroed(inputs.len() * columns);
        let panel = inputs.len() * width;
        for (index, out) in data.as_mut_slice().chunks_exact_mut(panel.max(1)).enumerate() {
            for lane in 0..width {
                let Some((values, factor)) = column(index * width + lane) else { continue };
                for (input, place) in inputs.iter().enumerate() {
                    if let Some(place) = *place {
                        out[input * width + lane] = values[place] * factor;
                    }
                }
            }
        }
        Self { data, inputs: inputs.len(), columns, width }
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The rows of panel `panel` from `input` on; `width` values a row.
    #[inline(always)]
    pub(super) fn rows(&self, panel: usize, input: usize) -> *const f32 {
        debug_assert!(panel < self.columns / self.width && input <= self.inputs);
        self.data.pointer().wrapping_add((panel * self.inputs + input) * self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_columns_side_by_side() {
        // Two inputs, the second of them padding; three columns, the last of them padding, factor 2.
        let weight = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let column = |index: usize| weight.get(index).map(|row| (row.as_slice(), 2.0));
        let mut panels = Panels::pack(2, &[Some(1), None], 4, column);
        assert_eq!(panels.data.as_mut_slice(), [4.0, 8.0, 0.0, 0.0, 12.0, 0.0, 0.0, 0.0]);
        assert_eq!((panels.inputs(), panels.columns(), panels.width()), (2, 4, 2));
    }
}
