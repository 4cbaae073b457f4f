//! Matrix B of a product of groups, laid out in the order in which the kernel reads it.

use super::GroupDot;
use crate::{buffer::Buffer, layer::UnpackedB};

/// Format of the values of B and of the rows of A.
pub(crate) trait WeightFormat: Copy + Send + Sync + 'static {
    const ZERO: Self;

    /// The factor of each column of A before it is rounded; rows of B are divided by it. `maxima` are those of A's
    /// columns, if known; `weights` those of B's rows.
    fn input_factors(maxima: Option<&[f32]>, weights: &[f32]) -> Vec<f32>;

    /// Rounds a column of B, times `factor`, into `rounded`, and returns its scale and the sum of the rounded values.
    fn round_column(column: &[f32], factor: f32, rounded: &mut [Self]) -> (f32, i32);

    /// Rounds `factors.len()` values at `from`, times `factors`, to a row of A with its header.
    ///
    /// # Safety
    /// `from` must be valid for reading the values, a multiple of two vectors, and `to` for writing the row.
    unsafe fn round_row<D: GroupDot<Weight = Self>>(dot: D, from: *const f32, factors: &[f32], to: *mut f32);
}

/// `[K, columns]` in panels of `panel_width` columns, with `group` values of a column next to each other.
pub(crate) struct RoundedB<W> {
    data: Buffer,
    /// K divided by the values in a group, rounded up.
    groups: usize,
    group: usize,
    columns: usize,
    panel_width: usize,
    /// Scale of each column's values.
    column_scales: Vec<f32>,
    /// Sum of each column's rounded values.
    column_sums: Vec<i32>,
    /// Factor of each value of A before it is rounded, padded with zeros to whole panels.
    input_factors: Vec<f32>,
    weights: std::marker::PhantomData<W>,
}

impl<W: WeightFormat> RoundedB<W> {
    pub(super) fn pack(
        [panel_width, group]: [usize; 2],
        UnpackedB { rows, columns, column, .. }: UnpackedB<'_>,
        maxima: Option<&[f32]>,
    ) -> Self {
        assert!(columns.is_multiple_of(panel_width), "{columns} columns in panels of {panel_width}");
        let groups = rows.len().div_ceil(group);
        let mut weight_maxima = vec![0.0f32; rows.len()];
        for (values, _) in (0..columns).filter_map(column) {
            for (max, source) in weight_maxima.iter_mut().zip(rows) {
                *max = source.map_or(0.0, |source| max.max(values[source].abs()));
            }
        }
        let maxima: Option<Vec<f32>> = maxima
            .map(|maxima| rows.iter().map(|source| source.map_or(0.0, |source| maxima[source])).collect());
        let mut input_factors = W::input_factors(maxima.as_deref(), &weight_maxima);

        let (mut values_of_column, mut rounded) = (vec![0.0; rows.len()], Vec::new());
        let (mut column_scales, mut column_sums) = (vec![0.0; columns], vec![0; columns]);
        let mut packed = Self {
            data: Buffer::zeroed((groups * group * columns * size_of::<W>()).div_ceil(size_of::<f32>())),
            groups,
            group,
            columns,
            panel_width,
            column_scales: Vec::new(),
            column_sums: Vec::new(),
            input_factors: Vec::new(),
            weights: std::marker::PhantomData,
        };
        for index in 0..columns {
            let Some((values, factor)) = column(index) else { continue };
            for ((out, source), input_factor) in values_of_column.iter_mut().zip(rows).zip(&input_factors) {
                *out = source.map_or(0.0, |source| values[source] / input_factor);
            }
            rounded.clear();
            rounded.resize(rows.len(), W::ZERO);
            (column_scales[index], column_sums[index]) =
                W::round_column(&values_of_column, factor, &mut rounded);
            let (panel, lane) = (index / panel_width, index % panel_width);
            let weights = packed.weights_mut();
            for (k, value) in rounded.iter().enumerate() {
                weights[((panel * groups + k / group) * panel_width + lane) * group + k % group] = *value;
            }
        }
        input_factors.resize(rows.len().next_multiple_of(panel_width), 0.0);
        Self { column_scales, column_sums, input_factors, ..packed }
    }

    fn weights_mut(&mut self) -> &mut [W] {
        let len = self.groups * self.group * self.columns;
        // SAFETY: the buffer has that many values, all bits of which are valid, and is aligned to a cache line.
        unsafe { std::slice::from_raw_parts_mut(self.data.pointer().cast(), len) }
    }

    /// Groups of a column.
    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn panel_width(&self) -> usize {
        self.panel_width
    }

    pub(super) fn column_scales(&self) -> &[f32] {
        &self.column_scales
    }

    pub(super) fn column_sums(&self) -> &[i32] {
        &self.column_sums
    }

    pub(super) fn input_factors(&self) -> &[f32] {
        &self.input_factors
    }

    /// Address of a panel.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> *const W {
        debug_assert!(panel < self.columns / self.panel_width);
        let offset = panel * self.groups * self.group * self.panel_width;
        self.data.pointer().cast::<W>().wrapping_add(offset)
    }
}
