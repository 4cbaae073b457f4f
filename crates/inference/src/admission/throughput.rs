//! Throughput of all workers: an exponentially weighted moving average (EWMA) for each class of batch sizes.
//!
//! A batch has a fixed cost, so small batches compute fewer tokens per second. With one average over all batches,
//! single queries would make a queue of full batches look several times as long as it is.

use std::time::Duration;

/// Weight of the newest sample.
const EWMA_ALPHA: f64 = 0.1;

/// Number of size classes: more than 1/2 of a full batch, more than 1/4, 1/8, …; the last one holds all smaller
/// batches.
const SIZE_CLASSES: usize = 12;

/// An exponentially weighted moving average; `None` before the first sample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ewma(Option<f64>);

impl Ewma {
    pub(super) fn add(&mut self, sample: f64) {
        self.0 = Some(self.0.map_or(sample, |mean| mean + (sample - mean) * EWMA_ALPHA));
    }

    pub(super) fn get(self) -> Option<f64> {
        self.0
    }
}

/// Throughput by batch size.
#[derive(Debug)]
pub(super) struct Throughput {
    /// Tokens of a full batch, at least 1.
    max_batch_tokens: usize,
    workers: usize,
    /// Seconds per token, by size class. Times are averaged, not rates: slow batches, as on a machine with other work,
    /// hardly change a mean of rates, which would forecast too little time.
    classes: [Ewma; SIZE_CLASSES],
}

impl Throughput {
    pub(super) fn new(max_batch_tokens: usize, workers: usize) -> Self {
        Self {
            max_batch_tokens: max_batch_tokens.max(1),
            workers: workers.max(1),
            classes: Default::default(),
        }
    }

    /// Learns from a batch of `tokens` that took `elapsed` while `parallelism` such batches could run in parallel.
    pub(super) fn observe(&mut self, tokens: usize, elapsed: Duration, parallelism: f64) {
        let seconds = elapsed.as_secs_f64();
        if tokens > 0 && seconds > 0.0 {
            let class = self.size_class(tokens);
            self.classes[class].add(seconds / tokens as f64 / parallelism);
        }
    }

    /// Expected time for `tokens` queued tokens, in batches that are as full as this number allows. Zero before the
    /// first batch. Without samples of that size class, uses the next smaller class that has samples, which forecasts
    /// more time; if only larger classes have samples, uses the nearest of them.
    pub(super) fn time_for(&self, tokens: usize) -> Duration {
        let class = self.size_class(tokens.div_ceil(self.workers));
        let smaller = self.classes[class..].iter().find_map(|class| class.get());
        let known = smaller.or_else(|| self.classes[..class].iter().rev().find_map(|class| class.get()));
        let seconds = known.unwrap_or_default() * tokens as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Size class of a batch. A single long text may exceed a full batch; it belongs to the class of full batches.
    fn size_class(&self, tokens: usize) -> usize {
        let parts = self.max_batch_tokens / tokens.clamp(1, self.max_batch_tokens);
        (parts.ilog2() as usize).min(SIZE_CLASSES - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// 10 tokens per second in single texts, 1,000 in full batches of 100.
    #[test]
    fn small_batches_do_not_change_the_forecast_for_full_batches() {
        let mut throughput = Throughput::new(100, 1);
        throughput.observe(100, SECOND / 10, 1.0);
        for _ in 0..1000 {
            throughput.observe(5, SECOND / 2, 1.0);
        }
        assert_eq!(throughput.time_for(10_000).as_secs_f64().round(), 10.0);
        // The forecast for a single short text has not changed.
        assert_eq!((throughput.time_for(5).as_secs_f64() * 1e3).round(), 500.0);
    }

    #[test]
    fn full_batches_are_averaged_and_a_longer_text_counts_as_one() {
        let mut throughput = Throughput::new(100, 1);
        let time = |throughput: &Throughput| throughput.time_for(10_000).as_secs_f64().round();
        throughput.observe(100, SECOND, 1.0);
        assert_eq!(time(&throughput), 100.0);
        throughput.observe(60, 6 * SECOND, 1.0);
        assert_eq!(time(&throughput), 190.0);
        throughput.observe(6500, 6500 * SECOND / 1000, 1.0);
        assert_eq!(time(&throughput), 172.0);
    }

    #[test]
    fn size_classes_without_samples_use_the_next_smaller_class() {
        let mut throughput = Throughput::new(64, 2);
        let time =
            |throughput: &Throughput, tokens| (throughput.time_for(tokens).as_secs_f64() * 1e3).round();
        assert_eq!(throughput.time_for(1 << 20), Duration::ZERO);
        throughput.observe(4, SECOND, 2.0);
        assert_eq!(time(&throughput, 800), 100_000.0);
        throughput.observe(20, SECOND, 2.0);
        assert_eq!(time(&throughput, 800), 20_000.0);
        // Two workers compute 16 tokens in batches of 8. The nearest smaller samples are of batches of 4.
        assert_eq!(time(&throughput, 16), 2_000.0);
        // All samples are of larger batches.
        assert_eq!(time(&throughput, 1), 125.0);
        throughput.observe(0, SECOND, 1.0);
        throughput.observe(64, Duration::ZERO, 1.0);
        assert_eq!(time(&throughput, 800), 20_000.0);
    }
}
