//! Accuracy proof: measures how far a model's vectors in a precision below fp32 are from those in fp32.
//!
//! Built-in texts are embedded in an engine with the fp32 kernels, and then in the engine that will serve requests. The
//! first one ends, and its weights are freed, before those of the second are read: a start with a proof needs as much
//! memory as one in fp32. The result is remembered in the model's folder ([`AccuracyRecord`]). See docs/adr/0024.

use std::{
    iter,
    sync::Arc,
    time::{Duration, Instant},
};

use bert_cpu::Isa;
use encoder_spec::{EncoderSpec, LinearId};
use inference::{Embeddings, Engine, GoldenError, Observer, cosine};
use model_import::{AccuracyRecord, ModelFolder};

use super::{
    CacheFactory, LoadContext, ModelLoadError, Runtime, candidates::Candidate, max_input_tokens, start,
};
use crate::{
    backend::{AccuracyProof, Backend, Selection, SelectionReason},
    config::{ModelConfig, PrecisionSetting},
    metrics::REVISION,
    registry::LoadedModel,
};

/// Part of the conditions of every record. To be increased when texts, lengths or the arithmetic of kernels change.
const VERSION: &str = "proof 1";

/// Short texts, one a line: words, sentences of many scripts, code, numbers, punctuation, emoji.
const TEXTS: &str = include_str!("proof_texts.txt");

/// Number of tokens of the shortest long text. Each next one has four times as many, and the last one fills the window.
const FIRST_LONG_TEXT: usize = 64;

/// Bytes of a long text for each token that it needs, before truncation. Some tokenizers make one token of a long word.
const BYTES_PER_TOKEN: usize = 16;

/// Maximum number of multiplications for the long texts, which limits the time for large models with long windows. On
/// two cores with AVX-512 the fp32 kernels take about 7 s for as many.
const MAX_MULTIPLICATIONS: f64 = 1e12;

/// Starts the engines of one model and proves the accuracy of those that compute in a precision below fp32.
pub(crate) struct Prover<'a> {
    model: &'a ModelConfig,
    folder: &'a ModelFolder,
    fingerprint: &'a str,
    /// Records of earlier starts are used.
    uses_records: bool,
    /// The texts with their vectors in fp32, once computed.
    reference: Option<Reference>,
    /// Results so far, those of failed proofs included.
    proofs: Vec<AccuracyProof>,
}

struct Reference {
    passages: Vec<Passage>,
    embeddings: Vec<Embeddings>,
    /// Time to read the weights and compute the vectors.
    duration: Duration,
}

