//! Accuracy proof: measures how far a model's results in a precision below fp32 are from those in fp32.
//!
//! Built-in texts, or pairs of them for a reranker, are computed in an engine with the fp32 kernels, and then in the
//! engine that will serve requests. The first one ends, and its weights are freed, before those of the second are read:
//! a start with a proof needs as much memory as one in fp32. The result is remembered in the model's folder
//! ([`AccuracyRecord`]). See docs/adr/0024 and docs/adr/0030.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bert_cpu::Isa;
use inference::{Embeddings, Engine, GoldenError, Observer, cosine};
use model_import::{AccuracyMeasure, AccuracyRecord, ModelFolder};

use super::{
    CacheFactory, LoadContext, ModelLoadError, Runtime,
    builtin_texts::{Passage, passages_for},
    candidates::{Candidate, accuracy_bound},
    max_input_tokens, start,
};
use crate::{
    backend::{AccuracyProof, Backend, Selection, SelectionReason},
    config::{ModelConfig, PrecisionSetting},
    metrics::REVISION,
    registry::LoadedModel,
};

/// Part of the conditions of every record. To be increased when texts, lengths or the arithmetic of kernels change.
const VERSION: &str = "proof 3";

/// Starts the engines of one model and proves the accuracy of those that compute in a precision below fp32.
pub(crate) struct Prover<'a> {
    model: &'a ModelConfig,
    folder: &'a ModelFolder,
    fingerprint: &'a str,
    /// Records of earlier starts are used.
    uses_records: bool,
    /// The inputs with their results in fp32, once computed.
    reference: Option<Reference>,
    /// Results so far, those of failed proofs included.
    proofs: Vec<AccuracyProof>,
}

struct Reference {
    passages: Vec<Passage>,
    embeddings: Vec<Embeddings>,
    /// Time to read the weights and compute the results.
    duration: Duration,
}

impl<'a> Prover<'a> {
    /// Creates the prover of a model, which uses the records of earlier starts.
    pub(crate) fn new(model: &'a ModelConfig, folder: &'a ModelFolder, fingerprint: &'a str) -> Self {
        Self { model, folder, fingerprint, uses_records: true, reference: None, proofs: Vec::new() }
    }

    /// The same, but every proof is computed.
    pub(crate) fn without_records(self) -> Self {
        Self { uses_records: false, ..self }
    }

    /// Starts an engine on the selected backend, with a proof if the backend needs one.
    ///
    /// # Errors
    /// Those of [`start`]. With `precision = "auto"` also [`ModelLoadError::Accuracy`] if the proof fails, with
    /// `"int8"` [`ModelLoadError::Int8Accuracy`], and with both [`ModelLoadError::Proof`] if it cannot be computed;
    /// bf16 is used nevertheless if the settings name it.
    pub(crate) fn start(
        &mut self,
        selection: Selection,
        context: &LoadContext,
        observer: Arc<dyn Observer>,
    ) -> Result<LoadedModel, ModelLoadError> {
        let (config, folder, fingerprint) = (self.model, self.folder, self.fingerprint);
        let start = || start(config, (folder, fingerprint), selection, context, observer);
        let mut model = self.start_proven(selection.backend, start)?;
        model.proofs.clone_from(&self.proofs);
        Ok(model)
    }

    fn start_proven(
        &mut self,
        backend: Backend,
        start: impl FnOnce() -> Result<LoadedModel, ModelLoadError>,
    ) -> Result<LoadedModel, ModelLoadError> {
        let candidate = backend.isa().and_then(Candidate::of);
        let measure = AccuracyMeasure::of(self.folder.task());
        let proved = candidate.and_then(|it| Some((it, accuracy_bound(self.model, measure, it.precision)?)));
        let Some((candidate, bound)) = proved else { return start() };
        // Every CPU with a faster instruction set has one for fp32.
        let fp32 = Candidate::reference(Isa::is_available);
        let fp32 = fp32.ok_or(ModelLoadError::UnsupportedNetwork(candidate.isa))?.isa;
        let conditions = self.conditions(candidate.isa, fp32);
        let proof_of = |record: &AccuracyRecord, is_remembered| AccuracyProof {
            precision: candidate.precision,
            measure: record.measure,
            worst: record.worst,
            mean: record.mean,
            bound,
            inputs: record.inputs,
            max_tokens: record.max_tokens,
            duration: Duration::try_from_secs_f64(record.seconds).unwrap_or_default(),
            is_remembered,
        };
        if self.uses_records
            && let Some(record) = AccuracyRecord::load(self.folder, self.fingerprint, &conditions)
        {
            self.judge(proof_of(&record, true))?;
            return start();
        }
        tracing::info!(model = self.model.id, "comparing {} with fp32", candidate.precision.name());
        let reference = match self.reference.take() {
            Some(reference) => Ok(reference),
            None => self.compute_reference(fp32)?,
        };
        let model = start()?;
        let measured = reference.and_then(|reference| {
            let result = self.measure(&model.engine, &reference, conditions);
            self.reference = Some(reference);
            result
        });
        match measured {
            Ok(record) => {
                let proof = proof_of(&record, false);
                record.store(self.folder);
                self.judge(proof)?;
            }
            Err(source)
                if matches!(self.model.precision, PrecisionSetting::Auto | PrecisionSetting::Int8) =>
            {
                return Err(ModelLoadError::Proof(Box::new(source)));
            }
            Err(error) => tracing::warn!(
                model = self.model.id,
                %error,
                "the accuracy of the configured precision cannot be measured"
            ),
        }
        Ok(model)
    }

