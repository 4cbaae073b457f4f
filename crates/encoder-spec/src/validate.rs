//! Checks that a specification can be computed.

use std::{error::Error, fmt};

use crate::{EncoderSpec, HeadModule, HeadSpec, PoolingMode, ScoreBias};

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

impl HeadSpec {
    /// Returns the length of the vectors for hidden states of width `hidden`.
    ///
    /// # Errors
    /// [`InvalidSpec`] if there is no pooling mode, or another one than [`PoolingMode::Max`] after modules for tokens;
    /// if a module takes another number of values than the one before it yields, if it yields none or more than
    /// [`MAX_SIZE`], or if it has another number of weights than its sizes require.
    pub fn dimensions(&self, hidden: usize) -> Result<usize, InvalidSpec> {
        check(!self.poolings.is_empty(), || "no pooling mode, expected at least one".to_owned())?;
        check(self.token_modules.is_empty() || self.poolings == [PoolingMode::Max], || {
            format!("modules for tokens before the poolings {:?}, expected only `max`", self.poolings)
        })?;
        let width = output_width(&self.token_modules, hidden)?;
        let width = self.poolings.len().saturating_mul(width);
        check((1..=MAX_SIZE).contains(&width), || {
            format!("pooling yields {width} values, expected 1 to {MAX_SIZE}")
        })?;
        output_width(&self.modules, width)
    }
}

/// Returns the number of values that successive modules yield for `width` values.
fn output_width(modules: &[HeadModule], mut width: usize) -> Result<usize, InvalidSpec> {
    for (index, module) in modules.iter().enumerate() {
        let (name, inputs, outputs) = match module {
            HeadModule::Dense(layer) => {
                let (weights, biases) = (layer.weight.len(), layer.bias.as_ref().map(Vec::len));
                let fits = layer.inputs.checked_mul(layer.outputs) == Some(weights)
                    && biases.is_none_or(|biases| biases == layer.outputs);
                check(fits, || {
                    let (shape, biases) = ([layer.outputs, layer.inputs], biases.unwrap_or(0));
                    format!("Dense {index} of shape {shape:?} has {weights} weights and {biases} biases")
                })?;
                ("Dense", layer.inputs, layer.outputs)
            }
            HeadModule::LayerNorm(norm) => {
                let (weights, biases) = (norm.weight.len(), norm.bias.len());
                check(weights == biases, || {
                    format!("LayerNorm {index} has {weights} weights and {biases} biases")
                })?;
                ("LayerNorm", weights, weights)
            }
            HeadModule::Normalize | HeadModule::Log1pRelu => continue,
        };
        check(inputs == width, || {
            format!("{name} {index} takes {inputs} values, but the module before it yields {width}")
        })?;
        check((1..=MAX_SIZE).contains(&outputs), || {
            format!("{name} {index} yields {outputs} values, expected 1 to {MAX_SIZE}")
        })?;
        width = outputs;
    }
    Ok(width)
}

fn check(holds: bool, reason: impl FnOnce() -> String) -> Result<(), InvalidSpec> {
    if holds { Ok(()) } else { Err(InvalidSpec(reason())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DenseActivation, DenseLayer, HeadLayerNorm};

    #[test]
    fn the_modules_of_a_head_must_take_what_the_module_before_them_yields() {
        let dense = |inputs, outputs| {
            let (weight, bias) = (vec![0.0; inputs * outputs], Some(vec![0.0; outputs]));
            let activation = DenseActivation::Identity;
            HeadModule::Dense(DenseLayer { inputs, outputs, weight, bias, activation })
        };
        let norm = |width| {
            let (weight, bias) = (vec![0.0; width], vec![0.0; width]);
            HeadModule::LayerNorm(HeadLayerNorm { weight, bias, epsilon: HeadLayerNorm::DEFAULT_EPSILON })
        };
        let dimensions = |modules| {
            let poolings = vec![PoolingMode::Cls, PoolingMode::Mean];
            HeadSpec { poolings, modules, ..HeadSpec::from(PoolingMode::Cls) }.dimensions(3)
        };
        assert_eq!(dimensions(vec![]), Ok(6));
        assert_eq!(dimensions(vec![norm(6), dense(6, 2), HeadModule::Normalize, dense(2, 5)]), Ok(5));
        for (modules, message) in [
            (vec![dense(3, 2)], "Dense 0 takes 3 values, but the module before it yields 6"),
            (vec![dense(6, 2), norm(6)], "LayerNorm 1 takes 6 values, but the module before it yields 2"),
        ] {
            assert_eq!(dimensions(modules).unwrap_err().to_string(), message);
        }
        let mut short = dense(6, 2);
        if let HeadModule::Dense(layer) = &mut short {
            layer.bias = Some(vec![0.0]);
        }
        let message = "Dense 0 of shape [2, 6] has 12 weights and 1 biases";
        assert_eq!(dimensions(vec![short]).unwrap_err().to_string(), message);
        let token_modules = vec![dense(3, 7), norm(7), HeadModule::Log1pRelu];
        let sparse = HeadSpec { token_modules, ..HeadSpec::from(PoolingMode::Max) };
        assert_eq!((sparse.dimensions(3), sparse.dimensions(4).is_err()), (Ok(7), true));
        assert!(HeadSpec { poolings: vec![PoolingMode::Mean], ..sparse }.dimensions(3).is_err());
        let none = HeadSpec { poolings: vec![], ..HeadSpec::from(PoolingMode::Mean) };
        assert!(none.dimensions(3).is_err());
        let many = HeadSpec { poolings: vec![PoolingMode::Mean; MAX_SIZE / 2], ..none };
        assert!(many.dimensions(2).is_ok() && many.dimensions(3).is_err() && many.dimensions(0).is_err());
    }
}
