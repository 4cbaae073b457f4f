//! Rerankers and sparse encoders: tiny models on every backend against the scores and weights of
//! sentence-transformers.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use gateway::{
    Backend, Registry,
    config::{MaxIsa, PrecisionSetting},
};
use inference::{Embeddings, Input, Job, TruncationPolicy, activate};
use model_import::Task;
use serde::Deserialize;

use crate::{MAX_DIFFERENCE, config, config_for, embed, load_error, max_difference, served, tiny};

/// Pairs of texts with the scores of a cross-encoder, or texts with the weights of a sparse encoder.
#[derive(Deserialize)]
struct RerankReference {
    #[serde(default)]
    pairs: Vec<(String, String)>,
    #[serde(default)]
    texts: Vec<String>,
    token_counts: Vec<u32>,
    #[serde(default)]
    raw_scores: Vec<f32>,
    #[serde(default)]
    scores: Vec<f32>,
    #[serde(default)]
    sparse: Vec<SparseVector>,
}

#[derive(Deserialize)]
struct SparseVector {
    indices: Vec<usize>,
    values: Vec<f32>,
}

impl RerankReference {
    fn of(folder: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap()
    }
}

impl SparseVector {
    fn to_dense(&self, dimensions: usize) -> Vec<f32> {
        let mut dense = vec![0.0; dimensions];
        for (&index, &value) in self.indices.iter().zip(&self.values) {
            dense[index] = value;
        }
        dense
    }
}

const CROSS_ENCODERS: [&str; 3] = ["ce-bert", "ce-xlm-roberta", "ce-modernbert"];

fn score(registry: &Registry, pairs: &[(String, String)]) -> Embeddings {
    let pair = |(query, document): &(String, String)| Input::Pair {
        query: Arc::from(query.as_str()),
        document: document.clone(),
    };
    let job = Job {
        inputs: pairs.iter().map(pair).collect(),
        prompt: None,
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + Duration::from_secs(300),
        max_tokens: usize::MAX,
        caller: None,
    };
    registry.find("tiny").unwrap().loaded().unwrap().engine.submit(job).unwrap().wait().unwrap()
}

backend_tests! {
    #[test]
    fn cross_encoders_give_the_reference_scores_and_token_counts(backend: Backend) {
        for name in CROSS_ENCODERS {
            let folder = tiny(name);
            let reference = RerankReference::of(folder.path());
            let registry = served(&config_for(folder.path(), backend)).unwrap();
            let model = registry.find("tiny").unwrap().loaded().unwrap();
            assert_eq!((model.selection.backend, model.task), (backend, Task::Rerank), "{name}");
            let together = score(&registry, &reference.pairs);
            assert_eq!(together.tokens, reference.token_counts, "{name}");
            let difference = max_difference(&together.vectors, &reference.raw_scores);
            assert!(difference < MAX_DIFFERENCE, "{name}: off by {difference}");
            let activated: Vec<_> =
                together.vectors.iter().map(|&score| activate(model.score_activation, score)).collect();
            let difference = max_difference(&activated, &reference.scores);
            assert!(difference < MAX_DIFFERENCE, "{name}: off by {difference} after the activation");
            // A new server, so that its cache is empty.
            let registry = served(&config_for(folder.path(), backend)).unwrap();
            for (pair, expected) in reference.pairs.iter().zip(&reference.raw_scores) {
                let alone = score(&registry, std::slice::from_ref(pair)).vectors;
                let difference = max_difference(&alone, &[*expected]);
                assert!(difference < MAX_DIFFERENCE, "{name}: {pair:?} is off by {difference}");
            }
        }
    }

    #[test]
    fn sparse_encoders_give_the_reference_weights_and_token_counts(backend: Backend) {
        let folder = tiny("splade-bert");
        let reference = RerankReference::of(folder.path());
        let registry = served(&config_for(folder.path(), backend)).unwrap();
        let model = registry.find("tiny").unwrap().loaded().unwrap();
        assert_eq!((model.selection.backend, model.task), (backend, Task::EmbedSparse));
        let together = embed(&registry, &reference.texts).unwrap();
        assert_eq!(together.tokens, reference.token_counts);
        let registry = served(&config_for(folder.path(), backend)).unwrap();
        let rows = together.vectors.chunks_exact(together.dimensions);
        for ((found, expected), text) in rows.zip(&reference.sparse).zip(&reference.texts) {
            let expected = expected.to_dense(found.len());
            let alone = embed(&registry, &[text]).unwrap().vectors;
            for found in [found, &alone] {
                let difference = max_difference(found, &expected);
                assert!(difference < MAX_DIFFERENCE, "{text:?} is off by {difference}");
                let is_zero = |values: &[f32]| values.iter().map(|value| *value == 0.0).collect::<Vec<_>>();
                assert_eq!(is_zero(found), is_zero(&expected), "{text:?}");
            }
        }
    }
}

#[test]
fn a_cross_encoder_has_no_precision_that_is_proved_by_cosines() {
    let folder = tiny("ce-bert");
    for (precision, name) in [(PrecisionSetting::Bf16, "bf16"), (PrecisionSetting::Int8, "int8")] {
        let mut config = config(folder.path(), MaxIsa::Best);
        config.models[0].precision = precision;
        let error = load_error(&config);
        let expected = format!("precision = \"{name}\" is for models that compute embeddings");
        assert!(error.contains(&expected) && error.contains("this model reranks"), "{error}");
    }
    let registry = served(&config(folder.path(), MaxIsa::Best)).unwrap();
    let line = registry.find("tiny").unwrap().loaded().unwrap().describe();
    assert!(line.starts_with("tiny · reranks · cpu fp32"), "{line}");
}

#[test]
fn settings_of_embedding_models_are_rejected_for_a_reranker() {
    let folder = tiny("ce-bert");
    let mut config = config(folder.path(), MaxIsa::Best);
    config.models[0].truncation = TruncationPolicy::Average;
    let error = load_error(&config);
    assert!(error.contains("`truncation = \"average\"` is for models that compute embeddings"), "{error}");
}

#[test]
fn a_late_interaction_model_is_rejected_by_name() {
    let folder = tiny("colbert-bert");
    let error = load_error(&config(folder.path(), MaxIsa::Best));
    assert!(error.contains("late-interaction model (ColBERT)") && error.contains("cross-encoder"), "{error}");
}
