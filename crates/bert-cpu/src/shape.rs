//! A model's sizes, and which of them this crate can compute.

use crate::ModelError;

/// The non-linearity of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x), with the normal distribution's Φ (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    Gelu,
    /// Its approximation by the hyperbolic tangent, from the same paper.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

/// How a token's row in the position table is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// The first token has row 0.
    FromZero,
    /// Tokens other than this padding id are counted; the first has the row after the id, and padding has the
    /// id's own row. RoBERTa's way.
    AfterPadding(u32),
}

/// The sizes of an encoder with post-normalised layers and learnt absolute positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of a token's state.
    pub hidden: usize,
    /// Attention heads; they divide `hidden`.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Rows of the word table.
    pub vocabulary: usize,
    /// Rows of the position table.
    pub position_rows: usize,
    /// How a token's row in it is found.
    pub positions: Positions,
    /// The feed-forward part's non-linearity.
    pub activation: Activation,
    /// Added to the variance in every layer norm.
    pub epsilon: f32,
}

/// Largest sizes that are accepted: far above any model of the family, and low enough that no product of two of
/// them overflows.
const LIMIT: usize = 1 << 20;

impl Shape {
    /// Width of one head.
    pub fn head(&self) -> usize {
        self.hidden / self.heads
    }

    /// The most tokens that a sequence may have.
    pub fn longest(&self) -> usize {
        match self.positions {
            Positions::FromZero => self.position_rows,
            Positions::AfterPadding(padding) => self.position_rows.saturating_sub(padding as usize + 1),
        }
    }

    /// Itself, if its sizes make sense together.
    ///
    /// # Errors
    /// [`ModelError::Shape`].
    pub fn checked(self) -> Result<Self, ModelError> {
        let sizes = [
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("layers", self.layers),
            ("intermediate", self.intermediate),
            ("vocabulary", self.vocabulary),
            ("longest sequence", self.longest()),
        ];
        for (name, size) in sizes {
            if size == 0 || size > LIMIT {
                return Err(ModelError::Shape(format!("{name} = {size}, expected 1 to {LIMIT}")));
            }
        }
        if !self.hidden.is_multiple_of(self.heads) {
            let reason = format!("{} heads do not divide a width of {}", self.heads, self.hidden);
            return Err(ModelError::Shape(reason));
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(ModelError::Shape(format!("epsilon = {}, expected a positive number", self.epsilon)));
        }
        Ok(self)
    }

    /// A token's row in the position table: the token's place in its sequence, the number of tokens before it
    /// that are not padding, and its id.
    pub(crate) fn position_row(&self, place: usize, seen: usize, id: u32) -> usize {
        match self.positions {
            Positions::FromZero => place,
            Positions::AfterPadding(padding) if id == padding => padding as usize,
            Positions::AfterPadding(padding) => padding as usize + 1 + seen,
        }
    }

    /// Whether positions skip this id.
    pub(crate) fn is_padding(&self, id: u32) -> bool {
        matches!(self.positions, Positions::AfterPadding(padding) if id == padding)
    }
}
