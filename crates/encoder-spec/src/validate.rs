//! Checks that a specification can be computed.

use std::{error::Error, fmt};

use crate::{EncoderSpec, ScoreBias};

/// Upper bound of every size: far above any known encoder, and low enough that no product of two sizes overflows.
pub const MAX_SIZE: usize = 1 << 20;

/// A specification that cannot be computed, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSpec(String);

impl fmt::Display for InvalidSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for InvalidSpec {}

impl EncoderSpec {
    /// Returns the specification unchanged if its sizes are consistent.
    ///
    /// # Errors
    /// [`InvalidSpec`] for a size of 0 or above [`MAX_SIZE`], heads that the key heads do not divide, RoPE over an odd
    /// head, an ε, scale or RoPE base that is not positive, fewer than 4 buckets of relative positions, embeddings of
    /// another width without a projection, or positions that leave no token.
    pub fn validate(self) -> Result<Self, InvalidSpec> {
        let (attention, embeddings) = (&self.attention, &self.embeddings);
        let mut sizes = vec![
            ("hidden", self.hidden),
            ("vocabulary", self.vocabulary),
            ("embedding width", embeddings.width),
            ("heads", attention.heads),
            ("key heads", attention.kv_heads),
            ("head_dim", attention.head_dim),
            ("query width", attention.query_width()),
            ("intermediate", self.feed_forward.intermediate),
            ("layers", self.layers.len()),
        ];
        sizes.extend(embeddings.segments.map(|rows| ("segments", rows)));
        sizes.extend(embeddings.positions.map(|table| ("position rows", table.rows)));
        sizes.extend(embeddings.positions.map(|table| ("maximum sequence length", table.max_tokens())));
        match attention.score_bias {
            ScoreBias::None => {}
            ScoreBias::Relative(bias) => sizes.push(("relative position rows", bias.rows)),
            ScoreBias::Disentangled(spec) => sizes.push(("relative position span", spec.span)),
        }
        for (name, size) in sizes {
            check((1..=MAX_SIZE).contains(&size), || format!("{name} = {size}, expected 1 to {MAX_SIZE}"))?;
        }
        let (heads, kv_heads) = (attention.heads, attention.kv_heads);
        check(heads.is_multiple_of(kv_heads), || {
            format!("{kv_heads} key heads do not divide {heads} heads")
        })?;
        check(embeddings.has_projection || embeddings.width == self.hidden, || {
            format!(
                "embeddings of width {} need a projection to the hidden width of {}",
                embeddings.width, self.hidden
            )
        })?;
        for (name, value) in [
            ("epsilon", self.norm.epsilon),
            ("scale of the scores", attention.scale),
            ("scale of the embeddings", embeddings.scale),
        ] {
            check(value.is_finite() && value > 0.0, || {
                format!("{name} = {value}, expected a positive number")
            })?;
        }
        for rope in self.layers.iter().filter_map(|layer| layer.rope) {
            let head_dim = attention.head_dim;
            check(head_dim.is_multiple_of(2), || format!("rotary positions over an odd head of {head_dim}"))?;
            let (theta, divisor) = (rope.theta, rope.divisor);
            check(theta.is_finite() && theta > 1.0, || format!("RoPE base {theta}, expected more than 1"))?;
            check(divisor.is_finite() && divisor > 0.0, || {
                format!("RoPE divisor {divisor}, expected a positive number")
            })?;
        }
        match attention.score_bias {
            ScoreBias::None => {}
            ScoreBias::Relative(bias) => {
                let (rows, buckets) = (bias.rows, bias.buckets);
                check(buckets >= 4 && buckets.is_multiple_of(2) && buckets <= rows, || {
                    format!(
                        "{buckets} buckets of relative positions, expected an even number from 4 to {rows}"
                    )
                })?;
                let distance = bias.max_distance;
                check(distance > buckets / 4, || {
                    format!(
                        "a distance of {distance} for {buckets} buckets of relative positions is too small"
                    )
                })?;
            }
            ScoreBias::Disentangled(spec) => {
                if let Some(distance) = spec.max_distance {
                    let span = spec.span;
                    check(span >= 4 && distance > span / 2 + 1, || {
                        format!(
                            "a distance of {distance} for {span} buckets of relative positions is too small"
                        )
                    })?;
                }
            }
        }
        Ok(self)
    }
}

fn check(holds: bool, reason: impl FnOnce() -> String) -> Result<(), InvalidSpec> {
    if holds { Ok(()) } else { Err(InvalidSpec(reason())) }
}
