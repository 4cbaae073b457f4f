//! Positions inside attention, precomputed for all positions of a model: rotations of RoPE, and biases of scores by
//! offset.

use encoder_spec::{RelativeBias, Rope};

use crate::head_layout::HeadLayout;

/// Cosines and sines of RoPE, `[max_tokens, padded half]` each, padded with zeros.
pub(crate) struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    width: usize,
}

impl RopeTable {
    pub(crate) fn new(rope: Rope, layout: &HeadLayout, max_tokens: usize) -> Self {
        let (pairs, width) = (layout.part(), layout.padded_part());
        let (mut cos, mut sin) = (vec![0.0; max_tokens * width], vec![0.0; max_tokens * width]);
        for position in 0..max_tokens {
            for pair in 0..pairs {
                let index = position * width + pair;
                (cos[index], sin[index]) = rope.cos_sin(position, pair, 2 * pairs);
            }
        }
        Self { cos, sin, width }
    }

    /// Cosines and sines at a position.
    pub(crate) fn at(&self, position: usize) -> [&[f32]; 2] {
        let range = position * self.width..(position + 1) * self.width;
        [&self.cos[range.clone()], &self.sin[range]]
    }
}

/// Biases of scores for each head and each offset of a key from a query.
pub(crate) struct PositionBias {
    /// For each head the offsets from 1 − `max_tokens` to `max_tokens` − 1, then padding.
    values: Vec<f32>,
    stride: usize,
    max_tokens: usize,
}

impl PositionBias {
    /// Biases by the `table` of `bias`, `[rows, heads]`, times `factor`. A key panel of `padding` columns may extend
    /// beyond the last key.
    pub(crate) fn new(
        bias: RelativeBias,
        table: &[f32],
        heads: usize,
        factor: f32,
        max_tokens: usize,
        padding: usize,
    ) -> Self {
        let offsets = 2 * max_tokens - 1;
        let stride = offsets + padding;
        let mut values = vec![0.0; heads * stride];
        for index in 0..offsets {
            let row = bias.row(index as i64 - (max_tokens as i64 - 1));
            for head in 0..heads {
                values[head * stride + index] = table[row * heads + head] * factor;
            }
        }
        Self { values, stride, max_tokens }
    }

    /// Biases of a head and a query, for the keys from position `first` on.
    pub(crate) fn keys_from(&self, head: usize, query: usize, first: usize) -> &[f32] {
        &self.values[head * self.stride + self.max_tokens - 1 + first - query..(head + 1) * self.stride]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gemma;

    #[test]
    fn rope_rotates_by_position_and_frequency() {
        let (spec, rope) = (gemma(), Rope::new(10_000.0));
        let layout = HeadLayout::new(&spec, 16);
        let table = RopeTable::new(rope, &layout, 4);
        let [cos, sin] = table.at(3);
        assert_eq!((cos[0], sin[0]), (3f32.cos(), 3f32.sin()));
        assert_eq!((cos[1], sin[1]), rope.cos_sin(3, 1, 12));
        assert_eq!(cos[layout.part()..], [0.0; 2]);
    }

    #[test]
    fn a_bias_depends_on_the_offset_of_key_and_query() {
        let bias = RelativeBias { rows: 8, buckets: 8, max_distance: 16 };
        let table: Vec<f32> = (0..16).map(|index| index as f32).collect();
        let biases = PositionBias::new(bias, &table, 2, 10.0, 5, 4);
        for (head, query, key) in [(0, 0, 0), (1, 4, 0), (1, 0, 4), (0, 2, 3)] {
            let expected = 10.0 * table[bias.row(key as i64 - query as i64) * 2 + head];
            assert_eq!(biases.keys_from(head, query, key)[0], expected);
        }
        assert!(biases.keys_from(1, 0, 4).len() > 4, "padding follows the last key");
    }
}
