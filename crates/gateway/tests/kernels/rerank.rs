//! Rerankers and sparse encoders: tiny models on every backend against the scores and weights of
//! sentence-transformers.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bert_cpu::Isa;
use gateway::{
    Backend, Registry,
    config::{Config, MaxIsa, PrecisionSetting, Ratio},
};
use inference::{Embeddings, Input, Job, TruncationPolicy, activate};
use model_import::{AccuracyMeasure, Precision, Task};
use serde::Deserialize;

use crate::{
    MAX_DIFFERENCE, config, config_for, embed, load_error, max_difference,
    proof::{int8_isa, model, proof},
    served, tiny,
};

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

const SPARSE_ENCODERS: [&str; 2] = ["splade-bert", "splade-distilbert"];

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
        for name in SPARSE_ENCODERS {
            let folder = tiny(name);
            let reference = RerankReference::of(folder.path());
            let registry = served(&config_for(folder.path(), backend)).unwrap();
            let model = registry.find("tiny").unwrap().loaded().unwrap();
            assert_eq!((model.selection.backend, model.task), (backend, Task::EmbedSparse), "{name}");
            let together = embed(&registry, &reference.texts).unwrap();
            assert_eq!(together.tokens, reference.token_counts, "{name}");
            let registry = served(&config_for(folder.path(), backend)).unwrap();
            let rows = together.vectors.chunks_exact(together.dimensions);
            for ((found, expected), text) in rows.zip(&reference.sparse).zip(&reference.texts) {
                let expected = expected.to_dense(found.len());
                let alone = embed(&registry, &[text]).unwrap().vectors;
                for found in [found, &alone] {
                    let difference = max_difference(found, &expected);
                    assert!(difference < MAX_DIFFERENCE, "{name}: {text:?} is off by {difference}");
                    let is_zero = |values: &[f32]| values.iter().map(|value| *value == 0.0).collect::<Vec<_>>();
                    assert_eq!(is_zero(found), is_zero(&expected), "{name}: {text:?}");
                }
            }
        }
    }
}

/// Settings that select int8, for a model whose scores or weights deviate by any amount.
fn int8(folder: &Path) -> Config {
    let mut config = config(folder, MaxIsa::Best);
    config.models[0].precision = PrecisionSetting::Int8;
    // Results of random weights are more sensitive to rounding than those of trained ones.
    config.models[0].int8_max_score_difference = Ratio::ALL;
    config.models[0].int8_min_cosine = Ratio::new(0.9).unwrap();
    config
}

#[test]
#[cfg_attr(not(any(cpu_has = "avx2", cpu_has = "neon-dotprod")), ignore = "this CPU has no kernels for int8")]
fn a_reranker_is_served_in_int8_with_its_measured_score_difference() {
    for name in CROSS_ENCODERS {
        let folder = tiny(name);
        let reference = RerankReference::of(folder.path());
        for is_remembered in [false, true] {
            let registry = served(&int8(folder.path())).unwrap();
            let (served, proof) = (model(&registry), proof(&registry));
            assert_eq!(
                (served.precision, served.selection.backend.isa()),
                (Precision::Int8, int8_isa()),
                "{name}"
            );
            assert_eq!((proof.measure, proof.bound), (AccuracyMeasure::ScoreDifference, 1.0), "{name}");
            assert!(0.0 < proof.mean && proof.mean < proof.worst && proof.worst < 0.5, "{name}: {proof}");
            assert_eq!(
                (proof.max_tokens, proof.is_remembered),
                (served.max_input_tokens, is_remembered),
                "{name}"
            );
            let line = served.describe();
            assert!(line.starts_with("tiny · reranks · cpu int8 "), "{line}");
            assert!(
                line.contains(&format!(" · int8: largest score difference {:.7} to fp32", proof.worst)),
                "{line}"
            );

            let together = score(&registry, &reference.pairs).vectors;
            for (pair, expected) in reference.pairs.iter().zip(&together) {
                assert_eq!(
                    score(&registry, std::slice::from_ref(pair)).vectors,
                    [*expected],
                    "{name}: {pair:?} alone"
                );
            }
            let difference = max_difference(&together, &reference.raw_scores);
            assert!(0.0 < difference && difference < 1.0, "{name}: off by {difference}");
        }
    }
}

