//! ONNX Runtime's shared library, from the wheels pinned in `onnxruntime.toml`.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use testkit::files;
use testkit::workspace::Workspace;

use super::python::Python;
use super::wheel::{Member, Pin, Wheel, install as install_members};

/// A build of ONNX Runtime.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Flavor {
    Cpu,
    /// With the CUDA 13 provider.
    Cuda,
    /// With the OpenVINO provider.
    Openvino,
}

#[derive(Deserialize)]
struct WheelPins {
    wheel: Vec<WheelPin>,
}

#[derive(Deserialize)]
struct WheelPin {
    flavor: Flavor,
    /// `std::env::consts::{OS, ARCH}`.
    platform: (String, String),
    #[serde(flatten)]
    wheel: Wheel,
    /// The name that programs look for.
    link: String,
    files: Vec<PinnedFile>,
}

#[derive(Deserialize)]
struct PinnedFile {
    path: String,
    #[serde(flatten)]
    pin: Pin,
}

/// Puts the library and its license texts into `.runtime/onnxruntime`, unless `ORT_DYLIB_PATH` names another library.
pub(super) fn install(workspace: &Workspace, python: &Python<'_>) -> Result<()> {
    if let Some(own) = env::var_os("ORT_DYLIB_PATH") {
        if !Path::new(&own).is_file() {
            bail!("ORT_DYLIB_PATH names {}, which is not a file", Path::new(&own).display());
        }
        return Ok(());
    }
    let here = (env::consts::OS, env::consts::ARCH);
    install_for(Flavor::Cpu, here, &workspace.runtime().join("onnxruntime"), workspace, python)
}

/// Puts a platform's library and its license texts into `folder`.
pub(super) fn install_for(
    flavor: Flavor,
    platform: (&str, &str),
    folder: &Path,
    workspace: &Workspace,
    python: &Python<'_>,
) -> Result<()> {
    let pins: WheelPins =
        toml::from_str(include_str!("onnxruntime.toml")).context("in setup/onnxruntime.toml")?;
    let matches = |pin: &&WheelPin| {
        pin.flavor == flavor && (pin.platform.0.as_str(), pin.platform.1.as_str()) == platform
    };
    // A glibc library cannot be loaded into a musl program.
    let Some(pin) = pins.wheel.iter().find(matches).filter(|_| !cfg!(target_env = "musl")) else {
        bail!(
            "no ONNX Runtime wheel ({flavor:?}) is pinned for {} on {}: install ONNX Runtime by other means and set \
             ORT_DYLIB_PATH to its shared library",
            platform.0,
            platform.1
        );
    };
    let file_name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let members: Vec<Member> = pin
        .files
        .iter()
        .map(|file| Member {
            name: file.path.clone(),
            target: folder.join(file_name(&file.path)),
            pin: file.pin.clone(),
        })
        .collect();
    install_members(workspace, python, &pin.wheel, &members)?;
    let library = pin.files.first().context("a wheel without files in setup/onnxruntime.toml")?;
    // A symbolic link in the same folder, as library packages have it.
    let (link, file) = (folder.join(&pin.link), file_name(&library.path));
    if !fs::read_link(&link).is_ok_and(|target| target == Path::new(&file)) {
        files::remove(&link)?;
        symlink(&file, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    Ok(())
}
