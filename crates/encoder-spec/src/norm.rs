//! Normalization layers and their places in a transformer layer.

/// Kind of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// (x − mean) / √(variance + ε) · scale + shift (Ba, Kiros and Hinton 2016, arXiv 1607.06450).
    LayerNorm {
        /// The norm has a shift; otherwise it is 0.
        has_shift: bool,
    },
    /// x / √(mean of x² + ε) · scale (Zhang and Sennrich 2019, arXiv 1910.07467).
    RmsNorm {
        /// The stored weight is added to 1 to get the scale, as Gemma does.
        has_unit_offset: bool,
    },
}

/// Normalization of a network, the same at all its places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// Kind.
    pub kind: NormKind,
    /// ε: added to the variance, or to the mean of the squares.
    pub epsilon: f32,
}

impl NormSpec {
    /// Number that is added to the stored weight to get the scale.
    pub fn scale_offset(&self) -> f32 {
        match self.kind {
            NormKind::RmsNorm { has_unit_offset: true } => 1.0,
            NormKind::LayerNorm { .. } | NormKind::RmsNorm { has_unit_offset: false } => 0.0,
        }
    }

    /// Returns true if the norm has a shift.
    pub fn has_shift(&self) -> bool {
        self.kind == NormKind::LayerNorm { has_shift: true }
    }
}

/// Places of the norms in a layer; `f` is attention or the feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// x ← norm(x + f(x)), as in BERT.
    Post,
    /// x ← x + f(norm(x)), with a final norm after the last layer.
    Pre {
        /// Attention of the first layer has an input norm. ModernBERT's has none, since its embeddings are normalized.
        first_attention_norm: bool,
    },
    /// x ← x + norm(f(norm(x))), with a final norm after the last layer, as in Gemma.
    PreAndPost,
}
