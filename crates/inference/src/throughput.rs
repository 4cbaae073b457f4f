//! Tokens per second over all workers, learned separately for full batches and for smaller ones.
//!
//! A batch has a fixed cost, so small batches compute fewer tokens per second. One average over all of them, learned from
//! single queries, would make a queue of full batches look several times as long as it is.

use std::time::Duration;

/// Weight of the newest sample in a moving average.
const EWMA_ALPHA: f64 = 0.1;

/// Size classes: more than 1/2 of a full batch, more than 1/4, more than 1/8, …; the last one holds all smaller batches.
const CLASSES: usize = 12;

/// An exponentially weighted moving average; `None` until the first sample.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ewma(Option<f64>);

impl Ewma {
    pub(crate) fn add(&mut self, sample: f64) {
        self.0 = Some(self.0.map_or(sample, |mean| mean + (sample - mean) * EWMA_ALPHA));
    }

    pub(crate) fn get(self) -> Option<f64> {
        self.0
    }
}

/// Throughput by batch size.
#[derive(Debug)]
pub(crate) struct Throughput {
    /// Tokens of a full batch; at least 1.
    max_batch_tokens: usize,
    workers: usize,
    /// Seconds per token. Times are averaged, not rates: slow batches, as on a machine with other work, hardly change a
    /// mean of rates, which would forecast too little time.
    classes: [Ewma; CLASSES],
}

impl Throughput {
    pub(crate) fn new(max_batch_tokens: usize, workers: usize) -> Self {
        Self {
            max_batch_tokens: max_batch_tokens.max(1),
            workers: workers.max(1),
            classes: Default::default(),
        }
    }

    /// Learns from one batch of `tokens` that took `elapsed` while there was room for `parallelism` of its kind.
    pub(crate) fn observe(&mut self, tokens: usize, elapsed: Duration, parallelism: f64) {
        let seconds = elapsed.as_secs_f64();
        if tokens > 0 && seconds > 0.0 {
            let class = self.class(tokens);
            self.classes[class].add(seconds / tokens as f64 / parallelism);
        }
    }

    /// Expected time for `tokens` that are queued together, in batches that are as full as this number allows. Zero
    /// before the first batch. Without samples of that size class, uses the next smaller class that has samples, which
    /// forecasts more time; if only larger classes have samples, the nearest of them.
    pub(crate) fn time_for(&self, tokens: usize) -> Duration {
        let class = self.class(tokens.div_ceil(self.workers));
        let smaller = self.classes[class..].iter().find_map(|class| class.get());
        let known = smaller.or_else(|| self.classes[..class].iter().rev().find_map(|class| class.get()));
        let seconds = known.unwrap_or_default() * tokens as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// A batch of one long text may have more tokens than a full one; it is a full one.
    fn class(&self, tokens: usize) -> usize {
        let parts = self.max_batch_tokens / tokens.clamp(1, self.max_batch_tokens);
        (parts.ilog2() as usize).min(CLASSES - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// 10 tokens per second alone, 1,000 in full batches of 100.
    #[test]
    fn tiny_batches_do_not_lower_the_forecast_for_full_ones() {
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
    fn full_batches_are_averaged_and_a_longer_text_is_one_of_them() {
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
    fn batch_sizes_without_samples_take_those_of_the_next_smaller_size() {
        let mut throughput = Throughput::new(64, 2);
        let time =
            |throughput: &Throughput, tokens| (throughput.time_for(tokens).as_secs_f64() * 1e3).round();
        assert_eq!(throughput.time_for(1 << 20), Duration::ZERO);
        throughput.observe(4, SECOND, 2.0);
        assert_eq!(time(&throughput, 800), 100_000.0);
        throughput.observe(20, SECOND, 2.0);
        assert_eq!(time(&throughput, 800), 20_000.0);
        // Two workers share 16 tokens, in batches of 8. There are samples only of batches of 4.
        assert_eq!(time(&throughput, 16), 2_000.0);
        // Smaller than any batch so far.
        assert_eq!(time(&throughput, 1), 125.0);
        throughput.observe(0, SECOND, 1.0);
        throughput.observe(64, Duration::ZERO, 1.0);
        assert_eq!(time(&throughput, 800), 20_000.0);
    }
}
