//! Where the graph runs, and how each place is asked for: fail-closed, never by silent fall-back.

use std::{fmt, str::FromStr};

use ort::{ep, session::builder::SessionBuilder};

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The default provider, on the host's processors.
    #[default]
    Cpu,
    /// NVIDIA's CUDA.
    Cuda {
        /// Ordinal of the device.
        device: i32,
    },
    /// Intel's OpenVINO, on the host's processors.
    OpenVino,
}

impl Provider {
    /// Registers the provider for runs on `threads` threads; an error means that it is not in the library or that
    /// its device is absent.
    pub(crate) fn register(self, builder: SessionBuilder, threads: usize) -> ort::Result<SessionBuilder> {
        let provider = match self {
            // With the arena a batch reuses the memory of the one before; what it keeps is bounded by the
            // budget of a batch. Without it resident memory was larger, since freed blocks of many sizes
            // stayed with the allocator.
            Self::Cpu => ep::CPU::default().with_arena_allocator(true).build(),
            // TensorFloat-32 keeps ten bits of the mantissa: fast, but not the fp32 that was asked for.
            Self::Cuda { device } => ep::CUDA::default().with_device_id(device).with_tf32(false).build(),
            // Without the precision, a processor with AMX would compute in bf16 unasked.
            Self::OpenVino => ep::OpenVINO::default()
                .with_device_type("CPU")
                .with_precision("FP32")
                .with_num_threads(threads)
                .build(),
        };
        let builder = builder.with_execution_providers([provider.error_on_failure()])?;
        match self {
            // What OpenVINO does not know would go to the default provider, and nobody would be told.
            Self::OpenVino => Ok(builder.with_disable_cpu_fallback()?),
            Self::Cpu | Self::Cuda { .. } => Ok(builder),
        }
    }

    /// Whether the provider makes kernels for each shape that it meets, so that shapes had better be few.
    pub(crate) fn prepares_shapes(self) -> bool {
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
    fn names_survive_a_round_trip() {
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
