//! The list of instruction sets, their names, and their detection at run time.
//!
//! The build script includes this file, so it depends on `std` alone.

use std::{fmt, str::FromStr};

/// Precision of the operands of a network's products with weights. Sums are f32, or exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE single precision.
    Fp32,
    /// bfloat16: the upper half of single precision.
    Bf16,
    /// Integers of 8 bits: a scale and a zero point for each token, a scale for each output of a linear layer. Products
    /// in attention are of integers of 16 bits, or f32.
    Int8,
}

/// An instruction set with kernels, in one precision. As a cap of a user, one allows itself and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// NEON: vectors of 4 f32.
    Neon,
    /// NEON with FEAT_DotProd: products of int8 in vectors of 128 bits.
    NeonDotprod,
    /// AVX2 without an instruction for int8: products of 16 bits.
    Avx2Int8,
    /// AVX2 and FMA: vectors of 8 f32.
    Avx2,
    /// AVX-VNNI: products of int8 in vectors of 256 bits.
    AvxVnni,
    /// AVX-512 F: vectors of 16 f32.
    Avx512,
    /// AVX-512 VNNI: products of int8 in vectors of 512 bits.
    Avx512Vnni,
    /// AVX-512 BF16 and VNNI: products of bf16 in vectors. Some CPUs have it slower than f32 (`is_bf16_faster`).
    Avx512Bf16,
    /// AMX tiles of bf16, and AVX-512 with its bf16 extension. The first detection asks the operating system for
    /// permission to use tiles, for the whole process.
    AmxBf16,
}

impl Isa {
    /// Every instruction set, in the order of caps. Of those of one precision, the slowest comes first.
    pub const ALL: [Self; 9] = [
        Self::Neon,
        Self::NeonDotprod,
        Self::Avx2Int8,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
        Self::AmxBf16,
    ];

