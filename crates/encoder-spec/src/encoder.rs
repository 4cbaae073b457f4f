//! The network from token ids to hidden states.

use crate::{Activation, AttentionSpec, NormPlacement, NormSpec, Rope, Span};

/// A transformer encoder.
///
/// ```text
/// x ← token + position + segment embedding, scaled, normalized, projected   (each if the network has it)
/// for each layer:
///     x ← x + attention(x)            norms by `norm_placement`
///     x ← x + feed_forward(x)
/// x ← norm(x)                         if the norms are not after each sum
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Width of the residual stream and of the hidden states.
    pub hidden: usize,
    /// Rows of the token embeddings.
    pub vocabulary: usize,
    /// Embeddings.
    pub embeddings: EmbeddingSpec,
    /// Attention of every layer.
    pub attention: AttentionSpec,
    /// Feed-forward network of every layer.
    pub feed_forward: FeedForwardSpec,
    /// All norms.
    pub norm: NormSpec,
    /// Places of the norms in a layer.
    pub norm_placement: NormPlacement,
    /// Properties that differ between layers, in order.
    pub layers: Vec<LayerSpec>,
}

/// Embeddings: the sum of the tables' rows, times `scale`, then the norm, then the projection to the hidden width.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingSpec {
    /// Columns of the tables; less than the hidden width where the embeddings are factorized (ALBERT, ELECTRA).
    pub width: usize,
    /// The embeddings are projected from `width` to the hidden width, with a bias.
    pub has_projection: bool,
    /// Factor of the token embeddings; 1 for most networks.
    pub scale: f32,
    /// Learned absolute position embeddings.
    pub positions: Option<PositionTable>,
    /// Rows of the segment embeddings (token types). All tokens of a single text are in segment 0, so its row is added
    /// to every token; the tokens of the second text of a pair may be in segment 1.
    pub segments: Option<usize>,
    /// The sum is normalized.
    pub has_norm: bool,
}

/// Learned absolute position embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionTable {
    /// Rows.
    pub rows: usize,
    /// Numbering of the rows.
    pub ids: PositionIds,
}

/// Numbering of position ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionIds {
    /// BERT: position ids count from 0.
    FromZero,
    /// RoBERTa: position ids count the tokens other than this padding id, from the id + 1; padding tokens have the
    /// padding id itself as position id.
    AfterPadding(u32),
}

impl PositionTable {
    /// Maximum number of tokens in a sequence.
    pub fn max_tokens(&self) -> usize {
        match self.ids {
            PositionIds::FromZero => self.rows,
            PositionIds::AfterPadding(padding) => self.rows.saturating_sub(padding as usize + 1),
        }
    }

    /// Position ids of a sequence's tokens, in order.
    pub fn position_ids(&self, ids: &[u32]) -> impl Iterator<Item = usize> {
        let numbering = self.ids;
        let mut non_padding = 0;
        ids.iter().enumerate().map(move |(index, &id)| match numbering {
            PositionIds::FromZero => index,
            PositionIds::AfterPadding(padding) if id == padding => padding as usize,
            PositionIds::AfterPadding(padding) => {
                non_padding += 1;
                padding as usize + non_padding
            }
        })
    }
}

/// Feed-forward network: `down(f(up(x)))`, or gated `down(f(gate(x)) · up(x))` (Shazeer 2020, arXiv 2002.05202).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedForwardSpec {
    /// Width of `up` and `gate`.
    pub intermediate: usize,
    /// f.
    pub activation: Activation,
    /// There is a `gate`, and f applies to it.
    pub is_gated: bool,
    /// `up` and `gate` have a bias.
    pub has_up_bias: bool,
    /// `down` has a bias.
    pub has_down_bias: bool,
}

/// Properties that differ between layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerSpec {
    /// Tokens that a token attends to.
    pub span: Span,
    /// Rotary position embedding of queries and keys.
    pub rope: Option<Rope>,
}

impl EncoderSpec {
    /// Maximum number of tokens in a sequence by the position embeddings; `None` if the network has none.
    pub fn max_tokens(&self) -> Option<usize> {
        self.embeddings.positions.map(|table| table.max_tokens())
    }
}
