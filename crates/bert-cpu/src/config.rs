//! A network with the limit of its sequences, as kernels and plans need it.

use encoder_spec::{EncoderSpec, InvalidSpec};

/// Specification of a network, and the maximum length of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    spec: EncoderSpec,
    max_tokens: usize,
}

impl EncoderConfig {
    /// A configuration for sequences of up to `max_tokens` tokens, or fewer if the position embeddings have fewer.
    ///
    /// # Errors
    /// [`InvalidSpec`] if the specification cannot be computed.
    pub fn new(spec: EncoderSpec, max_tokens: usize) -> Result<Self, InvalidSpec> {
        let spec = spec.validate()?;
        let max_tokens = max_tokens.min(spec.max_tokens().unwrap_or(usize::MAX));
        Ok(Self { spec, max_tokens })
    }

    /// The network.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Maximum number of tokens in a sequence.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }
}
