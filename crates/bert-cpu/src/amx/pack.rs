//! Matrix B of a GEMM in bf16, laid out in the order in which the kernel reads it.
//!
//! ```text
//!   panel 0 (columns 0–31)                    panel 1 (columns 32–63)   …
//!   ┌───────────────────────────────────────┐
//!   │ c₀k₀ c₀k₁  c₁k₀ c₁k₁  …  c₃₁k₀ c₃₁k₁  │   k = 0 and 1: 128 bytes
//!   │ c₀k₂ c₀k₃  c₁k₂ c₁k₃  …  c₃₁k₂ c₃₁k₃  │   k = 2 and 3
//!   │ …                                     │   16 such rows are the two B tiles of one instruction
//!   └───────────────────────────────────────┘
//! ```

use super::{
    layout::LineSpan,
    tile::{K_BLOCK, NR, TILE},
};
use crate::{buffer::Buffer, layer::UnpackedB};

/// Rounds to the nearest bf16, ties to even. NaN stays NaN.
pub(super) fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // The quiet bit: dropping the lower half of the mantissa must not give an infinity.
        return (bits >> 16) as u16 | 0x40;
    }
    let even = (bits >> 16) & 1;
    ((bits + 0x7fff + even) >> 16) as u16
}

/// `[K, columns]` in panels of 32 columns, K padded with zeros to a multiple of 32.
pub(super) struct AmxPackedB {
    data: Buffer,
    k_blocks: usize,
    columns: usize,
}

impl AmxPackedB {
    pub(super) fn pack(UnpackedB { rows, columns, column, .. }: UnpackedB<'_>) -> Self {
        assert!(columns.is_multiple_of(NR), "{columns} columns in panels of {NR}");
        let k_blocks = rows.len().div_ceil(K_BLOCK);
        let data = Buffer::zeroed(k_blocks * columns * K_BLOCK / 2);
        let lines = LineSpan::of(&data, 0, k_blocks * columns);
        for index in 0..columns {
            let Some((values, factor)) = column(index) else { continue };
            let (panel, lane) = (index / NR, index % NR);
            for (k, source) in rows.iter().enumerate() {
                if let Some(source) = *source {
                    let line = (panel * k_blocks * TILE + k / 2) * 2 + lane / TILE;
                    // SAFETY: the line lies within the buffer, which no other code knows yet.
                    let line = unsafe { &mut *lines.line(line) };
                    line.0[2 * (lane % TILE) + k % 2] = bf16(values[source] * factor);
                }
            }
        }
        Self { data, k_blocks, columns }
    }

    /// K in blocks of 32.
    pub(super) fn k_blocks(&self) -> usize {
        self.k_blocks
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn panels(&self) -> usize {
        self.columns / NR
    }

    /// Address of block `k` of a panel: 2 KiB for each 32 rows.
    #[inline(always)]
    pub(super) fn block(&self, panel: usize, k: usize) -> *const u8 {
        debug_assert!(panel < self.panels() && k <= self.k_blocks);
        self.data.pointer().cast::<u8>().wrapping_add((panel * self.k_blocks + k) * K_BLOCK * NR * 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::linear_input::LinearInput;

    #[test]
    fn rounding_is_to_nearest_and_ties_go_to_even() {
        let rounded = |bits: u32| bf16(f32::from_bits(bits));
        assert_eq!(bf16(1.0), 0x3f80);
        assert_eq!(bf16(-2.0), 0xc000);
        let around_tie = |tie: u32| [rounded(tie - 1), rounded(tie), rounded(tie + 1)];
        assert_eq!(around_tie(0x3f80_8000), [0x3f80, 0x3f80, 0x3f81]);
        assert_eq!(around_tie(0x3f81_8000), [0x3f81, 0x3f82, 0x3f82]);
        assert_eq!([bf16(f32::MAX), bf16(f32::INFINITY), bf16(-0.0)], [0x7f80, 0x7f80, 0x8000]);
        assert_eq!(rounded(0x7f80_0001), 0x7fc0);
    }

    proptest! {
        #[test]
        fn rounding_error_is_at_most_half_a_unit(bits in 0x0080_0000u32..0x7f00_0000, negative: bool) {
            let value = f32::from_bits(bits | u32::from(negative) << 31);
            let found = f32::from_bits(u32::from(bf16(value)) << 16);
            prop_assert!((found - value).abs() <= value.abs() / 256.0);
            prop_assert_eq!(bf16(found), bf16(value));
        }

        #[test]
        fn every_weight_is_where_the_tiles_read_it(inputs in 1usize..70, panels in 1usize..4) {
            let columns = panels * NR;
            let weight: Vec<Vec<f32>> =
                (0..columns).map(|column| (0..inputs).map(|k| (column * 64 + k) as f32).collect()).collect();
            let rows: Vec<_> = (0..inputs).map(|k| (k % 5 != 3).then_some(k)).collect();
            let column = |column: usize| (column % 7 != 2).then(|| (weight[column].as_slice(), 0.5));
            let input = LinearInput::EmbeddingProjection;
            let mut packed = AmxPackedB::pack(UnpackedB { input, rows: &rows, columns, column: &column });
            prop_assert_eq!((packed.k_blocks(), packed.panels()), (inputs.div_ceil(K_BLOCK), panels));
            let (k_blocks, start) = (packed.k_blocks(), packed.data.pointer().addr());
            prop_assert_eq!(packed.block(panels - 1, k_blocks).addr() - start, columns * k_blocks * K_BLOCK * 2);
            // A panel is [pairs of k, 32 columns, 2], two values in one f32 of the buffer.
            let found: Vec<u16> = packed
                .data
                .as_mut_slice()
                .iter()
                .flat_map(|two| [two.to_bits() as u16, (two.to_bits() >> 16) as u16])
                .collect();
            for (column, weight) in weight.iter().enumerate() {
                for k in 0..k_blocks * K_BLOCK {
                    let (panel, lane) = (column / NR, column % NR);
                    let index = ((panel * k_blocks * TILE + k / 2) * NR + lane) * 2 + k % 2;
                    let is_padding = k % 5 == 3 || column % 7 == 2;
                    let value = weight.get(k).filter(|_| !is_padding);
                    let expected = value.map_or(0, |value| bf16(value * 0.5));
                    prop_assert_eq!(found[index], expected, "column {}, k {}", column, k);
                }
            }
        }
    }
}
