//! Attention: heads, the tokens that are seen, and the ways in which positions enter the scores.

/// Scaled dot-product attention of every layer.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`: query head h uses head h / (heads / kv_heads) (grouped-query
    /// attention, Ainslie et al. 2023, arXiv 2305.13245).
    pub kv_heads: usize,
    /// Width of a head; `heads · head_dim` may differ from the hidden width.
    pub head_dim: usize,
    /// Factor of the products of queries and keys: 1/√head_dim in most networks.
    pub scale: f32,
    /// Each head's query and key are normalized, with one scale of `head_dim` values for all heads of a layer.
    pub has_query_key_norm: bool,
    /// Query, key and value projections have a bias.
    pub has_qkv_bias: bool,
    /// The output projection has a bias.
    pub has_output_bias: bool,
    /// Bias that is added to the scaled scores.
    pub score_bias: ScoreBias,
}

impl AttentionSpec {
    /// Width of all query heads.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads, or of all value heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The key and value head that query head `head` uses.
    pub fn kv_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }
}

/// Tokens that a token attends to. Positions are those of the sequence without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All tokens.
    Full,
    /// Itself and the tokens before it.
    Causal,
    /// Tokens at a distance of at most this.
    Window(usize),
}

impl Span {
    /// Returns true if the token at position `query` attends to the one at `key`.
    pub fn contains(self, query: usize, key: usize) -> bool {
        match self {
            Self::Full => true,
            Self::Causal => key <= query,
            Self::Window(distance) => query.abs_diff(key) <= distance,
        }
    }

    /// Positions that the token at position `query` attends to, in a sequence of `tokens` tokens.
    pub fn keys(self, query: usize, tokens: usize) -> std::ops::Range<usize> {
        match self {
            Self::Full => 0..tokens,
            Self::Causal => 0..tokens.min(query + 1),
            Self::Window(distance) => {
                query.saturating_sub(distance)..tokens.min(query.saturating_add(distance).saturating_add(1))
            }
        }
    }
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) over the whole head. It rotates the pair of dimensions
/// k and k + head_dim/2 by position · θ^(−2k/head_dim) / divisor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// θ, the base.
    pub theta: f64,
    /// Divisor of every frequency; 1 without scaling.
    pub divisor: f64,
}

impl Rope {
    /// RoPE without scaling.
    pub fn new(theta: f64) -> Self {
        Self { theta, divisor: 1.0 }
    }

    /// Scaling by `factor` as the published GTE models compute it: θ · factor, and every frequency divided by
    /// factor^(2/head_dim).
    pub fn ntk(theta: f64, factor: f64, head_dim: usize) -> Self {
        Self { theta: theta * factor, divisor: factor.powf(2.0 / head_dim as f64) }
    }

    /// Frequency of pair `pair`, rounded to f32 at the steps where PyTorch rounds: at 8,000 positions the rounding
    /// moves an angle by 5e-4.
    pub fn frequency(&self, pair: usize, head_dim: usize) -> f32 {
        let exponent = (2 * pair) as f32 / head_dim as f32;
        let power = self.theta.powf(f64::from(exponent)) as f32;
        1.0 / power / self.divisor as f32
    }

    /// Cosine and sine of the angle by which pair `pair` is rotated at `position`.
    pub fn cos_sin(&self, position: usize, pair: usize, head_dim: usize) -> (f32, f32) {
        let angle = f64::from(position as f32 * self.frequency(pair, head_dim));
        (angle.cos() as f32, angle.sin() as f32)
    }
}

/// Bias of attention scores by relative position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreBias {
    /// None.
    None,
    /// A learned number for each head and bucket of distances, shared by all layers.
    Relative(RelativeBias),
    /// Products with embeddings of relative positions.
    Disentangled(Disentangled),
}

/// Bias by buckets of relative positions (Raffel et al. 2019, arXiv 1910.10683, section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeBias {
    /// Rows of the table; at least `buckets`.
    pub rows: usize,
    /// Buckets of both directions together.
    pub buckets: usize,
    /// Distance from which on all share the last bucket.
    pub max_distance: usize,
}

