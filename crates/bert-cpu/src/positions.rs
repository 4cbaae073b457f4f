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

/// The token whose position varies along a row of [`PositionBias`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BiasAxis {
    /// A row has the biases of one query and consecutive keys.
    Keys,
    /// A row has the biases of one key and consecutive queries.
    Queries,
}

/// Biases of scores for each head and each offset of a key from a query.
pub(crate) struct PositionBias {
    /// For each head, the offsets along the axis from 1 − `max_tokens` to `max_tokens` − 1, then padding.
    values: Vec<f32>,
    stride: usize,
    max_tokens: usize,
}

impl PositionBias {
    /// Biases by the `table` of `bias`, `[rows, heads]`, times `factor`. A row may extend by `padding` beyond the last
    /// token.
    pub(crate) fn new(
        bias: RelativeBias,
        axis: BiasAxis,
        table: &[f32],
        [heads, max_tokens, padding]: [usize; 3],
        factor: f32,
    ) -> Self {
        let offsets = 2 * max_tokens - 1;
        let stride = offsets + padding;
        let mut values = vec![0.0; heads * stride];
        for index in 0..offsets {
            let offset = index as i64 - (max_tokens as i64 - 1);
            let row = match axis {
                BiasAxis::Keys => bias.row(offset),
                BiasAxis::Queries => bias.row(-offset),
            };
            for head in 0..heads {
                values[head * stride + index] = table[row * heads + head] * factor;
            }
        }
        Self { values, stride, max_tokens }
    }

    /// Biases of a head and the token at position `fixed`, along the axis from position `first` on.
    pub(crate) fn row(&self, head: usize, fixed: usize, first: usize) -> &[f32] {
        &self.values[head * self.stride + self.max_tokens - 1 + first - fixed..(head + 1) * self.stride]
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
        let biases = |axis| PositionBias::new(bias, axis, &table, [2, 5, 4], 10.0);
        let (by_key, by_query) = (biases(BiasAxis::Keys), biases(BiasAxis::Queries));
        for (head, query, key) in [(0, 0, 0), (1, 4, 0), (1, 0, 4), (0, 2, 3)] {
            let expected = 10.0 * table[bias.row(key as i64 - query as i64) * 2 + head];
            assert_eq!(by_key.row(head, query, key)[0], expected);
            assert_eq!(by_query.row(head, key, query)[0], expected);
        }
        assert!(by_key.row(1, 0, 4).len() > 4, "padding follows the last key");
    }
}
