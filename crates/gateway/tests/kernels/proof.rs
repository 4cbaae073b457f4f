//! The accuracy proof: a precision below fp32 serves a model only if its vectors are near those in fp32, and the result
//! is remembered. None of the models has golden vectors, unless a test adds them.

use std::{fs, path::Path, sync::Arc};

use bert_cpu::Isa;
use gateway::{
    AccuracyProof, Backend, LoadedModel, Registry, SelectionReason,
    config::{Config, MaxIsa, PrecisionSetting, Ratio},
};
use model_import::Precision;
use serde_json::json;

use crate::{Reference, config, embed, load_error, served, tiny, unusable::change_weights};

const RECORDS: &str = "embedgate.accuracy.json";

fn load(folder: &Path) -> Registry {
    served(&config(folder, MaxIsa::Best)).unwrap()
}

pub(crate) fn model(registry: &Registry) -> Arc<LoadedModel> {
    registry.find("tiny").unwrap().loaded().unwrap()
}

/// The only proof of a model.
#[track_caller]
pub(crate) fn proof(registry: &Registry) -> AccuracyProof {
    let [proof] = model(registry).proofs[..] else { panic!("{:?}", model(registry).proofs) };
    proof
}

/// Makes the attention scores so large that the rounding of bf16 changes which tokens are attended to.
fn sharpen_attention(folder: &Path) {
    for layer in 0..2 {
        for weight in ["query", "key"] {
            let tensor = format!("encoder.layer.{layer}.attention.self.{weight}.weight");
            change_weights(folder, &tensor, |value| value * 60.0);
        }
    }
}

fn bf16(folder: &Path) -> Config {
    let mut config = config(folder, MaxIsa::Best);
    config.models[0].precision = PrecisionSetting::Bf16;
    config
}

fn int8(folder: &Path, min_cosine: f64) -> Config {
    let mut config = config(folder, MaxIsa::Best);
    config.models[0].precision = PrecisionSetting::Int8;
    config.models[0].int8_min_cosine = Ratio::new(min_cosine).unwrap();
    config
}

