//! Accuracy records of a model folder: what an earlier start measured for precisions below fp32, so that the next start
//! need not measure it again.

use serde::{Deserialize, Serialize};

use crate::{ModelFolder, atomic_write, json};

/// The file in the model folder.
const FILE: &str = "embedgate.accuracy.json";

/// Maximum number of records in the file: a volume may be shared by machines with different CPUs.
const MAX_RECORDS: usize = 16;

/// Deviation of a model's vectors in one precision from those in fp32, as measured on one kind of machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccuracyRecord {
    /// Fingerprint of the model.
    pub fingerprint: String,
    /// Everything else that the measurement depends on: program, kernels, CPU, texts.
    pub conditions: String,
    /// Smallest cosine between a vector and the one in fp32.
    pub worst_cosine: f64,
    /// Mean of the cosines.
    pub mean_cosine: f64,
    /// Number of texts.
    pub texts: usize,
    /// Number of tokens of the longest text.
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
        // Rounding can lift the cosine of equal vectors above 1.
        [self.worst_cosine, self.mean_cosine].iter().all(|cosine| (-1.001..=1.001).contains(cosine))
            && self.seconds.is_finite()
            && self.seconds >= 0.0
    }
}

fn load_all(folder: &ModelFolder) -> Vec<AccuracyRecord> {
    let records: Vec<AccuracyRecord> = json::read(&folder.root().join(FILE), "").unwrap_or_default();
    records.into_iter().filter(AccuracyRecord::is_valid).collect()
}
