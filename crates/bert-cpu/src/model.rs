//! A model in memory: weights packed for one instruction set.

use std::sync::Arc;

use encoder_spec::{EncoderSpec, NormKind, NormPlacement, ScoreBias, Span};

#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
use crate::{
    EncoderConfig, Isa, ModelError, Precision, TokenEmbeddings, WeightSource, fp32::Fp32Network,
    layer::WeightInputs, network::Network,
};
#[cfg(target_arch = "x86_64")]
use crate::{
    amx::{Amx, AmxBf16Network},
    simd::{Avx2, Avx512},
};

/// Returns the first mechanism of a network for which there are no kernels in `precision`; `None` if all have kernels.
pub fn unsupported(spec: &EncoderSpec, precision: Precision) -> Option<&'static str> {
    let attention = &spec.attention;
    let has_rms_norm = matches!(spec.norm.kind, NormKind::RmsNorm { .. });
    let never = [
        (matches!(attention.score_bias, ScoreBias::Disentangled(_)), "disentangled attention"),
        (attention.has_query_key_norm && !has_rms_norm, "a layer norm of queries and keys"),
    ];
    let in_bf16 = [
        (spec.norm_placement != NormPlacement::Post, "norms before attention"),
        (has_rms_norm, "RMSNorm"),
        (spec.layers.iter().any(|layer| layer.rope.is_some()), "rotary position embeddings"),
        (spec.layers.iter().any(|layer| layer.span != Span::Full), "causal or windowed attention"),
        (attention.score_bias != ScoreBias::None, "attention biases"),
        (attention.kv_heads != attention.heads, "grouped-query attention"),
        (spec.feed_forward.is_gated, "a gated feed-forward network"),
        (spec.embeddings.has_projection, "factorized embeddings"),
        (!spec.embeddings.has_norm, "embeddings without a norm"),
    ];
    let in_precision = if precision == Precision::Bf16 { &in_bf16[..] } else { &[] };
    never.iter().chain(in_precision).find(|(is_used, _)| *is_used).map(|&(_, mechanism)| mechanism)
}

/// Packed weights, shared by all encoders of the model.
pub struct Model {
    network: Arc<dyn Network>,
    isa: Isa,
}

impl Model {
    /// Reads and packs the weights, on up to `threads` threads.
    ///
    /// # Errors
    /// [`ModelError`]: a mechanism without kernels, a weight that is missing or has the wrong size, an instruction set
    /// that this CPU lacks.
    pub fn new(
        config: EncoderConfig,
        source: &dyn WeightSource,
        token_embeddings: TokenEmbeddings,
        isa: Isa,
        threads: usize,
    ) -> Result<Self, ModelError> {
        if let Some(mechanism) = unsupported(config.spec(), isa.precision()) {
            return Err(ModelError::Unsupported { isa, mechanism });
        }
        let inputs = WeightInputs { config, source, token_embeddings, threads };
        Ok(Self { network: network(isa, inputs)?, isa })
    }

    /// Network and maximum length of a sequence.
    pub fn config(&self) -> &EncoderConfig {
        self.network.config()
    }

    /// Instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub(crate) fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }
}

fn network(isa: Isa, inputs: WeightInputs<'_>) -> Result<Arc<dyn Network>, ModelError> {
    let missing = ModelError::Isa(isa);
    Ok(match isa {
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Arc::new(Fp32Network::new(Neon::detect().ok_or(missing)?, inputs)?),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Arc::new(Fp32Network::new(Avx2::detect().ok_or(missing)?, inputs)?),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Arc::new(Fp32Network::new(Avx512::detect().ok_or(missing)?, inputs)?),
        #[cfg(target_arch = "x86_64")]
        Isa::AmxBf16 => Arc::new(AmxBf16Network::new(Amx::detect().ok_or(missing)?, inputs)?),
        _ => return Err(missing),
    })
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Model");
        debug.field("config", self.config()).field("isa", &self.isa).finish_non_exhaustive()
    }
}
