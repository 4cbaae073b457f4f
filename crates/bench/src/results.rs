//! The record of a run: everything that was measured, kept as JSON so that the page can be written again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    accuracy::Cosines,
    competitors::Name,
    load::Measured,
    profile::Metric,
    resource_usage::Size,
    stats::{median, percentile, ratio},
    sysinfo::Machine,
};

/// A whole run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Seconds of one profile.
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    /// Megabytes of one copy of the model, which every competitor needs.
    pub(crate) model_megabytes: f64,
    pub(crate) competitors: Vec<Entry>,
}

/// A competitor's figures, or the reason why there are none.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) versions: String,
    /// Precision, in the competitor's own words.
    pub(crate) note: String,
    /// Of its vectors to those in fp32; `None` if it has not answered with vectors.
    #[serde(default)]
    pub(crate) cosines: Option<Cosines>,
    pub(crate) not_run: Option<String>,
    /// Megabytes on disk without the model, and those of CUDA among them.
    pub(crate) megabytes: Option<(f64, f64)>,
    pub(crate) rounds: Vec<Round>,
}

/// One start of a competitor, and its figures.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Round {
    /// The machine's load average before the start.
    pub(crate) load: Option<f64>,
    /// Cores that other processes kept busy before the start.
    pub(crate) busy_cores: Option<f64>,
    pub(crate) cold_milliseconds: Option<f64>,
    /// Resident memory after the first answer, after the last, and its peak.
    pub(crate) idle_megabytes: Option<f64>,
    pub(crate) after_megabytes: Option<f64>,
    pub(crate) peak_megabytes: Option<f64>,
    /// By profile or job.
    pub(crate) figures: BTreeMap<String, Outcome>,
}

/// Result of one profile.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Measured(Figure),
    Failed(String),
}

/// The figures of one run of one profile.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) texts_per_second: f64,
    pub(crate) tokens_per_second: f64,
    pub(crate) requests: usize,
    /// Latency in milliseconds: median and 99th percentile; `None` if it was not measured.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// CPU seconds of the competitor for a million tokens.
    pub(crate) cpu_per_million: Option<f64>,
    /// Share of embedgate's CPU time outside its model threads.
    #[serde(default)]
    pub(crate) outside: Option<f64>,
}

impl Figure {
    /// `cpu_seconds` is the competitor's CPU time during the measurement and its warm-up.
    pub(crate) fn new(measured: &Measured, cpu_seconds: Option<f64>) -> Self {
        let latency = |share| {
            let latencies = &measured.milliseconds;
            (!latencies.is_empty()).then(|| percentile(latencies, share))
        };
        Self {
            texts_per_second: measured.texts as f64 / measured.seconds,
            tokens_per_second: measured.tokens as f64 / measured.seconds,
            requests: measured.milliseconds.len(),
            p50: latency(0.5),
            p99: latency(0.99),
            cpu_per_million: cpu_seconds
                .map(|seconds| seconds * 1e6 / (measured.tokens + measured.warm_tokens) as f64),
            outside: None,
        }
    }

    /// The value of a metric: texts per second, or the median latency in milliseconds.
    pub(crate) fn value_of(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Throughput => Some(self.texts_per_second),
            Metric::Latency => self.p50,
        }
    }
}

impl Entry {
    pub(crate) fn new(name: Name, versions: String, size: Option<Size>) -> Self {
        let megabytes = size.map(|size| (size.megabytes, size.cuda_megabytes));
        Self {
            name,
            versions,
            note: String::new(),
            cosines: None,
            not_run: None,
            megabytes,
            rounds: Vec::new(),
        }
    }

    /// A figure of `profile` in every round; `None` where the round failed.
    pub(crate) fn rounds_of(
        &self,
        profile: &str,
        figure: impl Fn(&Figure) -> Option<f64>,
    ) -> Vec<Option<f64>> {
        let one = |round: &Round| match round.figures.get(profile) {
            Some(Outcome::Measured(measured)) => figure(measured),
            _ => None,
        };
        self.rounds.iter().map(one).collect()
    }

    /// The median of that figure over the rounds that have it.
    pub(crate) fn median_of(&self, profile: &str, figure: impl Fn(&Figure) -> Option<f64>) -> Option<f64> {
        some_median(self.rounds_of(profile, figure))
    }

    /// The median over the rounds of something that belongs to a round as a whole.
    pub(crate) fn median_round(&self, figure: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        some_median(self.rounds.iter().map(figure).collect())
    }