impl RelativeBias {
    /// Row of the table for a key at `offset` = key position − query position. Computed in f32, as PyTorch does: at the
    /// borders of buckets rounding decides.
    pub fn row(&self, offset: i64) -> usize {
        let half = self.buckets / 2;
        let max_exact = half / 2;
        let distance = offset.unsigned_abs() as usize;
        let bucket = if distance < max_exact {
            distance
        } else {
            let ratio = (self.max_distance as f64 / max_exact as f64).ln() as f32;
            let log = (distance as f32 / max_exact as f32).ln() / ratio;
            (max_exact + (log * (half - max_exact) as f32) as usize).min(half - 1)
        };
        if offset > 0 { half + bucket } else { bucket }
    }
}

/// Disentangled attention of DeBERTa-v2 (He et al. 2020, arXiv 2006.03654): products of queries and keys with
/// projections of relative position embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disentangled {
    /// Half of the rows of the table.
    pub span: usize,
    /// Distances above span / 2 share logarithmic buckets up to this one; `None` for no buckets.
    pub max_distance: Option<usize>,
    /// Add the products of queries with position keys.
    pub content_to_position: bool,
    /// Add the products of keys with position queries.
    pub position_to_content: bool,
    /// The table is normalized before use.
    pub has_norm: bool,
}

impl Disentangled {
    /// Row of the table for a query at `offset` = query position − key position. In f32, as PyTorch computes it.
    pub fn row(&self, offset: i64) -> usize {
        let span = self.span as i64;
        let bucket = match self.max_distance {
            None => offset,
            Some(max_distance) => {
                let mid = span / 2;
                let distance = offset.abs();
                if distance <= mid {
                    offset
                } else {
                    let ratio = ((max_distance as f64 - 1.0) / mid as f64) as f32;
                    let log = (distance as f32 / mid as f32).ln() / ratio.ln() * (mid - 1) as f32;
                    offset.signum() * (log.ceil() as i64 + mid)
                }
            }
        };
        (bucket + span).clamp(0, 2 * span - 1) as usize
    }

    /// Factors of the scores' scale: 1 for the content, and 1 for each term that is added.
    pub fn terms(&self) -> usize {
        1 + usize::from(self.content_to_position) + usize::from(self.position_to_content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows by hand from the formula of arXiv 1910.10683 with 32 buckets and a distance of 128: 8 exact ones in each
    /// direction, then 8 + ⌊8 · ln(n/8) / ln 16⌋.
    #[test]
    fn relative_bias_has_exact_and_logarithmic_buckets() {
        let bias = RelativeBias { rows: 32, buckets: 32, max_distance: 128 };
        let rows = [0, -1, -7, -8, -11, -12, -127, -500, 1, 7, 8, 500].map(|offset| bias.row(offset));
        assert_eq!(rows, [0, 1, 7, 8, 8, 9, 15, 15, 17, 23, 24, 31]);
    }

    #[test]
    fn disentangled_rows_are_symmetric_and_clamped() {
        let spec = Disentangled {
            span: 16,
            max_distance: Some(128),
            content_to_position: true,
            position_to_content: true,
            has_norm: true,
        };
        assert_eq!([0, 1, 8, -8].map(|offset| spec.row(offset)), [16, 17, 24, 8]);
        assert_eq!([1000, -1000].map(|offset| spec.row(offset)), [31, 0]);
        assert_eq!(spec.terms(), 3);
        // ⌈ln(9/8) / ln(127/8) · 7⌉ + 8 = 9
        assert_eq!(spec.row(9), 16 + 9);
    }

    #[test]
    fn spans_agree_with_their_key_ranges() {
        for span in [Span::Full, Span::Causal, Span::Window(0), Span::Window(2), Span::Window(usize::MAX)] {
            for query in 0..7 {
                let keys: Vec<usize> = (0..7).filter(|&key| span.contains(query, key)).collect();
                assert_eq!(keys, span.keys(query, 7).collect::<Vec<_>>(), "{span:?} at {query}");
            }
        }
    }

    #[test]
    fn ntk_scaling_changes_base_and_frequencies() {
        let (plain, scaled) = (Rope::new(10_000.0), Rope::ntk(5_000.0, 2.0, 12));
        assert_eq!(scaled.theta, plain.theta);
        let ratio = plain.frequency(3, 12) / scaled.frequency(3, 12);
        assert!((f64::from(ratio) - 2f64.powf(2.0 / 12.0)).abs() < 1e-6);
        assert_eq!(plain.cos_sin(0, 0, 12), (1.0, 0.0));
    }
}
