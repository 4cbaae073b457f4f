//! Statistics of the measurements: median, percentile, ratio and spread.

/// Median of `values`: the mean of the middle two if their number is even, NaN if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// Percentile of `values` by the nearest-rank method, for a `share` from 0 to 1; NaN if there are no values.
///
/// The 99th percentile of fewer than 100 values is therefore the largest.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Median of `ours[i] / theirs[i]`, one ratio for each round, so that a drift of the machine's speed cancels out.
/// Rounds with a missing value or without a finite ratio are left out; `None` if none is left.
pub(crate) fn ratio(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<f64> {
    let pairs = ours.iter().zip(theirs).filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?));
    let ratios: Vec<f64> = pairs.filter(|ratio| ratio.is_finite()).collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

/// Relative spread of the rounds: (largest − smallest) / median; 0 for fewer than two values.
pub(crate) fn spread(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
    (high - low) / median(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_by_hand() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&hundred, 0.5), percentile(&hundred, 0.99)), (50.0, 99.0));
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[7.0, 9.0], 0.0)), (7.0, 7.0));
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // Twice as fast in each round, although the machine's speed changes by a factor of three: the ratio stays 2.
        let ours = [Some(200.0), Some(66.0), Some(100.0)];
        let theirs = [Some(100.0), Some(33.0), Some(50.0)];
        assert_eq!(ratio(&ours, &theirs), Some(2.0));
        assert_eq!(ratio(&[Some(4.0), None], &[Some(2.0), Some(1.0)]), Some(2.0));
        assert_eq!(ratio(&[Some(4.0)], &[Some(0.0)]), None);
        assert_eq!(ratio(&[], &[Some(1.0)]), None);
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(spread(&[90.0, 100.0, 120.0]), 0.3);
        assert_eq!(spread(&[5.0]), 0.0);
    }
}
