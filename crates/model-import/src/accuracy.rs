//! Accuracy records of a model folder: what an earlier start measured for precisions below fp32, so that the next start
//! need not measure it again.

use encoder_spec::Task;
use serde::{Deserialize, Serialize};

use crate::{ModelFolder, atomic_write, json};

/// The file in the model folder.
const FILE: &str = "embedgate.accuracy.json";

/// Maximum number of records in the file: a volume may be shared by machines with different CPUs.
const MAX_RECORDS: usize = 16;

/// Measure of the deviation of a model's results from those in fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccuracyMeasure {
    /// Cosine between a vector and the one in fp32: 1 for equal directions.
    Cosine,
    /// Absolute difference between a cross-encoder's score and the one in fp32, both before the activation, divided by
    /// the range of all scores in fp32, from the smallest to the largest: 0 for equal scores.
    ScoreDifference,
}

impl AccuracyMeasure {
    /// The measure for the results of `task`.
    pub fn of(task: Task) -> Self {
        match task {
            Task::Embed | Task::EmbedSparse => Self::Cosine,
            Task::Rerank => Self::ScoreDifference,
        }
    }

    /// Returns the worse of two values.
    pub fn worse(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Cosine => a.min(b),
            Self::ScoreDifference => a.max(b),
        }
    }

    /// Returns true if `worst` is not worse than `bound`.
    pub fn is_within(self, worst: f64, bound: f64) -> bool {
        match self {
            Self::Cosine => worst >= bound,
            Self::ScoreDifference => worst <= bound,
        }
    }

    /// Returns true if a measurement can have this value.
    fn is_possible(self, value: f64) -> bool {
        match self {
            // Rounding can lift the cosine of equal vectors above 1.
            Self::Cosine => (-1.001..=1.001).contains(&value),
            Self::ScoreDifference => value >= 0.0 && value.is_finite(),
        }
    }
}

/// Deviation of a model's results in one precision from those in fp32, as measured on one kind of machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccuracyRecord {
    /// Fingerprint of the model.
    pub fingerprint: String,
    /// Everything else that the measurement depends on: program, kernels, CPU, texts.
    pub conditions: String,
    /// Measure of `worst` and `mean`.
    pub measure: AccuracyMeasure,
    /// The worst value over all inputs.
    pub worst: f64,
    /// The mean over all inputs.
    pub mean: f64,
    /// Number of inputs: texts, or pairs of a query and a document.
    pub inputs: usize,
    /// Number of tokens of the longest input.
    pub max_tokens: usize,
    /// Duration of the measurement, in seconds.
    pub seconds: f64,
}

impl AccuracyRecord {
    /// Returns the record of `folder` for this model and these conditions. An unusable file is not an error: accuracy
    /// is then measured again.
    pub fn load(folder: &ModelFolder, fingerprint: &str, conditions: &str) -> Option<Self> {
        let mut records = load_all(folder).into_iter();
        records.find(|record| record.fingerprint == fingerprint && record.conditions == conditions)
    }

    /// Stores the record in `folder`, in place of one of the same conditions. Records of other fingerprints are
    /// removed, since the files that they describe have changed. Model folders are often read-only; then nothing is
    /// stored, and the next start measures again.
    pub fn store(self, folder: &ModelFolder) {
        let mut records = load_all(folder);
        records.retain(|other| other.fingerprint == self.fingerprint && other.conditions != self.conditions);
        records.insert(0, self);
        records.truncate(MAX_RECORDS);
        if let Ok(text) = serde_json::to_string_pretty(&records) {
            let _ = atomic_write::write(folder.root(), &folder.root().join(FILE), &(text + "\n"));
        }
    }

    fn is_valid(&self) -> bool {
        [self.worst, self.mean].into_iter().all(|value| self.measure.is_possible(value))
            && self.seconds.is_finite()
            && self.seconds >= 0.0
    }
}

fn load_all(folder: &ModelFolder) -> Vec<AccuracyRecord> {
    let records: Vec<AccuracyRecord> = json::read(&folder.root().join(FILE), "").unwrap_or_default();
    records.into_iter().filter(AccuracyRecord::is_valid).collect()
}
