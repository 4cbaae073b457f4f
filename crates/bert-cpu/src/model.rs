//! A model in memory: weights packed for one instruction set.

use std::sync::Arc;

use encoder_spec::{EncoderSpec, NormKind, ScoreBias};

#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
use crate::{
    EncoderConfig, Isa, ModelError, TokenEmbeddings, WeightSource, fp32::Fp32Network, layer::WeightInputs,
    network::Network,
};
#[cfg(target_arch = "x86_64")]
use crate::{
    amx::{Amx, AmxBf16Network},
    simd::{Avx2, Avx512},
};

/// Returns the first mechanism of a network for which there are no kernels; `None` if all have kernels.
pub fn unsupported(spec: &EncoderSpec) -> Option<&'static str> {
    let attention = &spec.attention;
    if matches!(attention.score_bias, ScoreBias::Disentangled(_)) {
        Some("disentangled attention")
    } else if attention.has_query_key_norm && !matches!(spec.norm.kind, NormKind::RmsNorm { .. }) {
        Some("a layer norm of queries and keys")
    } else {
        None
    }
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
        if let Some(mechanism) = unsupported(config.spec()) {
            return Err(ModelError::Unsupported(mechanism));
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
        Isa::AmxBf16 => match (Amx::detect(), Avx512::detect()) {
            (Some(amx), Some(avx512)) => Arc::new(AmxBf16Network::new(amx, avx512, inputs)?),
            _ => return Err(missing),
        },
        _ => return Err(missing),
    })
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Model");
        debug.field("config", self.config()).field("isa", &self.isa).finish_non_exhaustive()
    }
}
