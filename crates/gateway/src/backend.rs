//! Backend of a model: what computes its vectors, why it was selected, and how accurate it is.

use std::{fmt, time::Duration};

use bert_cpu::Isa;
use model_import::{AccuracyMeasure, Precision};

/// Implementation that computes a model's vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// embedgate's native kernels for this instruction set.
    Native(Isa),
    /// A graph in ONNX Runtime.
    OnnxRuntime,
}

impl Backend {
    /// Value of the metric label `backend`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            Self::OnnxRuntime => "onnxruntime",
        }
    }

    /// Instruction set of the native kernels.
    pub fn isa(self) -> Option<Isa> {
        match self {
            Self::Native(isa) => Some(isa),
            Self::OnnxRuntime => None,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native(isa) => isa.fmt(f),
            Self::OnnxRuntime => f.write_str("onnxruntime"),
        }
    }
}

/// Reason why a backend was selected and no faster one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectionReason {
    /// The settings select it.
    Configured,
    /// It is the fastest that the CPU supports.
    Best,
    /// The setting `isa` allows no faster one.
    Capped,
    /// The results of a faster precision deviate too much from those in fp32.
    AccuracyFailed,
    /// A faster precision failed the golden check.
    GoldenFailed,
    /// ONNX Runtime, because the settings name a graph.
    OnnxFile,
    /// ONNX Runtime, because there are no native kernels for the network.
    UnsupportedNetwork,
    /// ONNX Runtime, because only it has the provider.
    Provider,
    /// ONNX Runtime, because there are no native kernels for the CPU.
    UnsupportedCpu,
}

impl SelectionReason {
    /// Value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Best => "best",
            Self::Capped => "capped",
            Self::AccuracyFailed => "accuracy_failed",
            Self::GoldenFailed => "golden_failed",
            Self::OnnxFile => "onnx_file",
            Self::UnsupportedNetwork => "unsupported_network",
            Self::Provider => "provider",
            Self::UnsupportedCpu => "unsupported_cpu",
        }
    }
}

impl fmt::Display for SelectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "selected by the settings",
            Self::Best => "the fastest that this CPU supports",
            Self::Capped => "the setting `isa` allows no faster one",
            Self::AccuracyFailed => "a faster precision failed the accuracy proof",
            Self::GoldenFailed => "a faster precision failed the golden check",
            Self::OnnxFile => "`onnx_file` names a graph",
            Self::UnsupportedNetwork => "no native kernels for this network",
            Self::Provider => "only ONNX Runtime has this provider",
            Self::UnsupportedCpu => "no native kernels for this CPU",
        })
    }
}

/// A backend and the reason for its selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The backend.
    pub backend: Backend,
    /// Reason for its selection.
    pub reason: SelectionReason,
}

/// Result of an accuracy proof: the deviation of a model's results in a precision below fp32 from those in fp32, over
/// built-in texts or pairs of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AccuracyProof {
    /// The precision.
    pub precision: Precision,
    /// Measure of `worst`, `mean` and `bound`.
    pub measure: AccuracyMeasure,
    /// The worst value over all inputs.
    pub worst: f64,
    /// The mean over all inputs.
    pub mean: f64,
    /// The worst value with which the proof passes.
    pub bound: f64,
    /// Number of inputs: texts, or pairs of a query and a document.
    pub inputs: usize,
    /// Number of tokens of the longest input.
    pub max_tokens: usize,
    /// Duration of the computation that only the proof needs.
    pub duration: Duration,
    /// The result is from an earlier start on the same kind of machine.
    pub is_remembered: bool,
}

impl AccuracyProof {
    /// Returns true if the results are accurate enough.
    pub fn is_passed(&self) -> bool {
        self.measure.is_within(self.worst, self.bound)
    }

    /// The change of the settings with which int8 is used although the proof failed.
    pub(crate) fn int8_remedy(&self) -> &'static str {
        match self.measure {
            AccuracyMeasure::Cosine => "`int8_min_cosine` lower",
            AccuracyMeasure::ScoreDifference => "`int8_max_score_difference` higher",
        }
    }
}

impl fmt::Display for AccuracyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worst, mean, bound, inputs, max_tokens, .. } = self;
        let (precision, seconds) = (self.precision.name(), self.duration.as_secs_f64());
        let (found, needed, kind) = match self.measure {
            AccuracyMeasure::Cosine => ("worst cosine", "needed", "texts"),
            AccuracyMeasure::ScoreDifference => ("largest score difference", "allowed", "pairs"),
        };
        write!(f, "{precision}: {found} {worst:.7} to fp32, mean {mean:.7}")?;
        if !self.is_passed() {
            write!(f, ", {needed} {bound}")?;
        }
        let remembered = if self.is_remembered { ", remembered" } else { "" };
        write!(f, " ({inputs} {kind} of up to {max_tokens} tokens, {seconds:.2} s{remembered})")
    }
}
