//! ONNX Runtime's build with OpenVINO, out of the wheel `onnxruntime-openvino`: only on request.
//!
//! Only what a processor needs is taken: OpenVINO's plug-ins for Intel's graphics and NPUs, and its C and Python
//! interfaces, stay in the wheel.

use std::env;

use anyhow::{Result, bail};

use super::onnxruntime::link;
use super::python::Python;
use super::wheel::{Member, Wheel, install as install_members};
use crate::workspace::Workspace;

/// ONNX Runtime's; the OpenVINO in it is 2025.4.1.
const VERSION: &str = "1.24.1";
const WHEEL: (&str, u64) = ("3007c803634cc69c6d52af1dea7ce729d9bb62b9a11070fd2f959119199007a8", 84_430_935);

/// The library's file name tells its version.
const LIBRARY: &str = "libonnxruntime.so.1.24.1";

/// Path in the wheel, SHA-256 and length. The libraries find one another in the folder that they share.
const FILES: [(&str, &str, u64); 9] = [
    (
        "onnxruntime/capi/libonnxruntime.so.1.24.1",
        "2d963a419b96018b79dfe63bb50120ddcb724149912a8a6d8ac747a557c089f4",
        31_260_360,
    ),
    (
        "onnxruntime/capi/libonnxruntime_providers_shared.so",
        "5e02c1ff90e7d71365264dbb6767c00f04a8b57a96cddbc0085c61fa1393250d",
        15_776,
    ),
    (
        "onnxruntime/capi/libonnxruntime_providers_openvino.so",
        "bf0159d2681d76e7de03fbd302a9204e5490f30816bd41826d57acf7a8dff363",
        2_000_856,
    ),
    (
        "onnxruntime/capi/libopenvino.so.2541",
        "ac9634b715a242a61644c77bc38f17508fe73f517e418027e2410f4bee004943",
        25_284_089,
    ),
    (
        "onnxruntime/capi/libopenvino_onnx_frontend.so.2541",
        "f426710881d8c1a01d5ed6d7eaa076d923b19983d3ab3a18bb19d25dba7d8923",
        7_006_249,
    ),
    (
        "onnxruntime/capi/libopenvino_intel_cpu_plugin.so",
        "034df890550ae9199fe5f8608c0df8fd0fe355f303bad56bea10bae14c14c3cb",
        67_008_289,
    ),
    (
        "onnxruntime/capi/libtbb.so.12",
        "6781dc6aa8b2ca237d0164258e70266a44667756c02a9a039782ec1d1a67b653",
        367_649,
    ),
    ("onnxruntime/LICENSE", "2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c", 1073),
    (
        "onnxruntime/ThirdPartyNotices.txt",
        "0e07b95f3a8d6230037707c5c4a2b554d12c4cb67369669ac255635528ffcee2",
        325_054,
    ),
];

/// Puts the libraries and the licence texts into `.runtime/openvino`.
///
/// # Errors
/// The platform is another than Linux on `x86_64`, or the fetch fails.
pub(super) fn install(workspace: &Workspace, python: &Python<'_>) -> Result<()> {
    // A glibc library cannot be loaded into a musl program.
    if (env::consts::OS, env::consts::ARCH) != ("linux", "x86_64") || cfg!(target_env = "musl") {
        bail!(
            "no ONNX Runtime wheel with OpenVINO is known for {} on {}",
            env::consts::OS,
            env::consts::ARCH
        );
    }
    let folder = workspace.runtime().join("openvino");
    let members = FILES.map(|(name, sha256, bytes)| Member {
        name: name.into(),
        target: folder.join(name.rsplit('/').next().unwrap_or(name)),
        sha256: sha256.into(),
        bytes,
    });
    install_members(
        workspace,
        python,
        &Wheel {
            package: "onnxruntime-openvino",
            version: VERSION,
            tags: Some([
                "--platform",
                "manylinux_2_28_x86_64",
                "--python-version",
                "3.11",
                "--implementation",
                "cp",
                "--abi",
                "cp311",
            ]),
            sha256: WHEEL.0,
            bytes: WHEEL.1,
        },
        &members,
    )?;
    link(&folder.join("libonnxruntime.so"), LIBRARY)
}
