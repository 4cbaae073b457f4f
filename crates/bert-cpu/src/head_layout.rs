//! Columns of one attention head, padded to whole vectors.
//!
//! ```text
//! without RoPE:   head_dim values                    │ zeros
//! with RoPE:      first half │ zeros │ second half │ zeros
//! ```
//!
//! RoPE combines value k with value k + head_dim/2. With its halves padded separately, it needs no masks: vector v of
//! the first half belongs to vector v of the second. The order of columns does not matter to attention, as long as it
//! is the same for queries and keys, and for values and the output projection.

use encoder_spec::EncoderSpec;

/// Columns of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadLayout {
    head_dim: usize,
    /// Values of a part, and its padded width: one part, or two halves.
    part: usize,
    padded_part: usize,
    padded: usize,
}

impl HeadLayout {
    /// The layout for `spec`, with a padded width that is a multiple of `multiple`, which is even. The padded width of
    /// a half is a multiple of half of it.
    pub(crate) fn new(spec: &EncoderSpec, multiple: usize) -> Self {
        let head_dim = spec.attention.head_dim;
        let parts = if spec.layers.iter().any(|layer| layer.rope.is_some()) { 2 } else { 1 };
        let part = head_dim / parts;
        let padded_part = part.next_multiple_of(multiple / parts);
        Self { head_dim, part, padded_part, padded: parts * padded_part }
    }

    /// Width with padding.
    pub(crate) fn padded(&self) -> usize {
        self.padded
    }

    /// Padded width of a half; the whole width without RoPE.
    pub(crate) fn padded_part(&self) -> usize {
        self.padded_part
    }

    /// Values of a half, or of the head without RoPE.
    pub(crate) fn part(&self) -> usize {
        self.part
    }

    /// Index of a column's value in the head, or `None` for padding.
    pub(crate) fn value(&self, column: usize) -> Option<usize> {
        let (part, offset) = (column / self.padded_part, column % self.padded_part);
        (offset < self.part).then(|| part * self.part + offset)
    }

    /// Index of a column's value among the values of all heads, or `None` for padding.
    pub(crate) fn value_of_heads(&self, column: usize) -> Option<usize> {
        let (head, column) = (column / self.padded, column % self.padded);
        self.value(column).map(|value| head * self.head_dim + value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bert, gemma};

    #[test]
    fn halves_are_padded_apart_with_rope_only() {
        let plain = HeadLayout::new(&bert(|shape| (shape.heads, shape.hidden) = (2, 12)), 8);
        let values: Vec<_> = (0..plain.padded()).map(|column| plain.value(column)).collect();
        assert_eq!(values, [Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), None, None]);
        assert_eq!(plain.value_of_heads(8), Some(6));

        let spec = gemma();
        assert_eq!(spec.attention.head_dim, 12);
        let halves = HeadLayout::new(&spec, 16);
        assert_eq!((halves.padded(), halves.padded_part(), halves.part()), (16, 8, 6));
        assert_eq!([5, 6, 8, 14].map(|column| halves.value(column)), [Some(5), None, Some(6), None]);
    }
}
