//! Execution providers of ONNX Runtime. A provider that is not available is an error: there is no silent fallback.

use std::{fmt, str::FromStr};

use ort::{ep, session::builder::SessionBuilder};

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The default provider, on the host's CPUs.
    #[default]
    Cpu,
    /// NVIDIA's CUDA.
    Cuda {
        /// Ordinal of the device.
        device: i32,
    },
    /// Intel's OpenVINO, on the host's CPUs.
    OpenVino,
}

impl Provider {
    /// Registers the provider for runs on `threads` threads.
    ///
    /// # Errors
    /// The library lacks the provider, or its device is absent.
    pub(crate) fn register(self, builder: SessionBuilder, threads: usize) -> ort::Result<SessionBuilder> {
        let provider = match self {
            // With the arena a batch reuses the memory of the previous one; the budget of a batch bounds its size.
            // Without it resident memory was larger, since the allocator kept freed blocks of many sizes.
            Self::Cpu => ep::CPU::default().with_arena_allocator(true).build(),
            // TensorFloat-32 has 10 mantissa bits: faster, but not the configured fp32.
            Self::Cuda { device } => ep::CUDA::default().with_device_id(device).with_tf32(false).build(),
            // Without an explicit precision OpenVINO computes in bf16 on a CPU with AMX.
            Self::OpenVino => ep::OpenVINO::default()
                .with_device_type("CPU")
                .with_precision("FP32")
                .with_num_threads(threads)
                .build(),
        };
        let builder = builder.with_execution_providers([provider.error_on_failure()])?;
        match self {
            // Operators that OpenVINO lacks would otherwise run on the default provider, without a message.
            Self::OpenVino => Ok(builder.with_disable_cpu_fallback()?),
            Self::Cpu | Self::Cuda { .. } => Ok(builder),
        }
    }

    /// Returns true if the provider compiles kernels for each new input shape, so that few shapes are faster.
    pub(crate) fn compiles_per_shape(self) -> bool {
        self == Self::OpenVino
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::OpenVino => f.write_str("openvino"),
            Self::Cuda { device: 0 } => f.write_str("cuda"),
            Self::Cuda { device } => write!(f, "cuda:{device}"),
        }
    }
}

impl FromStr for Provider {
    type Err = String;

    /// Parses `cpu`, `openvino`, `cuda` or `cuda:ORDINAL`.
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("unknown provider `{text}`: expected `cpu`, `openvino`, `cuda` or `cuda:0`");
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "openvino" => Ok(Self::OpenVino),
            None if text == "cuda" => Ok(Self::Cuda { device: 0 }),
            Some(("cuda", ordinal)) => match ordinal.parse() {
                Ok(device) if device >= 0 => Ok(Self::Cuda { device }),
                _ => Err(unknown()),
            },
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_names_round_trip() {
        for provider in
            [Provider::Cpu, Provider::OpenVino, Provider::Cuda { device: 0 }, Provider::Cuda { device: 3 }]
        {
            assert_eq!(provider.to_string().parse(), Ok(provider));
        }
        for wrong in ["", "CPU", "cuda:", "cuda:-1", "cpu:0", "openvino:GPU", "tensorrt"] {
            assert!(wrong.parse::<Provider>().is_err(), "{wrong} was accepted");
        }
    }
}
