//! Tells the tests which instruction sets this CPU has, by `cfg(cpu_has = "avx2")` and the like: tests of the others
//! are ignored with a reason. The crate itself is the same for every CPU.
#![allow(clippy::print_stdout)]

#[allow(dead_code, unreachable_pub)]
#[path = "src/isa.rs"]
mod isa;

use std::{env, path::Path};

use isa::Isa;

/// Names the instruction sets of the tests' CPU, with commas, if this CPU builds for another of its architecture.
const TEST_ISAS: &str = "BERT_CPU_TEST_ISAS";

fn main() -> Result<(), String> {
    let names = Isa::ALL.map(|isa| format!("{:?}", isa.name())).join(", ");
    println!("cargo::rustc-check-cfg=cfg(cpu_has, values({names}))");
    println!("cargo::rustc-check-cfg=cfg(cross_build)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/isa.rs");
    println!("cargo::rerun-if-env-changed={TEST_ISAS}");
    // Written at the start of a container or virtual machine: after a move of the target folder, detect again.
    let hostname = "/etc/hostname";
    if Path::new(hostname).exists() {
        println!("cargo::rerun-if-changed={hostname}");
    }

    let isas = if let Ok(names) = env::var(TEST_ISAS) {
        names.split(',').map(str::parse).collect::<Result<_, _>>()?
    } else if env::var("HOST") == env::var("TARGET") {
        Isa::detect()
    } else {
        println!("cargo::rustc-cfg=cross_build");
        // The CPU of the tests is unknown: those that every CPU of the architecture has.
        let is_arm64 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "aarch64");
        if is_arm64 { vec![Isa::Neon] } else { Vec::new() }
    };
    for isa in isas {
        println!("cargo::rustc-cfg=cpu_has={:?}", isa.name());
    }
    Ok(())
}
