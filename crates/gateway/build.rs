//! Emits `cfg(cpu_has = "avx2")` and the like for the instruction sets of this CPU, so that `tests/kernels` can ignore
//! the tests of the others with a reason. The crate itself is the same on every CPU.
#![allow(clippy::print_stdout)]

use std::{env, fs};

fn main() {
    println!(
        "cargo::rustc-check-cfg=cfg(cpu_has, values(\"neon\", \"neon-dotprod\", \"avx2\", \"avx512\", \"amx\"))"
    );
    println!("cargo::rerun-if-changed=build.rs");
    let is_native = env::var("HOST") == env::var("TARGET");
    let is_arm64 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "aarch64");
    // In a cross build the CPU of the tests is unknown. Every 64-bit Arm CPU has NEON.
    for (name, is_present) in [
        ("neon", is_arm64),
        ("neon-dotprod", is_native && has_dotprod()),
        ("avx2", is_native && has_avx2()),
        ("avx512", is_native && has_avx512()),
        ("amx", is_native && has_amx()),
    ] {
        if is_present {
            println!("cargo::rustc-cfg=cpu_has=\"{name}\"");
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn has_dotprod() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

#[cfg(not(target_arch = "aarch64"))]
fn has_dotprod() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2() && is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

/// Returns true if Linux offers AMX for bf16 to programs: the standard library's detection of AMX is unstable.
fn has_amx() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    ["amx_tile", "amx_bf16", "avx512_bf16"]
        .iter()
        .all(|flag| flags.split_whitespace().any(|word| word == *flag))
}
