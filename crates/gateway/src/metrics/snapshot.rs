//! The metrics for `/status`, summed over all models: the counters behind `/metrics` are read, and nothing is counted
//! twice.

use std::collections::BTreeMap;

use prometheus::{core::Collector, proto::Metric};

use super::{
    Metrics,
    labels::{CacheResult, Outcome},
};

/// Counters since the start, and the memory now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MetricsSnapshot {
    /// Requests for embeddings, reranking included, with any outcome.
    pub(crate) requests: u64,
    /// Errors on all routes, by the name of their code; only codes that occurred.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Tokens of all inputs, special tokens included.
    pub(crate) tokens: u64,
    pub(crate) inputs: u64,
    pub(crate) truncated_inputs: u64,
    /// Vectors found in the local or the remote cache.
    pub(crate) cache_hits: u64,
    pub(crate) cache_misses: u64,
    /// Durations of the successful requests.
    pub(crate) latency: LatencyCounts,
    /// Memory of the process; `None` where the system does not tell it.
    pub(crate) resident_bytes: Option<u64>,
}

/// A histogram of durations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LatencyCounts {
    /// Upper bounds of the buckets, ascending.
    pub(crate) upper_bounds_seconds: Vec<f64>,
    /// Number of durations in each bucket, and at the end of those above all bounds.
    pub(crate) counts: Vec<u64>,
}

impl LatencyCounts {
    /// Adds a series, whose buckets count every duration up to their bound.
    fn add(&mut self, series: &Metric) {
        let histogram = series.get_histogram();
        let mut below = 0;
        let buckets =
            histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        let (bounds, cumulative): (Vec<_>, Vec<_>) = buckets.filter(|(bound, _)| bound.is_finite()).unzip();
        self.upper_bounds_seconds = bounds;
        self.counts.resize(cumulative.len() + 1, 0);
        for (count, cumulative) in
            self.counts.iter_mut().zip(cumulative.into_iter().chain([histogram.get_sample_count()]))
        {
            // A duration may be observed while the series is read.
            *count += cumulative.saturating_sub(below);
            below = below.max(cumulative);
        }
    }
}

impl Metrics {
    /// Sums the counters over all models.
    pub(crate) fn snapshot(&self) -> MetricsSnapshot {
        let families = &self.families;
        let mut snapshot = MetricsSnapshot { resident_bytes: resident_bytes(), ..MetricsSnapshot::default() };
        for engine in self.models.iter().filter_map(|model| model.engine.as_ref()) {
            snapshot.tokens += engine.input_tokens.get();
            snapshot.inputs += engine.inputs.get();
            snapshot.truncated_inputs += engine.truncated.get();
        }
        for series in series(&families.request_duration) {
            snapshot.requests += series.get_histogram().get_sample_count();
            if label(&series, "outcome") == Outcome::Success.label() {
                snapshot.latency.add(&series);
            }
        }
        for series in series(&families.errors).filter(|series| counter(series) > 0) {
            snapshot.errors.insert(label(&series, "code").to_owned(), counter(&series));
        }
        for series in series(&families.cache_requests) {
            let is_miss = label(&series, "result") == CacheResult::Miss.label();
            let sum = if is_miss { &mut snapshot.cache_misses } else { &mut snapshot.cache_hits };
            *sum += counter(&series);
        }
        snapshot
    }
}

/// All series of a family.
fn series(family: &impl Collector) -> impl Iterator<Item = Metric> {
    family.collect().into_iter().flat_map(|mut family| family.take_metric())
}

/// Value of a label; empty if the series does not have it.
fn label<'a>(series: &'a Metric, name: &str) -> &'a str {
    series.get_label().iter().find(|label| label.name() == name).map_or("", |label| label.value())
}

/// Value of a counter. Counters hold integers, although the library passes them on as floats.
fn counter(series: &Metric) -> u64 {
    series.get_counter().get_value() as u64
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<u64> {
    let families = prometheus::process_collector::ProcessCollector::for_self().collect();
    let family = families.iter().find(|family| family.name() == "process_resident_memory_bytes")?;
    Some(family.get_metric().first()?.get_gauge().get_value() as u64)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<u64> {
    None
}