/// Texts that are embedded together.
struct Passage {
    texts: Vec<String>,
    /// Maximum number of tokens of each text; `None` for the model's.
    max_input_tokens: Option<usize>,
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
    /// Those of [`start`]. With `precision = "auto"` also [`ModelLoadError::Accuracy`] if the proof fails and
    /// [`ModelLoadError::Proof`] if it cannot be computed; a precision that the settings name is used nevertheless.
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
        let Some((candidate, min_cosine)) = candidate.and_then(|it| Some((it, it.min_cosine?))) else {
            return start();
        };
        // Every CPU with a faster instruction set has one for fp32.
        let fp32 = Candidate::reference(Isa::is_available);
        let fp32 = fp32.ok_or(ModelLoadError::UnsupportedNetwork(candidate.isa))?.isa;
        let conditions = self.conditions(candidate.isa, fp32);
        let proof_of = |record: &AccuracyRecord, is_remembered| AccuracyProof {
            precision: candidate.precision,
            worst_cosine: record.worst_cosine,
            min_cosine,
            texts: record.texts,
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
            Err(source) if self.model.precision == PrecisionSetting::Auto => {
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

    /// Embeds the texts with the kernels for `fp32`. The inner error is the engine's failure on the texts.
    fn compute_reference(&self, fp32: Isa) -> Result<Result<Reference, GoldenError>, ModelLoadError> {
        let began = Instant::now();
        let selection = Selection { backend: Backend::Native(fp32), reason: SelectionReason::Configured };
        // Native kernels need no runtime.
        let context = LoadContext { runtime: Runtime::new(None, None), cache: CacheFactory::default() };
        let folder = (self.folder, self.fingerprint);
        let model = start(self.model, folder, selection, &context, Arc::new(()))?;
        let weights = self.folder.encoder().map_err(ModelLoadError::Folder)?;
        let weights = weights.ok_or(ModelLoadError::UnsupportedNetwork(fp32))?;
        let passages = passages(&long_texts(&PassSizes::of(weights.spec()), model.max_input_tokens));
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
        let (mut worst_cosine, mut texts, mut max_tokens) = (1.0f64, 0, 0);
        for (found, expected) in found.iter().zip(&reference.embeddings) {
            let expected = expected.vectors.chunks_exact(expected.dimensions);
            let rows = found.vectors.chunks_exact(found.dimensions).zip(expected);
            for ((found, expected), &tokens) in rows.zip(&found.tokens) {
                worst_cosine = worst_cosine.min(cosine(found, expected));
                max_tokens = max_tokens.max(tokens as usize);
                texts += 1;
            }
        }
        Ok(AccuracyRecord {
            fingerprint: self.fingerprint.to_owned(),
            conditions,
            worst_cosine,
            texts,
            max_tokens,
            seconds: (reference.duration + began.elapsed()).as_secs_f64(),
        })
    }

    /// Keeps the result, and rejects the candidate if it failed and the settings do not insist on it.
    fn judge(&mut self, proof: AccuracyProof) -> Result<(), ModelLoadError> {
        self.proofs.push(proof);
        if proof.is_passed() {
            return Ok(());
        }
        if self.model.precision == PrecisionSetting::Auto {
            return Err(ModelLoadError::Accuracy(proof));
        }
        tracing::warn!(
            model = self.model.id,
            %proof,
            "the configured precision is less accurate than `precision = \"auto\"` accepts"
        );
        Ok(())
    }
}

fn embed(engine: &Engine, passages: &[Passage]) -> Result<Vec<Embeddings>, GoldenError> {
    let embed = |passage: &Passage| {
        let texts: Vec<&str> = passage.texts.iter().map(String::as_str).collect();
        engine.embed_uncached(&texts, passage.max_input_tokens)
    };
    passages.iter().map(embed).collect()
}

/// Numbers of tokens of the long texts, up to a whole window.
fn long_texts(sizes: &PassSizes, window: usize) -> Vec<usize> {
    let lengths = iter::successors(Some(FIRST_LONG_TEXT), |length| Some(length * 4));
    let lengths = lengths.take_while(|&length| length < window).chain([window]);
    let mut spent = 0.0;
    let is_affordable = |&length: &usize| {
        spent += sizes.multiplications(length);
        spent <= MAX_MULTIPLICATIONS
    };
    lengths.take_while(is_affordable).collect()
}

/// Sizes that decide how long a forward pass takes.
struct PassSizes {
    layers: usize,
    /// Weights of a layer's linear layers.
    weights: usize,
    /// Width of all query heads.
    query_width: usize,
}

impl PassSizes {
    fn of(spec: &EncoderSpec) -> Self {
        let linears = LinearId::ALL.into_iter().filter(|&linear| spec.has_linear(linear));
        Self {
            layers: spec.layers.len(),
            weights: linears.map(|linear| spec.linear_shape(linear).iter().product::<usize>()).sum(),
            query_width: spec.attention.query_width(),
        }
    }

    /// Number of multiplications for a text of `tokens` tokens: linear layers, and attention to all tokens.
    fn multiplications(&self, tokens: usize) -> f64 {
        let [layers, weights, width, tokens] =
            [self.layers, self.weights, self.query_width, tokens].map(|size| size as f64);
        layers * tokens * (weights + 2.0 * tokens * width)
    }
}

/// The short texts, and a long text for each of `lengths`.
fn passages(lengths: &[usize]) -> Vec<Passage> {
    let short = Passage { texts: TEXTS.lines().map(str::to_owned).collect(), max_input_tokens: None };
    let long = lengths.iter().enumerate().map(|(number, &length)| {
        // Different beginnings, so that short windows see other scripts than the first ones.
        let mut lines = TEXTS.lines().cycle().skip(number * 5);
        let mut text = String::new();
        while text.len() < length * BYTES_PER_TOKEN {
            text.extend(lines.next().into_iter().flat_map(|line| [line, " "]));
        }
        Passage { texts: vec![text.trim_end().to_owned()], max_input_tokens: Some(length) }
    });
    iter::once(short).chain(long).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINILM: PassSizes =
        PassSizes { layers: 6, weights: 4 * 384 * 384 + 2 * 384 * 1536, query_width: 384 };

    #[test]
    fn long_texts_fill_the_window_within_the_limit_of_multiplications() {
        assert_eq!(long_texts(&MINILM, 16), [16]);
        assert_eq!(long_texts(&MINILM, 64), [64]);
        assert_eq!(long_texts(&MINILM, 512), [64, 256, 512]);
        assert_eq!(long_texts(&MINILM, 8192), [64, 256, 1024, 4096, 8192]);
        let large = PassSizes { layers: 24, weights: 4 * 1024 * 1024 + 2 * 1024 * 4096, query_width: 1024 };
        assert_eq!(long_texts(&large, 512), [64, 256, 512]);
        assert_eq!(long_texts(&large, 8192), [64, 256, 1024]);
    }

    #[test]
    fn texts_cover_scripts_and_lengths() {
        let passages = passages(&[64, 256]);
        let texts: Vec<&str> = passages.iter().flat_map(|it| &it.texts).map(String::as_str).collect();
        for script in [
            'a'..='z',
            'а'..='я',
            'α'..='ω',
            'א'..='ת',
            'ا'..='ي',
            'क'..='ह',
            'ক'..='হ',
            'ก'..='ฮ',
            'ぁ'..='ん',
            'ァ'..='ヶ',
            '一'..='龯',
            '가'..='힣',
            '0'..='9',
            '!'..='/',
            '🌀'..='🛿',
        ] {
            assert!(texts.iter().any(|text| text.chars().any(|c| script.contains(&c))), "{script:?}");
        }
        assert!(texts.iter().any(|text| !text.contains(' ')), "no single word");
        assert!(texts.iter().all(|text| text.trim() == *text && !text.is_empty()), "white space at an end");
        assert!(texts.last().is_some_and(|text| text.len() >= 256 * BYTES_PER_TOKEN));
    }
}
