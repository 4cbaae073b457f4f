//! Weights in bf16: the right factor of a product, laid out in the order in which the kernel reads it.
//!
//! ```text
//!   panel 0 (columns 0–31)                    panel 1 (columns 32–63)   …
//!   ┌───────────────────────────────────────┐
//!   │ c₀i₀ c₀i₁  c₁i₀ c₁i₁  …  c₃₁i₀ c₃₁i₁  │   inputs 0 and 1: 128 bytes
//!   │ c₀i₂ c₀i₃  c₁i₂ c₁i₃  …  c₃₁i₂ c₃₁i₃  │   inputs 2 and 3
//!   │ …                                     │   16 such rows are the two right tiles of one instruction
//!   └───────────────────────────────────────┘
//! ```

use super::{
    layout::Lines,
    tile::{TILE, UNIT},
};
use crate::buffer::Buffer;

/// The nearest bf16, ties to even; not-a-number stays one.
pub(super) fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // Quiet, so that cutting off the lower half cannot make it an infinity.
        return (bits >> 16) as u16 | 0x40;
    }
    let even = (bits >> 16) & 1;
    ((bits + 0x7fff + even) >> 16) as u16
}

/// `[inputs, columns]` in panels of 32 columns, the inputs padded with zeros to a multiple of 32.
pub(super) struct Panels {
    data: Buffer,
    depth: usize,
    columns: usize,
}

impl Panels {
    /// Packs a map of `[inputs, columns]`. `column` gives, for each column, its values for the inputs in order
    /// and a factor to multiply them by, or nothing for a column of zeros; `inputs` gives, for each input, its
    /// place among those values, or nothing for a zero.
    pub(super) fn pack<'w>(
        inputs: &[Option<usize>],
        columns: usize,
        column: impl Fn(usize) -> Option<(&'w [f32], f32)>,
    ) -> Self {
        assert!(columns.is_multiple_of(UNIT), "{columns} columns in panels of {UNIT}");
        let depth = inputs.len().div_ceil(UNIT);
        let data = Buffer::zeroed(depth * columns * UNIT / 2);
        let lines = Lines::of(&data, 0, depth * columns);
        for index in 0..columns {
            let Some((values, factor)) = column(index) else { continue };
            let (panel, lane) = (index / UNIT, index % UNIT);
            for (input, place) in inputs.iter().enumerate() {
                if let Some(place) = *place {
                    let line = (panel * depth * TILE + input / 2) * 2 + lane / TILE;
                    // SAFETY: the line lies within the buffer, which nobody else knows yet.
                    let line = unsafe { &mut *lines.at(line) };
                    line.0[2 * (lane % TILE) + input % 2] = bf16(values[place] * factor);
                }
            }
        }
        Self { data, depth, columns }
    }

    /// Inputs, padded, in units of 32.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn panels(&self) -> usize {
        self.columns / UNIT
    }

    /// Panel `panel` from input 32 · `k` on: 2 KiB for each 32 inputs.
    #[inline(always)]
    pub(super) fn at(&self, panel: usize, k: usize) -> *const u8 {
        debug_assert!(panel < self.panels() && k <= self.depth);
        self.data.pointer().cast::<u8>().wrapping_add((panel * self.depth + k) * UNIT * UNIT * 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_ties_go_to_even() {
        let up = |bits: u32| bf16(f32::from_bits(bits));
        assert_eq!(bf16(1.0), 0x3f80);
        assert_eq!(bf16(-2.0), 0xc000);
        assert_eq!([up(0x3f80_7fff), up(0x3f80_8000), up(0x3f80_8001)], [0x3f80, 0x3f80, 0x3f81]);
        assert_eq!([up(0x3f81_7fff), up(0x3f81_8000), up(0x3f81_8001)], [0x3f81, 0x3f82, 0x3f82]);
        assert_eq!([bf16(f32::MAX), bf16(f32::INFINITY), bf16(-0.0)], [0x7f80, 0x7f80, 0x8000]);
        assert_eq!(up(0x7f80_0001), 0x7fc0);
    }

    proptest! {
        #[test]
        fn rounding_is_within_half_a_unit(bits in 0x0080_0000u32..0x7f00_0000, negative: bool) {
            let value = f32::from_bits(bits | u32::from(negative) << 31);
            let found = f32::from_bits(u32::from(bf16(value)) << 16);
            prop_assert!((found - value).abs() <= value.abs() / 256.0);
            prop_assert_eq!(bf16(found), bf16(value));
        }

        #[test]
        fn every_weight_is_where_the_tiles_look(inputs in 1usize..70, panels in 1usize..4) {
            let columns = panels * UNIT;
            let weight: Vec<Vec<f32>> =
                (0..columns).map(|column| (0..inputs).map(|input| (column * 64 + input) as f32).collect()).collect();
            let places: Vec<_> = (0..inputs).map(|input| (input % 5 != 3).then_some(input)).collect();
            let mut packed = Panels::pack(&places, columns, |column| {
                (column % 7 != 2).then(|| (weight[column].as_slice(), 0.5))
            });
            prop_assert_eq!((packed.depth(), packed.panels()), (inputs.div_ceil(UNIT), panels));
            let (depth, start) = (packed.depth(), packed.data.pointer().addr());
            prop_assert_eq!(packed.at(panels - 1, depth).addr() - start, columns * depth * UNIT * 2);
            // A panel is [pairs, 32 columns, 2], two values in one f32 of the buffer.
            let found: Vec<u16> = packed
                .data
                .as_mut_slice()
                .iter()
                .flat_map(|two| [two.to_bits() as u16, (two.to_bits() >> 16) as u16])
                .collect();
            for (column, weight) in weight.iter().enumerate() {
                for input in 0..depth * UNIT {
                    let (panel, lane) = (column / UNIT, column % UNIT);
                    let at = ((panel * depth * TILE + input / 2) * UNIT + lane) * 2 + input % 2;
                    let real = input % 5 != 3 && column % 7 != 2;
                    let value = weight.get(input).filter(|_| real);
                    let expected = value.map_or(0, |value| bf16(value * 0.5));
                    prop_assert_eq!(found[at], expected, "column {}, input {}", column, input);
                }
            }
        }
    }
}
