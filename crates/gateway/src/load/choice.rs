//! What computes a model: embedgate's own kernels, or ONNX Runtime. A pure decision, made from what was asked
//! for, what the model is, and what this processor has.

use std::fmt;

use bert_cpu::{Isa, Precision};
use inference::Provider;

use crate::config::{IsaCap, PrecisionWish};

/// What computes a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// embedgate's own, for these instructions.
    Own(Isa),
    /// A graph in ONNX Runtime.
    OnnxRuntime,
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(isa) => isa.fmt(f),
            Self::OnnxRuntime => f.write_str("onnxruntime"),
        }
    }
}

/// Why a model is computed as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The settings say so.
    Asked,
    /// It is the best that this processor has.
    Best,
    /// The processor has a better instruction set, but the setting `isa` does not allow it.
    Capped,
    /// fp32, because the processor has no instructions for bf16.
    NoBf16,
    /// fp32, because the model's manifest has no golden vectors that would show what bf16 does to it.
    NoGolden,
    /// fp32, because in bf16 the golden vectors were missed.
    Bf16Missed,
    /// ONNX Runtime, because the settings name a graph.
    OnnxFile,
    /// ONNX Runtime, because there are no kernels of our own for the network.
    Network,
    /// ONNX Runtime, because the provider is one of its.
    Provider,
    /// ONNX Runtime, because the processor lacks what our kernels need.
    NoKernels,
}

impl Why {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::Asked,
        Self::Best,
        Self::Capped,
        Self::NoBf16,
        Self::NoGolden,
        Self::Bf16Missed,
        Self::OnnxFile,
        Self::Network,
        Self::Provider,
        Self::NoKernels,
    ];

    /// The label of the metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Best => "best",
            Self::Capped => "capped",
            Self::NoBf16 => "no_bf16",
            Self::NoGolden => "no_golden",
            Self::Bf16Missed => "bf16_missed",
            Self::OnnxFile => "onnx_file",
            Self::Network => "network",
            Self::Provider => "provider",
            Self::NoKernels => "no_kernels",
        }
    }

    /// In words, for the line at start-up.
    pub fn words(self) -> &'static str {
        match self {
            Self::Asked => "as the settings ask",
            Self::Best => "the best of this processor",
            Self::Capped => "the setting `isa` allows no better",
            Self::NoBf16 => "this processor has no fast bf16",
            Self::NoGolden => "no golden vectors to prove bf16 with",
            Self::Bf16Missed => "bf16 missed the golden vectors",
            Self::OnnxFile => "onnx_file names the graph",
            Self::Network => "no kernels of our own for this network",
            Self::Provider => "the provider is ONNX Runtime's",
            Self::NoKernels => "this processor has neither AVX2 nor NEON",
        }
    }
}

/// One way to compute a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What computes it.
    pub kernels: Kernels,
    /// Why this.
    pub why: Why,
}

/// The ways to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choices {
    /// The one to take.
    pub(crate) first: Choice,
    /// The one to take if the first misses the golden vectors.
    pub(crate) otherwise: Option<Choice>,
}

/// What a choice is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// The provider of the settings.
    pub(super) provider: Provider,
    /// The precision that they ask for.
    pub(super) precision: PrecisionWish,
    /// The instructions that they allow.
    pub(super) isa: IsaCap,
    /// True if the settings name a graph.
    pub(super) onnx_file: bool,
    /// Whether there are kernels of our own for the network.
    pub(super) known: bool,
    /// Whether its manifest holds golden vectors.
    pub(super) golden: bool,
}

/// Decides. `best` tells the best instruction set for a precision up to a cap.
///
/// # Errors
/// When bf16 is asked for and cannot be had, in words.
pub(super) fn choose(
    question: Question,
    best: impl Fn(Precision, Option<Isa>) -> Option<Isa>,
) -> Result<Choices, String> {
    let chosen = choose_within_cap(question, &best);
    // The cap is the reason if the choice on this processor would differ without it.
    let chosen = match (chosen, question.isa) {
        (chosen, IsaCap::Best | IsaCap::None) => chosen,
        (chosen, IsaCap::At(_)) => {
            let uncapped = choose_within_cap(Question { isa: IsaCap::Best, ..question }, &best);
            match (chosen, uncapped) {
                (Ok(chosen), Ok(uncapped)) if chosen.first.kernels == uncapped.first.kernels => Ok(uncapped),
                (Ok(chosen), _) => Ok(only(chosen.first.kernels, Why::Capped)),
                (Err(_), Ok(_)) => Err(Why::Capped),
                (Err(why), Err(_)) => Err(why),
            }
        }
    };
    chosen.map_err(|why| {
        let reason = match why {
            Why::Asked => "`isa = \"none\"` leaves the model to ONNX Runtime",
            why => why.words(),
        };
        format!("precision = \"bf16\" cannot be had: {reason}; set \"auto\" or \"fp32\"")
    })
}

