//! ONNX Runtime's shared library, out of the wheel that Microsoft publishes for Python.
//!
//! The wheel is the one build of the library that every package index mirrors. One Python tag is pinned per
//! platform, so that the same file comes whatever Python the machine has.

use std::env;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::python::Python;
use super::wheel::{Member, Wheel, install as install_members};
use crate::workspace::Workspace;

const VERSION: &str = "1.32.0";

/// One platform's wheel. Hashes and sizes are of version [`VERSION`] as published.
struct Pin {
    /// `std::env::consts::{OS, ARCH}`.
    platform: (&'static str, &'static str),
    tag: &'static str,
    wheel: (&'static str, u64),
    /// The library in the wheel; its file name, which tells the version, is kept.
    member: &'static str,
    /// The name under which programs look for it.
    library: &'static str,
    library_file: (&'static str, u64),
    license: (&'static str, u64),
    notices: (&'static str, u64),
}

const LICENSE: (&str, u64) = ("2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c", 1073);
const NOTICES: (&str, u64) = ("d8696258afcf9df7827a5e01d6b6d55ee9b461b4e82020f5f48242deb9cc2270", 334_795);

const PINS: [Pin; 4] = [
    Pin {
        platform: ("linux", "x86_64"),
        tag: "manylinux_2_28_x86_64",
        wheel: ("5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d", 27_773_237),
        member: "onnxruntime/capi/libonnxruntime.so.1.32.0",
        library: "libonnxruntime.so",
        library_file: ("6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f", 34_824_680),
        license: LICENSE,
        notices: NOTICES,
    },
    Pin {
        platform: ("linux", "aarch64"),
        tag: "manylinux_2_28_aarch64",
        wheel: ("2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c", 23_195_070),
        member: "onnxruntime/capi/libonnxruntime.so.1.32.0",
        library: "libonnxruntime.so",
        library_file: ("49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a", 27_165_936),
        license: LICENSE,
        notices: NOTICES,
    },
    Pin {
        platform: ("macos", "aarch64"),
        tag: "macosx_14_0_arm64",
        wheel: ("366b9e53d07812cc5c92822cecf7563b76a8a0f32ba3bb8dd232a206ac3bcb6c", 22_506_162),
        member: "onnxruntime/capi/libonnxruntime.1.32.0.dylib",
        library: "libonnxruntime.dylib",
        library_file: ("fa585fabbea65b823b9a8f7e27d46aee3989d1be7e36b528203d3a1fd613aae7", 35_272_344),
        license: LICENSE,
        notices: NOTICES,
    },
    Pin {
        platform: ("windows", "x86_64"),
        tag: "win_amd64",
        wheel: ("d7e0c45cc5f456ad7805e6dd256a7662736cda9c2fd17becae194eb3c2f6df72", 16_695_880),
        member: "onnxruntime/capi/onnxruntime.dll",
        library: "onnxruntime.dll",
        library_file: ("e9feebaed867b76f741c14ae64e056a3da64a153a61994f1fb48eadc7f9b3ba8", 22_668_640),
        // The Windows wheel's texts have Windows line ends.
        license: ("c250d6278f0b47a6439fb7592b08b58a55eb9f535aa49a1db63211c3f982b674", 1094),
        notices: ("bf8073fd6a112ac2a656bb60799652127e881689e51d37ad20df446cd5188b2d", 341_120),
    },
];

/// Puts the library and its licence texts into `.runtime/onnxruntime`, unless `ORT_DYLIB_PATH` names another.
///
/// # Errors
/// No wheel is pinned for this platform, `ORT_DYLIB_PATH` names no file, or the fetch fails.
pub(super) fn install(workspace: &Workspace, python: &Python<'_>) -> Result<()> {
    if let Some(own) = env::var_os("ORT_DYLIB_PATH") {
        if !Path::new(&own).is_file() {
            bail!("ORT_DYLIB_PATH names {}, which is not a file", Path::new(&own).display());
        }
        return Ok(());
    }
    install_for(
        (env::consts::OS, env::consts::ARCH),
        &workspace.runtime().join("onnxruntime"),
        workspace,
        python,
    )
}

/// Puts a platform's library and its licence texts into `folder`.
///
/// # Errors
/// No wheel is pinned for the platform, or the fetch fails.
pub(super) fn install_for(
    platform: (&str, &str),
    folder: &Path,
    workspace: &Workspace,
    python: &Python<'_>,
) -> Result<()> {
    // A glibc library cannot be loaded into a musl program.
    let pin = PINS.iter().find(|pin| pin.platform == platform && !cfg!(target_env = "musl"));
    let Some(pin) = pin else {
        bail!(
            "no ONNX Runtime wheel is known for {} on {}: install ONNX Runtime {VERSION} by other means and set \
             ORT_DYLIB_PATH to its shared library",
            platform.0,
            platform.1
        );
    };
    let member = |name: &str, file: &str, (sha256, bytes): (&str, u64)| Member {
        name: name.into(),
        target: folder.join(file),
        sha256: sha256.into(),
        bytes,
    };
    let file = pin.member.rsplit('/').next().unwrap_or(pin.member);
    install_members(
        workspace,
        python,
        &Wheel {
            package: "onnxruntime",
            version: VERSION,
            tags: Some([
                "--platform",
                pin.tag,
                "--python-version",
                "3.11",
                "--implementation",
                "cp",
                "--abi",
                "cp311",
            ]),
            sha256: pin.wheel.0,
            bytes: pin.wheel.1,
        },
        &[
            member(pin.member, file, pin.library_file),
            member("onnxruntime/LICENSE", "LICENSE", pin.license),
            member("onnxruntime/ThirdPartyNotices.txt", "ThirdPartyNotices.txt", pin.notices),
        ],
    )?;
    link(&folder.join(pin.library), file)
}

/// Makes `link` point at `file` beside it, as library packages do.
#[cfg(unix)]
pub(super) fn link(link: &Path, file: &str) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|target| target == Path::new(file)) {
        return Ok(());
    }
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    std::os::unix::fs::symlink(file, link).with_context(|| format!("cannot link {}", link.display()))
}

/// Elsewhere the library is stored under the name that programs look for.
#[cfg(not(unix))]
pub(super) fn link(link: &Path, _: &str) -> Result<()> {
    link.metadata().map(drop).with_context(|| format!("{} is missing", link.display()))
}