#[test]
#[cfg_attr(not(any(cpu_has = "avx2", cpu_has = "neon-dotprod")), ignore = "this CPU has no kernels for int8")]
fn a_reranker_that_is_not_accurate_enough_in_int8_does_not_start() {
    let folder = tiny("ce-bert");
    let mut config = int8(folder.path());
    config.models[0].int8_max_score_difference = Ratio::new(0.0).unwrap();
    for _ in ["measured", "remembered"] {
        let message = load_error(&config);
        for part in [
            "its accuracy in int8 is too low: int8: largest score difference 0.0",
            "allowed 0 (",
            "`int8_max_score_difference` higher",
        ] {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    }
}

#[test]
#[cfg_attr(not(any(cpu_has = "avx2", cpu_has = "neon-dotprod")), ignore = "this CPU has no kernels for int8")]
fn auto_selects_int8_for_a_reranker_only_with_a_maximum_difference_of_scores() {
    let folder = tiny("ce-bert");
    let mut config = config(folder.path(), MaxIsa::Best);
    config.models[0].auto_min_cosine = Ratio::new(0.5);
    assert_ne!(model(&served(&config).unwrap()).precision, Precision::Int8);
    config.models[0].auto_max_score_difference = Some(Ratio::ALL);
    // Another candidate is faster, or the only one, on some CPUs.
    let candidates =
        [Isa::best(bert_cpu::Precision::Bf16, None), int8_isa(), Isa::best(bert_cpu::Precision::Fp32, None)];
    let fastest = model(&served(&config).unwrap()).selection.backend.isa();
    assert!(candidates.contains(&fastest), "{fastest:?}");
    if cfg!(cpu_has = "avx2") && !Isa::Avx512.is_available() {
        assert_eq!(fastest, int8_isa());
    }
    config.models[0].auto_max_score_difference = Ratio::new(0.0);
    assert_eq!(model(&served(&config).unwrap()).precision, Precision::Fp32);
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn auto_serves_a_reranker_in_bf16_within_the_bound() {
    for name in CROSS_ENCODERS {
        let folder = tiny(name);
        let registry = served(&config(folder.path(), MaxIsa::Best)).unwrap();
        let proof = proof(&registry);
        assert_eq!((proof.measure, proof.bound), (AccuracyMeasure::ScoreDifference, 0.01), "{name}");
        let expected = if proof.is_passed() { Precision::Bf16 } else { Precision::Fp32 };
        assert_eq!(model(&registry).precision, expected, "{name}: {proof}");
        let mut chosen = config(folder.path(), MaxIsa::Best);
        chosen.models[0].precision = PrecisionSetting::Bf16;
        assert_eq!(model(&served(&chosen).unwrap()).precision, Precision::Bf16, "{name}");
    }
}

#[test]
#[cfg_attr(not(any(cpu_has = "avx2", cpu_has = "neon-dotprod")), ignore = "this CPU has no kernels for int8")]
fn a_sparse_encoder_is_served_in_int8_with_its_measured_cosines() {
    for name in SPARSE_ENCODERS {
        let folder = tiny(name);
        let texts = RerankReference::of(folder.path()).texts;
        let registry = served(&int8(folder.path())).unwrap();
        let proof = proof(&registry);
        assert_eq!((proof.measure, proof.precision), (AccuracyMeasure::Cosine, Precision::Int8), "{name}");
        assert!(0.9 < proof.worst && proof.worst < proof.mean && proof.mean < 1.0, "{name}: {proof}");
        let together = embed(&registry, &texts).unwrap();
        for (text, expected) in texts.iter().zip(together.vectors.chunks(together.dimensions)) {
            assert!(embed(&registry, &[text]).unwrap().vectors == expected, "{name}: {text:?} alone");
        }
    }
}

/// The folder of a cross-encoder that came as an ONNX graph, without weights.
fn exported_cross_encoder(graph: &str) -> tempfile::TempDir {
    let folder = tiny("ce-bert");
    let graphs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-import/tests/graphs");
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    std::fs::copy(graphs.join(graph), folder.path().join("onnx/model.onnx")).unwrap();
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn a_cross_encoder_that_came_as_a_graph_gives_the_reference_scores() {
    let folder = exported_cross_encoder("ce-bert_logits.onnx");
    let reference = RerankReference::of(folder.path());
    let registry = served(&config(folder.path(), MaxIsa::Best)).unwrap();
    let served_model = model(&registry);
    assert_eq!((served_model.selection.backend, served_model.task), (Backend::OnnxRuntime, Task::Rerank));
    assert!(
        served_model.describe().starts_with("tiny · reranks · cpu fp32 onnxruntime"),
        "{}",
        served_model.describe()
    );
    let together = score(&registry, &reference.pairs);
    assert_eq!(together.tokens, reference.token_counts);
    let difference = max_difference(&together.vectors, &reference.raw_scores);
    assert!(difference < MAX_DIFFERENCE, "off by {difference}");
    // A new server, so that its cache is empty.
    let registry = served(&config(folder.path(), MaxIsa::Best)).unwrap();
    for (pair, expected) in reference.pairs.iter().zip(&reference.raw_scores) {
        let alone = score(&registry, std::slice::from_ref(pair)).vectors;
        let difference = max_difference(&alone, &[*expected]);
        assert!(difference < MAX_DIFFERENCE, "{pair:?} is off by {difference}");
    }
}

#[test]
fn a_graph_without_scores_is_rejected_at_start_with_its_outputs() {
    let folder = exported_cross_encoder("bert-mean_dynamic.onnx");
    let error = load_error(&config(folder.path(), MaxIsa::Best));
    assert!(error.contains("its outputs are `last_hidden_state`; one of `logits` is needed"), "{error}");
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
