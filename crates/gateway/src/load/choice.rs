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
    /// fp32, because the processor has no instructions for bf16.
    NoBf16,
    /// fp32, because the model's card has no golden vectors that would show what bf16 does to it.
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
    pub const ALL: [Self; 9] = [
        Self::Asked,
        Self::Best,
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
    /// Whether the settings name a graph.
    pub(super) onnx_file: bool,
    /// Whether there are kernels of our own for the network.
    pub(super) known: bool,
    /// Whether its card holds golden vectors.
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
    let Question { provider, precision, isa, onnx_file, known, golden } = question;
    let only = |kernels, why| Choices { first: Choice { kernels, why }, otherwise: None };
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
        let reason = graph.map_or(Why::NoBf16.words(), Why::words);
        let refused = || format!("precision = \"bf16\" cannot be had: {reason}; set \"auto\" or \"fp32\"");
        return bf16.map(|isa| only(Kernels::Own(isa), Why::Asked)).ok_or_else(refused);
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

    /// A processor with AVX2 and nothing better.
    fn avx2(precision: Precision, cap: Option<Isa>) -> Option<Isa> {
        (precision == Precision::Fp32 && cap.is_none_or(|cap| cap >= Isa::Avx2)).then_some(Isa::Avx2)
    }

    /// A processor with everything: AVX-512 stands in for what is fast at bf16.
    fn everything(precision: Precision, _: Option<Isa>) -> Option<Isa> {
        Some(if precision == Precision::Bf16 { Isa::Avx512 } else { Isa::Avx2 })
    }

    #[track_caller]
    fn check(
        question: Question,
        best: impl Fn(Precision, Option<Isa>) -> Option<Isa>,
        expected: &[(Kernels, Why)],
    ) {
        let Choices { first, otherwise } = choose(question, best).unwrap();
        let found = std::iter::once(first).chain(otherwise).map(|choice| (choice.kernels, choice.why));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn auto_takes_bf16_where_it_can_be_proved() {
        let (fast, safe) = (Kernels::Own(Isa::Avx512), Kernels::Own(Isa::Avx2));
        check(QUESTION, everything, &[(fast, Why::Best), (safe, Why::Bf16Missed)]);
        check(Question { golden: false, ..QUESTION }, everything, &[(safe, Why::NoGolden)]);
        check(QUESTION, avx2, &[(safe, Why::NoBf16)]);
        check(QUESTION, |_, _| None, &[(Kernels::OnnxRuntime, Why::NoKernels)]);
    }

    #[test]
    fn what_is_asked_for_is_done_or_refused() {
        let (fast, safe) = (Kernels::Own(Isa::Avx512), Kernels::Own(Isa::Avx2));
        let bf16 = Question { precision: PrecisionWish::Bf16, ..QUESTION };
        check(bf16, everything, &[(fast, Why::Asked)]);
        let fp32 = Question { precision: PrecisionWish::Fp32, ..QUESTION };
        check(fp32, everything, &[(safe, Why::Asked)]);
        let refused = [
            (bf16, "this processor has no fast bf16"),
            (Question { provider: Provider::Cuda { device: 0 }, ..bf16 }, "the provider is ONNX Runtime's"),
            (Question { onnx_file: true, ..bf16 }, "onnx_file names the graph"),
            (Question { known: false, ..bf16 }, "no kernels of our own for this network"),
            (Question { isa: IsaCap::None, ..bf16 }, "as the settings ask"),
        ];
        for (question, reason) in refused {
            assert!(choose(question, avx2).unwrap_err().contains(reason), "{question:?}");
        }
    }

    #[test]
    fn onnx_runtime_computes_what_we_do_not() {
        let onnx = |why| [(Kernels::OnnxRuntime, why)];
        check(Question { known: false, ..QUESTION }, avx2, &onnx(Why::Network));
        check(Question { isa: IsaCap::None, ..QUESTION }, everything, &onnx(Why::Asked));
        check(Question { onnx_file: true, ..QUESTION }, everything, &onnx(Why::OnnxFile));
        check(Question { provider: Provider::Cuda { device: 1 }, ..QUESTION }, avx2, &onnx(Why::Provider));
    }
}