fn only(kernels: Kernels, why: Why) -> Choices {
    Choices { first: Choice { kernels, why }, otherwise: None }
}

/// As [`choose`], for a processor that has no more than the cap allows. The error is the reason why bf16
/// cannot be had.
fn choose_within_cap(
    question: Question,
    best: impl Fn(Precision, Option<Isa>) -> Option<Isa>,
) -> Result<Choices, Why> {
    let Question { provider, precision, isa, onnx_file, known, golden } = question;
    let (graph, cap) = match isa {
        _ if provider != Provider::Cpu => (Some(Why::Provider), None),
        _ if onnx_file => (Some(Why::OnnxFile), None),
        IsaCap::None => (Some(Why::Asked), None),
        _ if !known => (Some(Why::Network), None),
        IsaCap::Best => (None, None),
        IsaCap::At(isa) => (None, Some(isa)),
    };
    let bf16 = best(Precision::Bf16, cap).filter(|_| graph.is_none());
    if precision == PrecisionWish::Bf16 {
        return bf16.map(|isa| only(Kernels::Own(isa), Why::Asked)).ok_or(graph.unwrap_or(Why::NoBf16));
    }
    if let Some(why) = graph {
        return Ok(only(Kernels::OnnxRuntime, why));
    }
    let fp32 = |why| match best(Precision::Fp32, cap) {
        Some(isa) => Choice { kernels: Kernels::Own(isa), why },
        None => Choice { kernels: Kernels::OnnxRuntime, why: Why::NoKernels },
    };
    Ok(match (precision, bf16) {
        (PrecisionWish::Auto, Some(isa)) if golden => Choices {
            first: Choice { kernels: Kernels::Own(isa), why: Why::Best },
            otherwise: Some(fp32(Why::Bf16Missed)),
        },
        (PrecisionWish::Auto, Some(_)) => Choices { first: fp32(Why::NoGolden), otherwise: None },
        (PrecisionWish::Auto, None) => Choices { first: fp32(Why::NoBf16), otherwise: None },
        _ => Choices { first: fp32(Why::Asked), otherwise: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question = Question {
        provider: Provider::Cpu,
        precision: PrecisionWish::Auto,
        isa: IsaCap::Best,
        onnx_file: false,
        known: true,
        golden: true,
    };

    const X86: [&[Isa]; 4] =
        [&[], &[Isa::Avx2], &[Isa::Avx2, Isa::Avx512], &[Isa::Avx2, Isa::Avx512, Isa::AmxBf16]];
    const AVX2: &[Isa] = X86[1];
    const EVERYTHING: &[Isa] = X86[3];

    /// [`Isa::best`] of a processor that has `present`.
    fn processor(present: &[Isa]) -> impl Fn(Precision, Option<Isa>) -> Option<Isa> {
        move |precision, cap| {
            let fits = |isa: &Isa| isa.precision() == precision && cap.is_none_or(|cap| *isa <= cap);
            present.iter().copied().filter(fits).max()
        }
    }

    #[track_caller]
    fn check(question: Question, present: &[Isa], expected: &[(Kernels, Why)]) {
        let Choices { first, otherwise } = choose(question, processor(present)).unwrap();
        let found = std::iter::once(first).chain(otherwise).map(|choice| (choice.kernels, choice.why));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn auto_takes_bf16_where_it_can_be_proved() {
        let (bf16, fp32) = (Kernels::Own(Isa::AmxBf16), Kernels::Own(Isa::Avx512));
        check(QUESTION, EVERYTHING, &[(bf16, Why::Best), (fp32, Why::Bf16Missed)]);
        check(Question { golden: false, ..QUESTION }, EVERYTHING, &[(fp32, Why::NoGolden)]);
        check(QUESTION, AVX2, &[(Kernels::Own(Isa::Avx2), Why::NoBf16)]);
        check(QUESTION, &[], &[(Kernels::OnnxRuntime, Why::NoKernels)]);
    }

    #[test]
    fn what_is_asked_for_is_done_or_refused() {
        let bf16 = Question { precision: PrecisionWish::Bf16, ..QUESTION };
        check(bf16, EVERYTHING, &[(Kernels::Own(Isa::AmxBf16), Why::Asked)]);
        let fp32 = Question { precision: PrecisionWish::Fp32, ..QUESTION };
        check(fp32, EVERYTHING, &[(Kernels::Own(Isa::Avx512), Why::Asked)]);
        let capped = Question { isa: IsaCap::At(Isa::Avx512), ..bf16 };
        let refused = [
            (bf16, AVX2, "this processor has no fast bf16"),
            (capped, AVX2, "this processor has no fast bf16"),
            (capped, EVERYTHING, "the setting `isa` allows no better"),
            (
                Question { provider: Provider::Cuda { device: 0 }, ..bf16 },
                AVX2,
                "the provider is ONNX Runtime's",
            ),
            (Question { onnx_file: true, ..bf16 }, AVX2, "onnx_file names the graph"),
            (Question { known: false, ..bf16 }, AVX2, "no kernels of our own for this network"),
            (
                Question { isa: IsaCap::None, ..bf16 },
                AVX2,
                "`isa = \"none\"` leaves the model to ONNX Runtime",
            ),
        ];
        for (question, present, reason) in refused {
            let error = choose(question, processor(present)).unwrap_err();
            assert!(error.contains(reason), "{question:?}: {error}");
        }
    }

    #[test]
    fn onnx_runtime_computes_what_we_do_not() {
        let onnx = |why| [(Kernels::OnnxRuntime, why)];
        check(Question { known: false, ..QUESTION }, AVX2, &onnx(Why::Network));
        check(Question { isa: IsaCap::None, ..QUESTION }, EVERYTHING, &onnx(Why::Asked));
        check(Question { onnx_file: true, ..QUESTION }, EVERYTHING, &onnx(Why::OnnxFile));
        check(Question { provider: Provider::Cuda { device: 1 }, ..QUESTION }, AVX2, &onnx(Why::Provider));
    }

    #[test]
    fn a_cap_is_named_as_the_reason_and_an_absence_is_not() {
        let at = |isa| Question { isa: IsaCap::At(isa), ..QUESTION };
        check(at(Isa::Neon), EVERYTHING, &[(Kernels::OnnxRuntime, Why::Capped)]);
        check(at(Isa::Avx2), EVERYTHING, &[(Kernels::Own(Isa::Avx2), Why::Capped)]);
        check(at(Isa::Avx512), EVERYTHING, &[(Kernels::Own(Isa::Avx512), Why::Capped)]);
        check(at(Isa::Avx2), X86[2], &[(Kernels::Own(Isa::Avx2), Why::Capped)]);
        check(at(Isa::Avx512), X86[2], &[(Kernels::Own(Isa::Avx512), Why::NoBf16)]);
        check(at(Isa::Avx512), AVX2, &[(Kernels::Own(Isa::Avx2), Why::NoBf16)]);
        check(at(Isa::Avx2), &[], &[(Kernels::OnnxRuntime, Why::NoKernels)]);
        let no_golden = Question { golden: false, ..at(Isa::Avx512) };
        check(no_golden, EVERYTHING, &[(Kernels::Own(Isa::Avx512), Why::NoGolden)]);
    }

    #[test]
    fn every_reason_is_true_of_its_processor() {
        let caps = [IsaCap::Best, IsaCap::None].into_iter().chain(Isa::ALL.map(IsaCap::At));
        let processors = X86.into_iter().chain([&[Isa::Neon][..]]);
        for (isa, present) in caps.flat_map(|isa| processors.clone().map(move |present| (isa, present))) {
            for (precision, golden) in [
                (PrecisionWish::Auto, true),
                (PrecisionWish::Auto, false),
                (PrecisionWish::Fp32, true),
                (PrecisionWish::Bf16, true),
            ] {
                let question = Question { precision, isa, golden, ..QUESTION };
                let Ok(Choices { first, otherwise }) = choose(question, processor(present)) else { continue };
                for Choice { kernels, why } in std::iter::once(first).chain(otherwise) {
                    let best = |precision| processor(present)(precision, None);
                    let uncapped = choose(Question { isa: IsaCap::Best, ..question }, processor(present));
                    let holds = match why {
                        Why::Asked => isa == IsaCap::None || precision != PrecisionWish::Auto,
                        Why::Best => uncapped.unwrap().first.kernels == kernels,
                        Why::Capped => uncapped.unwrap().first.kernels != kernels,
                        Why::NoBf16 => best(Precision::Bf16).is_none(),
                        Why::NoGolden => !golden,
                        Why::Bf16Missed => best(Precision::Bf16).is_some() && golden,
                        Why::Network | Why::Provider | Why::OnnxFile => false,
                        Why::NoKernels => present.is_empty(),
                    };
                    assert!(holds, "{question:?} on {present:?}: {kernels} because of {why:?}");
                }
            }
        }
    }
}