    /// Name in settings, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::Avx2Int8 => "avx2-int8",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::AmxBf16 => "amx",
        }
    }

    /// Precision of its kernels.
    pub const fn precision(self) -> Precision {
        match self {
            Self::Neon | Self::Avx2 | Self::Avx512 => Precision::Fp32,
            Self::Avx512Bf16 | Self::AmxBf16 => Precision::Bf16,
            Self::NeonDotprod | Self::Avx2Int8 | Self::AvxVnni | Self::Avx512Vnni => Precision::Int8,
        }
    }

    /// Returns true if the architecture that this program was compiled for has CPUs with this instruction set.
    pub const fn is_of_this_architecture(self) -> bool {
        match self {
            Self::Neon | Self::NeonDotprod => cfg!(target_arch = "aarch64"),
            Self::Avx2Int8
            | Self::Avx2
            | Self::AvxVnni
            | Self::Avx512
            | Self::Avx512Vnni
            | Self::Avx512Bf16
            | Self::AmxBf16 => cfg!(target_arch = "x86_64"),
        }
    }

    /// Returns true if this CPU has the instruction set and the operating system permits its use.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => {
                Self::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::Avx2Int8 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Self::Avx2.is_available() && is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                Self::Avx512Vnni.is_available()
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AmxBf16 => amx::is_available(),
            _ => false,
        }
    }

    /// Returns true if the instruction set does not exceed `max`, a user's cap; without a cap, true.
    pub fn is_allowed(self, max: Option<Self>) -> bool {
        max.is_none_or(|max| self <= max)
    }

    /// Instruction sets available on this CPU, in the order of [`ALL`](Self::ALL). A cap does not change the result.
    pub fn detect() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The fastest instruction set for `precision` that is both available and allowed by `max`.
    pub fn best(precision: Precision, max: Option<Self>) -> Option<Self> {
        let fits = |isa: &Self| isa.precision() == precision && isa.is_allowed(max) && isa.is_available();
        Self::ALL.into_iter().rev().find(fits)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|isa| isa.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(|isa| format!("`{isa}`")).join(", ");
            format!("unknown instruction set `{text}`: expected one of {names}")
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod amx {
    use std::{arch::asm, sync::OnceLock};

    pub(super) fn is_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| has_avx512_extensions() && has_tiles() && request_tile_permission())
    }

    /// The target features of the kernels around the tile instructions.
    fn has_avx512_extensions() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512bf16")
    }

    /// Returns true if the CPU has AMX for bf16 and the operating system saves tile registers on a thread switch.
    /// Requires AVX-512, and with it XGETBV and CPUID leaf 7.
    fn has_tiles() -> bool {
        use std::arch::x86_64::__cpuid_count;
        /// Bits of EDX in leaf 7.
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        /// Bits of XCR0: tile configuration and tile data.
        const TILE_STATE: u32 = 0b11 << 17;

        let (low, _high): (u32, u32);
        // SAFETY: AVX-512 was detected, so the operating system has enabled XGETBV; it only reads XCR0.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _high,
                options(nomem, nostack, preserves_flags));
        }
        let features = __cpuid_count(7, 0).edx;
        features & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE && low & TILE_STATE == TILE_STATE
    }

    /// Linux saves tile data only for processes that asked for it (Documentation/arch/x86/xstate.rst).
    #[cfg(target_os = "linux")]
    fn request_tile_permission() -> bool {
        const ARCH_PRCTL: usize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XFEATURE_XTILEDATA: usize = 18;
        let result: isize;
        // SAFETY: arch_prctl with this request accesses no memory of this process; `syscall` overwrites RCX and R11.
        unsafe {
            asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        // Fails (negative errno) on kernels before 5.16, under system call filters, and if a thread's signal stack
        // is too small for tile data.
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn request_tile_permission() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_is_the_fastest_available_instruction_set_within_the_cap() {
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Int8] {
            let fits = |isa: &Isa| isa.precision() == precision;
            let available = Isa::detect();
            assert_eq!(Isa::best(precision, None), available.iter().copied().rfind(fits));
            for max in Isa::ALL {
                let allowed = |isa: &Isa| fits(isa) && *isa <= max;
                assert_eq!(Isa::best(precision, Some(max)), available.iter().copied().rfind(allowed));
            }
        }
    }

    #[test]
    fn available_instruction_sets_are_of_this_architecture() {
        assert!(Isa::detect().into_iter().all(Isa::is_of_this_architecture));
    }

    #[test]
    fn names_parse_back_and_unknown_names_list_the_known_ones() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        let error = "unknown instruction set `sse9`: expected one of `neon`, `neon-dotprod`, `avx2-int8`, \
            `avx2`, `avx-vnni`, `avx512`, `avx512-vnni`, `avx512-bf16`, `amx`";
        assert_eq!("sse9".parse::<Isa>(), Err(error.to_owned()));
    }

    #[test]
    #[cfg_attr(cross_build, ignore = "cross build: the build script cannot detect the CPU of the tests")]
    fn the_build_script_detected_this_cpu() {
        let detected = [
            (Isa::Neon, cfg!(cpu_has = "neon")),
            (Isa::NeonDotprod, cfg!(cpu_has = "neon-dotprod")),
            (Isa::Avx2Int8, cfg!(cpu_has = "avx2-int8")),
            (Isa::Avx2, cfg!(cpu_has = "avx2")),
            (Isa::AvxVnni, cfg!(cpu_has = "avx-vnni")),
            (Isa::Avx512, cfg!(cpu_has = "avx512")),
            (Isa::Avx512Vnni, cfg!(cpu_has = "avx512-vnni")),
            (Isa::Avx512Bf16, cfg!(cpu_has = "avx512-bf16")),
            (Isa::AmxBf16, cfg!(cpu_has = "amx")),
        ];
        assert_eq!(detected.map(|(isa, _)| isa), Isa::ALL);
        let detected: Vec<Isa> = detected.into_iter().filter(|(_, has)| *has).map(|(isa, _)| isa).collect();
        assert_eq!(detected, Isa::detect(), "the build is from another CPU: run `cargo clean -p bert-cpu`");
    }
}
