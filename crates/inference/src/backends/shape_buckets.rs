//! Shape buckets: a small set of tensor shapes to which batches are padded, for a provider that compiles kernels for
//! each shape.
//!
//! Lengths have fine steps for short texts, which are most. Numbers of rows are powers of two, since the planner
//! fills all batches up to the same budget.

/// Lengths up to this are rounded up to a multiple of [`FINE_STEP`], longer ones to a multiple of [`COARSE_STEP`].
const FINE_LIMIT: usize = 128;
const FINE_STEP: usize = 32;
const COARSE_STEP: usize = 64;

/// Tensor shape `[rows, length]` for `rows` sequences, the longest of `length` tokens. Position tables have
/// `max_input_tokens` rows, so padding does not exceed it; a longer sequence is not padded.
pub(super) fn bucket(rows: usize, length: usize, max_input_tokens: usize) -> [usize; 2] {
    let step = if length <= FINE_LIMIT { FINE_STEP } else { COARSE_STEP };
    [rows.next_power_of_two(), length.next_multiple_of(step).min(max_input_tokens).max(length)]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_number_of_shapes_is_small() {
        let shapes: HashSet<_> =
            (1..=64).flat_map(|rows| (1..=512).map(move |length| bucket(rows, length, 512))).collect();
        assert_eq!(shapes.len(), 7 * (4 + 6));
        assert_eq!(bucket(3, 5, 512), [4, 32]);
        assert_eq!(bucket(1, 129, 512), [1, 192]);
        assert_eq!(bucket(1, 240, 250), [1, 250], "max_input_tokens need not be a multiple of the step");
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_batch_with_bounded_padding(
            rows in 1usize..2000,
            length in 1usize..10_000,
            max_input_tokens in 1usize..10_000,
        ) {
            let [padded_rows, padded] = bucket(rows, length, max_input_tokens);
            prop_assert!(padded_rows >= rows && padded_rows < 2 * rows);
            prop_assert!(padded >= length && padded < length + COARSE_STEP);
            prop_assert!(padded < length + FINE_STEP || length > FINE_LIMIT);
            prop_assert!(padded <= max_input_tokens.max(length));
            let again = bucket(padded_rows, padded, max_input_tokens);
            prop_assert_eq!(again, [padded_rows, padded], "bucketing is idempotent");
        }
    }
}
