//! Which instructions this processor has, asked at run time.

use std::{fmt, str::FromStr};

/// What a network's products are computed in; sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE single precision.
    Fp32,
    /// The upper half of single precision.
    Bf16,
}

/// A level of instructions that there are kernels for, the fewest values at a time first. On x86-64 each includes
/// those before it; on 64-bit Arm there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// NEON: 4 values of f32 at a time.
    Neon,
    /// AVX2 and FMA: 8 values of f32 at a time.
    Avx2,
    /// AVX-512 F: 16 values of f32 at a time.
    Avx512,
    /// AMX for bf16, and AVX-512 with bf16. The first to ask for it asks the operating system for permission, for
    /// the whole process.
    AmxBf16,
}

impl Isa {
    /// Every level, lowest first.
    pub const ALL: [Self; 4] = [Self::Neon, Self::Avx2, Self::Avx512, Self::AmxBf16];

    /// The best level of this processor for a precision, but no better than `cap`; `None` where there is none.
    pub fn best(precision: Precision, cap: Option<Self>) -> Option<Self> {
        let allowed = |isa: &Self| {
            isa.precision() == precision && cap.is_none_or(|cap| *isa <= cap) && isa.is_present()
        };
        Self::ALL.into_iter().rev().find(allowed)
    }

    /// What its kernels compute in.
    pub fn precision(self) -> Precision {
        match self {
            Self::Neon | Self::Avx2 | Self::Avx512 => Precision::Fp32,
            Self::AmxBf16 => Precision::Bf16,
        }
    }

    /// Returns true if processors of the architecture that this program was built for can have it.
    pub fn is_of_this_architecture(self) -> bool {
        match self {
            Self::Neon => cfg!(target_arch = "aarch64"),
            Self::Avx2 | Self::Avx512 | Self::AmxBf16 => cfg!(target_arch = "x86_64"),
        }
    }

    /// Whether this processor, and the operating system, have it.
    pub fn is_present(self) -> bool {
        match self {
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Self::Avx2.is_present() && is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::AmxBf16 => crate::amx::Amx::detect().is_some(),
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::AmxBf16 => "amx",
        })
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known =
            || format!("unknown instruction set `{text}`: expected `neon`, `avx2`, `avx512` or `amx`");
        Self::ALL.into_iter().find(|isa| isa.to_string() == text).ok_or_else(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_never_exceeded() {
        for precision in [Precision::Fp32, Precision::Bf16] {
            let fits = |isa: &Isa| isa.is_present() && isa.precision() == precision;
            assert_eq!(Isa::best(precision, None), Isa::ALL.into_iter().rev().find(fits));
            for cap in Isa::ALL {
                assert!(Isa::best(precision, Some(cap)).is_none_or(|best| best <= cap && fits(&best)));
                assert_eq!(cap.to_string().parse(), Ok(cap));
                assert!(cap.is_of_this_architecture() || !cap.is_present());
            }
        }
        assert!("sse9".parse::<Isa>().is_err());
    }
}
