//! A network with the limit of its sequences, as kernels and plans need it.

use encoder_spec::{EncoderSpec, InvalidSpec};

/// Specification of a network, the maximum length of a sequence, and the number of its segments.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    spec: EncoderSpec,
    max_tokens: usize,
    segments: usize,
}

impl EncoderConfig {
    /// A configuration for sequences of up to `max_tokens` tokens, or fewer if the position embeddings have fewer.
    ///
    /// # Errors
    /// [`InvalidSpec`] if the specification cannot be computed.
    pub fn new(spec: EncoderSpec, max_tokens: usize) -> Result<Self, InvalidSpec> {
        let spec = spec.validate()?;
        let max_tokens = max_tokens.min(spec.max_tokens().unwrap_or(usize::MAX));
        Ok(Self { spec, max_tokens, segments: 1 })
    }

    /// The same for sequences of up to `segments` segments, or fewer if the segment embeddings have fewer rows. A model
    /// of single texts needs one, which is the default: each further one takes a copy of the position embeddings.
    #[must_use]
    pub fn with_segments(self, segments: usize) -> Self {
        let rows = self.spec.embeddings.segments.unwrap_or(1);
        Self { segments: segments.clamp(1, rows), ..self }
    }

    /// The network.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Maximum number of tokens in a sequence.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Maximum number of segments in a sequence.
    pub fn segments(&self) -> usize {
        self.segments
    }
}