    /// Reason why `profile` has no figure.
    pub(crate) fn failure(&self, profile: &str) -> Option<&str> {
        self.not_run.as_deref().or_else(|| {
            self.rounds.iter().find_map(|round| match round.figures.get(profile) {
                Some(Outcome::Failed(reason)) => Some(reason.as_str()),
                _ => None,
            })
        })
    }

    /// Median over the rounds of the ratio by which `self` is better than `other` in `profile`.
    pub(crate) fn better_than(&self, other: &Self, profile: &str, metric: Metric) -> Option<f64> {
        let ours = self.rounds_of(profile, |figure| figure.value_of(metric));
        let theirs = other.rounds_of(profile, |figure| figure.value_of(metric));
        match metric {
            Metric::Throughput => ratio(&ours, &theirs),
            Metric::Latency => ratio(&theirs, &ours),
        }
    }
}

fn some_median(values: Vec<Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.into_iter().flatten().collect();
    (!values.is_empty()).then(|| median(&values))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry with the given texts a second and p50 of each round in `one` and `clients-32`.
    pub(crate) fn entry(name: Name, rounds: &[(f64, f64)]) -> Entry {
        let mut entry =
            Entry::new(name, "1.2.3".into(), Some(Size { megabytes: 50.0, cuda_megabytes: 10.0 }));
        entry.rounds = rounds
            .iter()
            .map(|&(texts, p50)| {
                let figure = Figure {
                    texts_per_second: texts,
                    tokens_per_second: texts * 14.0,
                    requests: 1000,
                    p50: Some(p50),
                    p99: Some(p50 * 2.0),
                    cpu_per_million: Some(9.0),
                    outside: Some(0.125),
                };
                let figures = ["one", "clients-32"].map(|id| (id.to_owned(), Outcome::Measured(figure)));
                Round {
                    load: Some(0.1),
                    busy_cores: Some(0.02),
                    cold_milliseconds: Some(400.0),
                    idle_megabytes: Some(100.0),
                    figures: figures.into(),
                    ..Round::default()
                }
            })
            .collect();
        entry
    }

    #[test]
    fn figures_are_rates_and_percentiles() {
        let milliseconds = (1..=100).map(f64::from).collect();
        let measured = Measured { texts: 200, tokens: 2_000, warm_tokens: 500, seconds: 4.0, milliseconds };
        let figure = Figure::new(&measured, Some(1.25));
        assert_eq!((figure.texts_per_second, figure.tokens_per_second), (50.0, 500.0));
        assert_eq!((figure.p50, figure.p99, figure.requests), (Some(50.0), Some(99.0), 100));
        assert_eq!(figure.cpu_per_million, Some(500.0));
        let silent = Measured { milliseconds: Vec::new(), ..measured };
        assert_eq!(Figure::new(&silent, None).p50, None);
    }

    #[test]
    fn better_means_more_texts_or_less_time() {
        let ours = entry(Name::Embedgate, &[(100.0, 2.0), (50.0, 4.0)]);
        let theirs = entry(Name::Infinity, &[(50.0, 6.0), (25.0, 12.0)]);
        assert_eq!(ours.better_than(&theirs, "clients-32", Metric::Throughput), Some(2.0));
        assert_eq!(ours.better_than(&theirs, "one", Metric::Latency), Some(3.0));
        assert_eq!(ours.better_than(&theirs, "long", Metric::Throughput), None);
        assert_eq!(ours.median_of("one", |figure| figure.p50), Some(3.0));
    }

    #[test]
    fn the_record_can_be_read_again() {
        let mut failed = entry(Name::Llama, &[(1.0, 1.0)]);
        failed.cosines = Some(Cosines { worst: 0.5, mean: 0.75 });
        failed.rounds[0].figures.insert("long".into(), Outcome::Failed("status 500".into()));
        let results = Results { competitors: vec![failed], ..Results::default() };
        let again: Results = serde_json::from_str(&serde_json::to_string(&results).unwrap()).unwrap();
        assert_eq!(again.competitors[0].failure("long"), Some("status 500"));
        assert_eq!(again.competitors[0].failure("one"), None);
        assert_eq!(again.competitors[0].rounds[0].figures, results.competitors[0].rounds[0].figures);
        assert_eq!(again.competitors[0].cosines, results.competitors[0].cosines);
    }

    #[test]
    fn a_record_without_cosines_can_be_read() {
        let mut record = serde_json::to_value(entry(Name::Llama, &[(1.0, 1.0)])).unwrap();
        record.as_object_mut().unwrap().remove("cosines").unwrap();
        assert_eq!(serde_json::from_value::<Entry>(record).unwrap().cosines, None);
    }
}