/// Models that are accurate enough in bf16. Random weights make some of the others too sensitive to rounding.
const ACCURATE: [&str; 6] =
    ["bert-cls", "bert-mean", "distilbert-cls", "distilbert-dense", "roberta-mean", "xlm-roberta-mean"];

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn auto_serves_an_accurate_model_without_golden_vectors_in_bf16() {
    for name in crate::MODELS {
        let folder = tiny(name);
        let registry = load(folder.path());
        let served = model(&registry);
        let proof = proof(&registry);
        if !proof.is_passed() {
            assert!(!ACCURATE.contains(&name), "{name}: {proof}");
            assert_eq!(served.selection.reason, SelectionReason::AccuracyFailed, "{name}");
            assert_eq!(served.precision, Precision::Fp32, "{name}");
            continue;
        }
        assert_eq!(served.selection.backend, Backend::Native(Isa::AmxBf16), "{name}");
        assert_eq!(served.selection.reason, SelectionReason::Best, "{name}");
        assert!((0.9999..1.0).contains(&proof.worst), "{name}: {proof}");
        assert_eq!((proof.precision, proof.bound), (Precision::Bf16, 0.9999), "{name}");
        assert_eq!(proof.max_tokens, served.max_input_tokens, "{name}: no text fills the window");
        assert!(proof.inputs > 20, "{name}: {proof}");
        let line = served.describe();
        let expected = format!("cpu bf16 amx (the fastest that this CPU supports) · {proof}");
        assert!(line.contains(&expected), "{line}");

        let reference = Reference::of(folder.path());
        let (_, _, vectors) = reference.cases().swap_remove(0);
        let found = embed(&registry, &reference.texts).unwrap();
        for (found, expected) in found.vectors.chunks(found.dimensions).zip(&vectors) {
            assert!(inference::cosine(found, expected) > 0.999, "{name}");
        }
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn a_proof_is_remembered_until_the_model_or_the_window_changes() {
    let folder = tiny("bert-mean");
    let first = proof(&load(folder.path()));
    assert!(!first.is_remembered);
    let again = AccuracyProof { is_remembered: true, ..first };
    assert_eq!(proof(&load(folder.path())), again);

    let mut shorter = config(folder.path(), MaxIsa::Best);
    shorter.models[0].max_input_tokens = Some(32);
    let registry = served(&shorter).unwrap();
    assert_eq!((proof(&registry).is_remembered, proof(&registry).max_tokens), (false, 32));
    assert_eq!(proof(&load(folder.path())), again, "another window replaced the record");

    change_weights(folder.path(), "encoder.layer.0.output.dense.bias", |value| value + 0.5);
    let changed = proof(&load(folder.path()));
    assert!(!changed.is_remembered && changed.worst != first.worst, "{changed}");
    assert!(proof(&load(folder.path())).is_remembered);
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn an_unusable_record_file_leads_to_another_proof() {
    let folder = tiny("bert-mean");
    let path = folder.path().join(RECORDS);
    let first = proof(&load(folder.path()));
    let text = fs::read_to_string(&path).unwrap();
    for damaged in [
        text[..text.len() / 2].to_owned(),
        text.replace("\"worst\": 0.", "\"worst\": 7."),
        text.replace("avx512", "avx1024"),
        "[]".to_owned(),
        String::new(),
    ] {
        assert_ne!(damaged, text);
        fs::write(&path, damaged).unwrap();
        let found = proof(&load(folder.path()));
        assert!(!found.is_remembered && found.worst == first.worst, "{found}");
    }
    // As in a read-only folder, nothing can be written here.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    for _ in 0..2 {
        assert!(!proof(&load(folder.path())).is_remembered);
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn a_model_that_fails_the_proof_is_served_in_fp32() {
    let folder = tiny("bert-mean");
    sharpen_attention(folder.path());
    for is_remembered in [false, true] {
        let registry = load(folder.path());
        let served = model(&registry);
        assert_eq!(served.precision, Precision::Fp32);
        assert_eq!(served.selection.backend.isa(), Isa::best(bert_cpu::Precision::Fp32, None));
        assert_eq!(served.selection.reason, SelectionReason::AccuracyFailed);
        let proof = proof(&registry);
        assert!(proof.worst < 0.9999 && !proof.is_passed(), "{proof}");
        assert_eq!(proof.is_remembered, is_remembered);
        let line = served.describe();
        for part in ["cpu fp32 ", "(a faster precision failed the accuracy proof)", "bf16: ", "needed 0.9999"]
        {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
        assert!(embed(&registry, &["a text"]).is_ok());
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn a_configured_precision_is_measured_and_served() {
    let folder = tiny("bert-mean");
    sharpen_attention(folder.path());
    for is_remembered in [false, true] {
        let registry = served(&bf16(folder.path())).unwrap();
        assert_eq!(model(&registry).selection.reason, SelectionReason::Configured);
        assert_eq!(model(&registry).precision, Precision::Bf16);
        assert!(!proof(&registry).is_passed() && proof(&registry).is_remembered == is_remembered);
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn a_model_with_other_golden_vectors_is_rejected_although_it_passes_the_proof() {
    let folder = tiny("bert-mean");
    let reference = Reference::of(folder.path());
    let mut prefix = reference.vectors[0].clone();
    let manifest = |prefix: &[f32]| {
        let (text, tokens) = (&json!(reference.texts[0]), reference.token_ids[0].len());
        format!("id = \"tiny\"\n[[golden]]\ntext = {text}\ntokens = {tokens}\nprefix = {prefix:?}\n")
    };
    let path = folder.path().join("model.toml");
    fs::write(&path, manifest(&prefix)).unwrap();
    let registry = load(folder.path());
    assert_eq!((model(&registry).precision, proof(&registry).is_passed()), (Precision::Bf16, true));

    prefix[0] += 0.1;
    fs::write(&path, manifest(&prefix)).unwrap();
    let message = load_error(&config(folder.path(), MaxIsa::Best));
    assert!(message.contains("its golden check failed"), "{message}");
}

#[test]
fn fp32_needs_no_proof() {
    let folder = tiny("bert-mean");
    let mut config = config(folder.path(), MaxIsa::Best);
    config.models[0].precision = PrecisionSetting::Fp32;
    assert!(model(&served(&config).unwrap()).proofs.is_empty());
    assert!(!folder.path().join(RECORDS).exists());
}

/// The instruction set for int8 of this CPU.
pub(crate) fn int8_isa() -> Option<Isa> {
    Isa::best(bert_cpu::Precision::Int8, None)
}

#[test]
#[cfg_attr(not(any(cpu_has = "avx2", cpu_has = "neon-dotprod")), ignore = "this CPU has no kernels for int8")]
fn int8_is_served_with_its_measured_accuracy() {
    for name in crate::MODELS {
        let folder = tiny(name);
        for is_remembered in [false, true] {
            // Vectors of random weights are more sensitive to rounding than those of trained ones.
            let registry = served(&int8(folder.path(), 0.9)).unwrap();
            let (served, proof) = (model(&registry), proof(&registry));
            assert_eq!(served.selection.backend.isa(), int8_isa(), "{name}");
            assert_eq!((served.precision, proof.precision), (Precision::Int8, Precision::Int8), "{name}");
            assert_eq!((proof.bound, proof.is_remembered), (0.9, is_remembered), "{name}");
            assert!(proof.worst < proof.mean && proof.mean < 1.0, "{name}: {proof}");
            assert!(served.describe().contains(&format!(" · {proof}")), "{name}: {}", served.describe());

            let texts = &Reference::of(folder.path()).texts;
            let together = embed(&registry, texts).unwrap();
            for (text, expected) in texts.iter().zip(together.vectors.chunks(together.dimensions)) {
                assert!(embed(&registry, &[text]).unwrap().vectors == expected, "{name}: {text:?} alone");
            }
        }
    }
}

#[test]
#[cfg_attr(not(any(cpu_has = "avx2", cpu_has = "neon-dotprod")), ignore = "this CPU has no kernels for int8")]
fn a_model_that_is_not_accurate_enough_in_int8_does_not_start() {
    let folder = tiny("bert-mean");
    for _ in ["measured", "remembered"] {
        let message = load_error(&int8(folder.path(), 1.0));
        for part in
            ["its accuracy in int8 is too low: int8: worst cosine 0.9", "needed 1", "`int8_min_cosine`"]
        {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    }
}

#[test]
#[cfg_attr(not(any(cpu_has = "avx2", cpu_has = "neon-dotprod")), ignore = "this CPU has no kernels for int8")]
fn auto_selects_int8_only_with_a_minimum_cosine() {
    let folder = tiny("bert-mean");
    let mut config = config(folder.path(), MaxIsa::Best);
    assert_ne!(model(&served(&config).unwrap()).precision, Precision::Int8);
    config.models[0].auto_min_cosine = Ratio::new(0.9);
    let lenient = model(&served(&config).unwrap());
    let expected = if Isa::AmxBf16.is_available() {
        Precision::Bf16
    } else if Isa::Avx512.is_available() && int8_isa() < Some(Isa::Avx512) {
        // Without VNNI, f32 in vectors of 512 bits is the fastest.
        Precision::Fp32
    } else {
        Precision::Int8
    };
    assert_eq!(lenient.precision, expected);
    config.models[0].auto_min_cosine = Ratio::new(1.0);
    assert_eq!(model(&served(&config).unwrap()).precision, Precision::Fp32);
}
