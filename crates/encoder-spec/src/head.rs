//! The head: the modules that reduce hidden states to one vector or score, by the definitions of sentence-transformers.

use std::{fmt, str::FromStr};

/// The modules after the transformer. Unlike an [`EncoderSpec`](crate::EncoderSpec) it holds its weights, which are
/// few.
///
/// A normalization at the end is not part of it: it is done with the vectors' final length.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadSpec {
    /// Modules that are applied to the hidden state of each token, in order, before pooling. If there are any, the only
    /// pooling mode is [`PoolingMode::Max`].
    pub token_modules: Vec<HeadModule>,
    /// Pooling modes, at least one. The pooled vector is the concatenation of their results.
    pub poolings: Vec<PoolingMode>,
    /// Tokens of the prompt before a text are pooled like those of the text. Without, pooling leaves them out.
    pub include_prompt: bool,
    /// Modules that are applied to the pooled vector, in order.
    pub modules: Vec<HeadModule>,
}

impl From<PoolingMode> for HeadSpec {
    /// A head that only pools.
    fn from(pooling: PoolingMode) -> Self {
        Self { token_modules: vec![], poolings: vec![pooling], include_prompt: true, modules: vec![] }
    }
}

/// A module that maps one vector to another.
#[derive(Debug, Clone, PartialEq)]
pub enum HeadModule {
    /// A dense layer.
    Dense(DenseLayer),
    /// Layer normalization.
    LayerNorm(HeadLayerNorm),
    /// Division by the Euclidean norm.
    Normalize,
    /// ln(1 + max(x, 0)) of each value, with which SPLADE bounds the weights of terms (Formal et al. 2021, arXiv
    /// 2107.05720).
    Log1pRelu,
}

/// A dense layer: `activation(weight · x + bias)`.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseLayer {
    /// Length of the input.
    pub inputs: usize,
    /// Length of the output.
    pub outputs: usize,
    /// Row-major, `[outputs, inputs]`.
    pub weight: Vec<f32>,
    /// `[outputs]`, if the layer has a bias.
    pub bias: Option<Vec<f32>>,
    /// The activation function.
    pub activation: DenseActivation,
}

/// Layer normalization: `(x − mean) / √(variance + ε) · weight + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadLayerNorm {
    /// Scale of each dimension.
    pub weight: Vec<f32>,
    /// Shift of each dimension, as many as `weight`.
    pub bias: Vec<f32>,
    /// ε.
    pub epsilon: f64,
}

impl HeadLayerNorm {
    /// PyTorch's default ε, which the module of sentence-transformers does not change.
    pub const DEFAULT_EPSILON: f64 = 1e-5;
}

/// Reduction of the hidden states of a sequence to one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingMode {
    /// Mean of all tokens.
    Mean,
    /// The first token.
    Cls,
    /// Maximum of all tokens, for each dimension.
    Max,
    /// The last token.
    LastToken,
    /// Sum of all tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// Mean of all tokens with weights 1, 2, 3, … by position.
    WeightedMean,
}

impl PoolingMode {
    /// All modes.
    pub const ALL: [Self; 6] =
        [Self::Mean, Self::Cls, Self::Max, Self::LastToken, Self::MeanSqrtLen, Self::WeightedMean];

    /// Name in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Max => "max",
            Self::LastToken => "last-token",
            Self::MeanSqrtLen => "mean-sqrt-len",
            Self::WeightedMean => "weighted-mean",
        }
    }
}

impl fmt::Display for PoolingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PoolingMode {
    type Err = String;

    /// Parses the name in a manifest.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(|mode| format!("`{mode}`")).join(", ");
            format!("unknown pooling mode `{text}`: expected one of {names}")
        })
    }
}

/// Activation function of a dense layer after pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseActivation {
    /// x · Φ(x), with the normal distribution's Φ.
    Gelu,
    /// x.
    Identity,
    /// max(x, 0).
    Relu,
    /// 1 / (1 + e^(−x)).
    Sigmoid,
    /// x / (1 + e^(−x)).
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

impl DenseActivation {
    /// Names of PyTorch's modules, each with its function.
    pub const NAMES: &[(&str, Self)] = &[
        ("GELU", Self::Gelu),
        ("Identity", Self::Identity),
        ("ReLU", Self::Relu),
        ("SiLU", Self::Silu),
        ("Sigmoid", Self::Sigmoid),
        ("Tanh", Self::Tanh),
    ];

    /// Names in transformers' `ACT2FN`, each with its function.
    const TRANSFORMERS_NAMES: &[(&str, Self)] = &[
        ("gelu", Self::Gelu),
        ("gelu_python", Self::Gelu),
        ("relu", Self::Relu),
        ("sigmoid", Self::Sigmoid),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("tanh", Self::Tanh),
    ];

    /// Returns the function that transformers calls `name`; `None` if it is unknown or not supported.
    pub fn from_transformers(name: &str) -> Option<Self> {
        Self::TRANSFORMERS_NAMES.iter().find(|(known, _)| *known == name).map(|&(_, activation)| activation)
    }

    /// Returns the function of the PyTorch class at `path`, such as `torch.nn.modules.activation.Tanh`; `None` if it is
    /// unknown or not supported.
    pub fn from_torch(path: &str) -> Option<Self> {
        let class = path.strip_prefix("torch.nn.")?.rsplit('.').next()?;
        Self::NAMES.iter().find(|(name, _)| *name == class).map(|&(_, activation)| activation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_an_unknown_name_lists_the_known_ones() {
        for mode in PoolingMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        let error = "median".parse::<PoolingMode>().unwrap_err();
        assert!(error.contains("`mean`, `cls`, `max`, `last-token`"), "{error}");
    }

    #[test]
    fn activations_are_found_by_their_name_in_transformers() {
        assert_eq!(DenseActivation::from_transformers("gelu"), Some(DenseActivation::Gelu));
        assert_eq!(DenseActivation::from_transformers("swish"), Some(DenseActivation::Silu));
        // The tanh approximation is another function.
        assert_eq!(DenseActivation::from_transformers("gelu_new"), None);
    }

    #[test]
    fn activations_are_found_by_the_path_of_their_pytorch_class() {
        for (path, activation) in [
            ("torch.nn.modules.activation.Tanh", Some(DenseActivation::Tanh)),
            ("torch.nn.modules.linear.Identity", Some(DenseActivation::Identity)),
            ("torch.nn.GELU", Some(DenseActivation::Gelu)),
            ("torch.nn.functional.tanh", None),
            ("my_code.Tanh", None),
            ("Tanh", None),
        ] {
            assert_eq!(DenseActivation::from_torch(path), activation, "{path}");
        }
    }
}