    /// Everything but the model that a measurement depends on.
    fn conditions(&self, candidate: Isa, fp32: Isa) -> String {
        let cpu = Isa::detect().into_iter().map(Isa::name).collect::<Vec<_>>().join(" ");
        let window = max_input_tokens(self.model, self.folder);
        let program = env!("CARGO_PKG_VERSION");
        format!(
            "{VERSION}, embedgate {program} ({REVISION}), {candidate} against {fp32} on {cpu}, {window} tokens"
        )
    }

    /// Computes the inputs with the kernels for `fp32`. The inner error is the engine's failure on them.
    fn compute_reference(&self, fp32: Isa) -> Result<Result<Reference, GoldenError>, ModelLoadError> {
        let began = Instant::now();
        let selection = Selection { backend: Backend::Native(fp32), reason: SelectionReason::Configured };
        // Native kernels need no runtime.
        let context = LoadContext { runtime: Runtime::new(None, None), cache: CacheFactory::default() };
        let folder = (self.folder, self.fingerprint);
        let model = start(self.model, folder, selection, &context, Arc::new(()))?;
        let weights = self.folder.encoder().map_err(ModelLoadError::Folder)?;
        let weights = weights.ok_or(ModelLoadError::UnsupportedNetwork(fp32))?;
        let passages = passages_for(self.folder.task(), weights.spec(), model.max_input_tokens);
        let embeddings = embed(&model.engine, &passages);
        drop(model);
        Ok(embeddings.map(|embeddings| Reference { passages, embeddings, duration: began.elapsed() }))
    }

    fn measure(
        &self,
        engine: &Engine,
        reference: &Reference,
        conditions: String,
    ) -> Result<AccuracyRecord, GoldenError> {
        let began = Instant::now();
        let found = embed(engine, &reference.passages)?;
        let measure = AccuracyMeasure::of(self.folder.task());
        let values = compare(measure, &found, &reference.embeddings);
        let tokens = found.iter().flat_map(|found| &found.tokens);
        Ok(AccuracyRecord {
            fingerprint: self.fingerprint.to_owned(),
            conditions,
            measure,
            worst: values.iter().copied().reduce(|a, b| measure.worse(a, b)).unwrap_or(f64::NAN),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            inputs: values.len(),
            max_tokens: tokens.max().map_or(0, |&tokens| tokens as usize),
            seconds: (reference.duration + began.elapsed()).as_secs_f64(),
        })
    }

    /// Keeps the result, and rejects the candidate if it failed and the settings do not insist on it. int8 is never
    /// used below the minimum that the settings state for it.
    fn judge(&mut self, proof: AccuracyProof) -> Result<(), ModelLoadError> {
        self.proofs.push(proof);
        if proof.is_passed() {
            return Ok(());
        }
        match self.model.precision {
            PrecisionSetting::Auto => Err(ModelLoadError::Accuracy(proof)),
            PrecisionSetting::Int8 => Err(ModelLoadError::Int8Accuracy(proof)),
            PrecisionSetting::Fp32 | PrecisionSetting::Bf16 => {
                tracing::warn!(
                    model = self.model.id,
                    %proof,
                    "the configured precision is less accurate than `precision = \"auto\"` accepts"
                );
                Ok(())
            }
        }
    }
}

fn embed(engine: &Engine, passages: &[Passage]) -> Result<Vec<Embeddings>, GoldenError> {
    let embed = |passage: &Passage| engine.embed_uncached(passage.inputs.clone(), passage.max_input_tokens);
    passages.iter().map(embed).collect()
}

/// Returns the value of `measure` for each input.
fn compare(measure: AccuracyMeasure, found: &[Embeddings], expected: &[Embeddings]) -> Vec<f64> {
    let rows = found.iter().zip(expected).flat_map(|(found, expected)| {
        let expected = expected.vectors.chunks_exact(expected.dimensions);
        found.vectors.chunks_exact(found.dimensions).zip(expected)
    });
    match measure {
        AccuracyMeasure::Cosine => rows.map(|(found, expected)| cosine(found, expected)).collect(),
        AccuracyMeasure::ScoreDifference => {
            let scores =
                expected.iter().flat_map(|expected| &expected.vectors).map(|&score| f64::from(score));
            let (min, max) = scores.fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), score| {
                (min.min(score), max.max(score))
            });
            // A model that gives every pair the same score has no range.
            let range = if max > min { max - min } else { 1.0 };
            rows.map(|(found, expected)| (f64::from(found[0]) - f64::from(expected[0])).abs() / range)
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use inference::Timings;

    use super::*;

    fn embeddings(dimensions: usize, vectors: &[f32]) -> Embeddings {
        let (tokens, timings) = (vec![3; vectors.len() / dimensions], Timings::default());
        Embeddings { dimensions, vectors: vectors.to_vec(), tokens, truncated: 0, timings }
    }

    #[test]
    fn score_differences_are_parts_of_the_range_in_fp32() {
        let measure = AccuracyMeasure::ScoreDifference;
        let fp32 = [embeddings(1, &[-6.0, 2.0]), embeddings(1, &[0.0])];
        let int8 = [embeddings(1, &[-5.0, 2.0]), embeddings(1, &[-0.5])];
        assert_eq!(compare(measure, &int8, &fp32), [0.125, 0.0, 0.0625]);
        let constant = [embeddings(1, &[4.0, 4.0])];
        assert_eq!(compare(measure, &[embeddings(1, &[4.0, 4.5])], &constant), [0.0, 0.5]);
        assert_eq!(
            compare(AccuracyMeasure::Cosine, &[embeddings(2, &[4.0, 3.0])], &[embeddings(2, &[3.0, 4.0])]),
            [0.96]
        );
    }
}
