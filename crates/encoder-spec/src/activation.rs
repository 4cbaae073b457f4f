//! Activation functions of the feed-forward network.

/// Activation function of the feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x), with the normal distribution's Φ (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    Gelu,
    /// ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))), its approximation from the same paper.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x / (1 + e^(−x)), also called swish (Elfwing et al. 2017, arXiv 1702.03118).
    Silu,
}

impl Activation {
    /// Names in transformers' `ACT2FN`, each with its function.
    pub const NAMES: &[(&str, Self)] = &[
        ("gelu", Self::Gelu),
        ("gelu_fast", Self::GeluTanh),
        ("gelu_new", Self::GeluTanh),
        ("gelu_python", Self::Gelu),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("relu", Self::Relu),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
    ];

    /// Returns the function that transformers calls `name`; `None` if it is unknown or not supported.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, activation)| activation)
    }
}
