//! A model in memory: weights packed for one instruction set.

use std::sync::Arc;

use encoder_spec::{EncoderSpec, NormKind, ScoreBias};

use crate::{
    EncoderConfig, Isa, ModelError, ModelInputs,
    fp32::{VectorNetwork, format::Fp32},
    linear_input::LinearInput,
    network::Network,
    rounded::{GroupDot, Rounded, int8::MAX_K},
    simd::Simd,
};
#[cfg(target_arch = "x86_64")]
use crate::{
    amx::{Amx, AmxBf16Network},
    rounded::{Avx2Int8, Avx512Bf16, Avx512Vnni, AvxVnni},
    simd::{Avx2, Avx512},
};
#[cfg(target_arch = "aarch64")]
use crate::{rounded::NeonDotprod, simd::Neon};

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

/// Returns true if the kernels for [`Isa::Avx512Bf16`] are clearly faster on this CPU than those for [`Isa::Avx512`]:
/// the instruction has twice the rate of f32's on some CPUs and half of it on others. Measured in the first call, which
/// takes a few milliseconds; false on a CPU without the instructions.
pub fn is_bf16_faster() -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::rounded::speed::is_bf16_faster();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
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
    pub fn new(isa: Isa, inputs: ModelInputs<'_>) -> Result<Self, ModelError> {
        if let Some(mechanism) = unsupported(inputs.config.spec()) {
            return Err(ModelError::Unsupported(mechanism));
        }
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

fn network(isa: Isa, inputs: ModelInputs<'_>) -> Result<Arc<dyn Network>, ModelError> {
    let missing = ModelError::Isa(isa);
    Ok(match isa {
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => fp32(Neon::detect().ok_or(missing)?, inputs)?,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => int8(NeonDotprod::detect().ok_or(missing)?, isa, inputs)?,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => fp32(Avx2::detect().ok_or(missing)?, inputs)?,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => fp32(Avx512::detect().ok_or(missing)?, inputs)?,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Int8 => int8(Avx2Int8::detect().ok_or(missing)?, isa, inputs)?,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => int8(AvxVnni::detect().ok_or(missing)?, isa, inputs)?,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => int8(Avx512Vnni::detect().ok_or(missing)?, isa, inputs)?,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => {
            let format = Rounded(Avx512Bf16::detect().ok_or(missing)?);
            Arc::new(VectorNetwork::new(format, inputs, None)?)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::AmxBf16 => match (Amx::detect(), Avx512::detect()) {
            (Some(amx), Some(avx512)) => Arc::new(AmxBf16Network::new(amx, avx512, inputs)?),
            _ => return Err(missing),
        },
        _ => return Err(missing),
    })
}

fn fp32(simd: impl Simd, inputs: ModelInputs<'_>) -> Result<Arc<dyn Network>, ModelError> {
    Ok(Arc::new(VectorNetwork::new(Fp32(simd), inputs, None)?))
}

fn int8(dot: impl GroupDot, isa: Isa, inputs: ModelInputs<'_>) -> Result<Arc<dyn Network>, ModelError> {
    let maxima = inputs.activation_maxima.ok_or(ModelError::NoMaxima(isa))?;
    if !maxima.fit(inputs.config.spec()) {
        return Err(ModelError::OtherMaxima);
    }
    let spec = inputs.config.spec();
    if LinearInput::all(spec).iter().any(|input| input.width(spec) > MAX_K) {
        return Err(ModelError::Unsupported("linear layers so wide that sums of int8 overflow"));
    }
    let maxima = maxima.of_shared_weights(|layer| inputs.source.source_layer(layer));
    Ok(Arc::new(VectorNetwork::new(Rounded(dot), inputs, Some(&maxima))?))
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Model");
        debug.field("config", self.config()).field("isa", &self.isa).finish_non_exhaustive()
    }
}
