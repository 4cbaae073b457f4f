//! ONNX Runtime's build with NVIDIA's CUDA 13, out of the wheel `onnxruntime-gpu`: only on request.
//!
//! CUDA and cuDNN 9 themselves are the machine's, or its container image's. TensorRT's plug-in stays in the wheel.

use std::env;

use anyhow::{Result, bail};

use super::onnxruntime::link;
use super::python::Python;
use super::wheel::{Member, Wheel, install as install_members};
use crate::workspace::Workspace;

const VERSION: &str = "1.31.1";
const WHEEL: (&str, u64) = ("e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6", 255_560_985);

/// The library's file name tells its version.
const LIBRARY: &str = "libonnxruntime.so.1.31.1";

/// Path in the wheel, SHA-256 and length. The libraries find one another in the folder that they share.
const FILES: [(&str, &str, u64); 5] = [
    (
        "onnxruntime/capi/libonnxruntime.so.1.31.1",
        "5104254339ecadae808da771bd0b63b240f0dbd466514234905e54372435c303",
        29_421_832,
    ),
    (
        "onnxruntime/capi/libonnxruntime_providers_shared.so",
        "086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d",
        14_632,
    ),
    (
        "onnxruntime/capi/libonnxruntime_providers_cuda.so",
        "d5290158115fa5569a3fe8f1f4037ee9b0e86658a96e52f852bbb7039aa88137",
        284_014_752,
    ),
    ("onnxruntime/LICENSE", "2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c", 1073),
    (
        "onnxruntime/ThirdPartyNotices.txt",
        "143764b952fdb1a7c69ce653bfba74a7744d6a8a573bfb73e235fba356c83de3",
        338_088,
    ),
];

/// Puts the libraries and the licence texts into `.runtime/cuda`.
///
/// # Errors
/// The platform is another than Linux on `x86_64`, or the fetch fails.
pub(super) fn install(workspace: &Workspace, python: &Python<'_>) -> Result<()> {
    // A glibc library cannot be loaded into a musl program.
    if (env::consts::OS, env::consts::ARCH) != ("linux", "x86_64") || cfg!(target_env = "musl") {
        bail!("no ONNX Runtime wheel with CUDA is known for {} on {}", env::consts::OS, env::consts::ARCH);
    }
    let folder = workspace.runtime().join("cuda");
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
            package: "onnxruntime-gpu",
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
