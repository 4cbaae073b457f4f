//! The few shapes that batches are padded to, for a provider that makes its kernels for each shape it meets.
//!
//! Steps are fine where texts are short, as most are, and doubling suffices for the number of rows, since the planner
//! fills batches up to the same budget.

/// Lengths up to this are rounded up to [`FINE`] …
const SHORT: usize = 128;
const FINE: usize = 32;
/// … and longer ones to this.
const COARSE: usize = 64;

/// The shape `[rows, length]` of the tensors for `rows` sequences of which the longest has `length` tokens. Position
/// tables end at `window`, so no padding goes beyond it; a sequence that does is left as long as it is.
pub(crate) fn bucket(rows: usize, length: usize, window: usize) -> [usize; 2] {
    let step = if length <= SHORT { FINE } else { COARSE };
    [rows.next_power_of_two(), length.next_multiple_of(step).min(window).max(length)]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shapes_are_few() {
        let shapes: HashSet<_> =
            (1..=64).flat_map(|rows| (1..=512).map(move |length| bucket(rows, length, 512))).collect();
        assert_eq!(shapes.len(), 7 * (4 + 6));
        assert_eq!(bucket(3, 5, 512), [4, 32]);
        assert_eq!(bucket(1, 129, 512), [1, 192]);
        assert_eq!(bucket(1, 240, 250), [1, 250], "a window need not be a multiple");
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_batch_and_wastes_little(
            rows in 1usize..2000,
            length in 1usize..10_000,
            window in 1usize..10_000,
        ) {
            let [padded_rows, padded] = bucket(rows, length, window);
            prop_assert!(padded_rows >= rows && padded_rows < 2 * rows);
            prop_assert!(padded >= length && padded < length + COARSE);
            prop_assert!(padded < length + FINE || length > SHORT);
            prop_assert!(padded <= window.max(length));
            prop_assert_eq!(bucket(padded_rows, padded, window), [padded_rows, padded], "a bucket is its own");
        }
    }
}
