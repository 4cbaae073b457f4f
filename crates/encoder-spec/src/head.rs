//! The vocabulary of the head: pooling modes and activations of dense layers, by the definitions of
//! sentence-transformers.

use std::{fmt, str::FromStr};

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
    /// x.
    Identity,
    /// Hyperbolic tangent.
    Tanh,
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
}
