//! Dimensions of a BERT encoder.

use crate::ModelError;

/// Non-linearity of the feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x), with the normal distribution's Φ (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    Gelu,
    /// ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))), its approximation from the same paper.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

/// Numbering of position ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// BERT: position ids count from 0.
    FromZero,
    /// RoBERTa: position ids count the tokens other than this padding id, from the id + 1; padding tokens have the
    /// padding id itself as position id.
    AfterPadding(u32),
}

/// Dimensions of an encoder with post-normalized layers and learned absolute position embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BertConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Attention heads; a divisor of `hidden`.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Width of the feed-forward network.
    pub intermediate: usize,
    /// Rows of the token embeddings.
    pub vocabulary: usize,
    /// Rows of the position embeddings.
    pub position_rows: usize,
    /// Numbering of position ids.
    pub positions: Positions,
    /// Non-linearity of the feed-forward network.
    pub activation: Activation,
    /// Added to the variance in every layer norm.
    pub epsilon: f32,
}

/// Upper bound of every dimension: far above any model of the family, and low enough that no product of two
/// dimensions overflows.
const MAX_DIMENSION: usize = 1 << 20;

impl BertConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Maximum number of tokens in a sequence.
    pub fn max_sequence_length(&self) -> usize {
        match self.positions {
            Positions::FromZero => self.position_rows,
            Positions::AfterPadding(padding) => self.position_rows.saturating_sub(padding as usize + 1),
        }
    }

    /// Returns the config unchanged if its dimensions are consistent.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a size of 0 or above 2²⁰, a number of heads that does not divide the width, or an
    /// epsilon that is not positive.
    pub fn validate(self) -> Result<Self, ModelError> {
        let sizes = [
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("layers", self.layers),
            ("intermediate", self.intermediate),
            ("vocabulary", self.vocabulary),
            ("maximum sequence length", self.max_sequence_length()),
        ];
        for (name, size) in sizes {
            if size == 0 || size > MAX_DIMENSION {
                let reason = format!("{name} = {size}, expected 1 to {MAX_DIMENSION}");
                return Err(ModelError::Config(reason));
            }
        }
        if !self.hidden.is_multiple_of(self.heads) {
            let reason = format!("{} heads do not divide a width of {}", self.heads, self.hidden);
            return Err(ModelError::Config(reason));
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            let reason = format!("epsilon = {}, expected a positive number", self.epsilon);
            return Err(ModelError::Config(reason));
        }
        Ok(self)
    }

    /// Position id of a token: `index` is its index in the sequence, `non_padding` the number of tokens before it
    /// that are not padding.
    pub(crate) fn position_id(&self, index: usize, non_padding: usize, id: u32) -> usize {
        match self.positions {
            Positions::FromZero => index,
            Positions::AfterPadding(padding) if id == padding => padding as usize,
            Positions::AfterPadding(padding) => padding as usize + 1 + non_padding,
        }
    }

    /// Returns true if position ids skip the token id.
    pub(crate) fn is_padding(&self, id: u32) -> bool {
        matches!(self.positions, Positions::AfterPadding(padding) if id == padding)
    }
}
