//! Backend of a model: what computes its vectors, and why it was selected.

use std::fmt;

use bert_cpu::Isa;

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
    /// The manifest has no golden vectors to check a faster precision with.
    NoGolden,
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
            Self::NoGolden => "no_golden",
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
            Self::NoGolden => "no golden vectors to check a faster precision with",
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
