//! The pooling modes of sentence-transformers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The way in which the token embeddings of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolingMode {
    /// Mean over tokens.
    Mean,
    /// The first token.
    Cls,
    /// Maximum over tokens, for each dimension.
    Max,
    /// The last token.
    LastToken,
    /// Sum over tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// Mean with weights 1, 2, 3, … by position.
    WeightedMean,
}

impl fmt::Display for PoolingMode {
    /// The name in a manifest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Max => "max",
            Self::LastToken => "last-token",
            Self::MeanSqrtLen => "mean-sqrt-len",
            Self::WeightedMean => "weighted-mean",
        })
    }
}
