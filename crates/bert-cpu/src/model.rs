//! A model in memory: weights packed for one instruction set.

use std::sync::Arc;

#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
use crate::{
    BertConfig, Isa, ModelError, TokenEmbeddings, WeightSource, fp32::Fp32Network, layer::WeightInputs,
    network::Network,
};
#[cfg(target_arch = "x86_64")]
use crate::{
    amx::{Amx, AmxBf16Network},
    simd::{Avx2, Avx512},
};

/// Packed weights, shared by all encoders of the model.
pub struct Model {
    network: Arc<dyn Network>,
    isa: Isa,
}

impl Model {
    /// Reads and packs the weights, on up to `threads` threads.
    ///
    /// # Errors
    /// [`ModelError`]: inconsistent dimensions, a weight that is missing or has the wrong size, an instruction set
    /// that this CPU lacks.
    pub fn new(
        config: BertConfig,
        source: &dyn WeightSource,
        token_embeddings: TokenEmbeddings,
        isa: Isa,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let inputs = WeightInputs { config: config.validate()?, source, token_embeddings, threads };
        Ok(Self { network: network(isa, inputs)?, isa })
    }

    /// Dimensions.
    pub fn config(&self) -> &BertConfig {
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
