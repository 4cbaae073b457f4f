//! The container image and the archive: their sources are linted, then both are built, inspected and run.
//!
//! No registry is used. A folder with this checkout's release binary replaces the Dockerfile's Rust stage, and a Debian
//! made from packages replaces Debian's image; all later stages are built as shipped.

mod archive_smoke_test;
mod container;
mod context;
mod engine;
mod files;
mod host_tools;
mod lint;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};

use self::engine::Engine;
use testkit::report::{Report, Suite};
use testkit::workspace::Workspace;
use xtask::dist;

/// The Dockerfile's stages that are shipped, the base image of each, and the build stage that fills it.
const CPU: Target =
    Target { stage: "cpu", base: "docker.io/library/debian:bookworm-slim", filled_by: "build" };
const CUDA: Target = Target {
    stage: "cuda",
    base: "docker.io/nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04",
    filled_by: "build-cuda",
};

/// A stage of the Dockerfile.
struct Target {
    stage: &'static str,
    base: &'static str,
    filled_by: &'static str,
}

/// Working folder and architecture of images.
pub(crate) struct Place {
    /// Everything is built below this folder.
    pub(crate) folder: PathBuf,
    /// Architecture in Debian's and images' terms.
    pub(crate) arch: &'static str,
    /// A static emulator, if this machine's CPU cannot run the programs.
    pub(crate) emulator: Option<PathBuf>,
}

impl Place {
    fn here(workspace: &Workspace) -> Self {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Self { folder: workspace.runtime().join("image"), arch, emulator: None }
    }
}

/// Builds the CPU image from `context`, inspects it, and runs it.
pub(crate) fn run_at(place: Place, workspace: &Workspace, context: &Path, suite: &mut Suite) -> Result<()> {
    if let Err(reason) = host_tools::prepare() {
        suite.skip(reason);
        return Ok(());
    }
    let debian = host_tools::debian(&place)?;
    let engine = Engine::new(place)?;
    build_and_run(&engine, workspace, &debian, context, suite)
}

/// The image of this checkout's release binary, for tests that run containers. Dropping it removes it.
pub(crate) struct Built {
    engine: Engine,
    /// Image id.
    pub(crate) name: String,
}

impl Built {
    /// Builds it; the inner error is the reason why images cannot be built or run on this machine.
    pub(crate) fn new(workspace: &Workspace) -> Result<std::result::Result<Self, String>> {
        if let Err(reason) = host_tools::prepare() {
            return Ok(Err(reason));
        }
        let place = Place::here(workspace);
        let debian = host_tools::debian(&place)?;
        let context = lay_out(workspace)?;
        let engine = Engine::new(place)?;
        engine.import(&debian, CPU.base)?;
        let name = engine.build(workspace, &CPU, &context)?;
        Ok(Ok(Self { engine, name }))
    }

    /// Podman with the store of the image.
    pub(crate) fn podman(&self) -> Command {
        self.engine.podman()
    }
}

/// The build context that replaces the Rust stage.
fn lay_out(workspace: &Workspace) -> Result<PathBuf> {
    let context = workspace.runtime().join("image/context");
    dist::lay_out(workspace, &context.join("opt/embedgate"))?;
    Ok(context)
}

/// Builds and runs the image and the archive. Checks that this machine cannot run are skipped with the reason.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    if !cfg!(target_os = "linux") {
        let mut suite = Suite::new("image and archive");
        suite.skip("both are built on Linux, for Linux");
        report.suites.push(suite);
        return Ok(());
    }
    let started = Instant::now();
    let archive = dist::archive(workspace)?;
    let seconds = started.elapsed().as_secs_f64();
    println!("\n{} in {seconds:.0} s", workspace.display(&archive.path));
    println!("{} bytes, SHA-256 {}", archive.bytes, archive.sha256);

    let mut again = Suite::new("archive");
    again.check("a second archive is identical", || {
        let again = dist::archive(workspace)?;
        ensure!(again.sha256 == archive.sha256, "SHA-256 {} now", again.sha256);
        Ok(())
    });
    report.suites.push(again);

    let context = lay_out(workspace)?;
    report.suites.push(lint::run(workspace, &context.join("opt/embedgate/share/sbom.cdx.json"))?);

    let (mut image, mut smoke_test) =
        (Suite::new("image, built and run"), Suite::new("archive on a minimal Debian 12"));
    match host_tools::prepare() {
        Err(reason) => {
            image.skip(reason.clone());
            smoke_test.skip(reason);
        }
        Ok(()) => {
            let place = Place::here(workspace);
            let debian = host_tools::debian(&place)?;
            archive_smoke_test::run(workspace, &debian, &archive.path, &mut smoke_test)?;
            let engine = Engine::new(place)?;
            build_and_run(&engine, workspace, &debian, &context, &mut image)?;
        }
    }
    report.suites.extend([image, smoke_test]);
    Ok(())
}

fn build_and_run(
    engine: &Engine,
    workspace: &Workspace,
    debian: &Path,
    context: &Path,
    suite: &mut Suite,
) -> Result<()> {
    println!("\n{}", suite.name);
    for base in [CPU.base, CUDA.base] {
        engine.import(debian, base)?;
    }
    let image = engine.build(workspace, &CPU, context)?;
    suite.check("a second image is identical", || {
        let again = engine.build(workspace, &CPU, context)?;
        ensure!(image == again, "{image} and {again}");
        Ok(())
    });
    suite.check("the build context contains the sources and nothing else", || {
        context::check(engine, workspace)
    });
    suite.check("the CUDA stage can be built", || {
        let image = engine.build(workspace, &CUDA, context)?;
        engine.mounted(&image, |root| {
            for part in
                ["bin/embedgate", "lib/libonnxruntime.so", "models/all-MiniLM-L6-v2/model.safetensors"]
            {
                ensure!(root.join("opt/embedgate").join(part).exists(), "{part} is missing");
            }
            Ok(())
        })
    });
    suite.check("it contains the needed files and nothing else", || files::check(engine, &image));
    suite.check("its labels, user, signal and entry point are set", || has_metadata(engine, &image));
    container::run(engine, &image, suite)
}

/// Checks labels, user, signal and entry point.
fn has_metadata(engine: &Engine, image: &str) -> Result<()> {
    let config = engine.inspect(image)?;
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str();
    ensure!(label("version") == Some(env!("CARGO_PKG_VERSION")), "version {:?}", label("version"));
    for name in ["title", "description", "licenses", "source", "revision", "created"] {
        ensure!(label(name).is_some_and(|value| !value.is_empty()), "there is no label {name}");
    }
    ensure!(label("revision") == Some(engine::REVISION), "revision {:?}", label("revision"));
    ensure!(config["User"] == "65532:65532", "user {}", config["User"]);
    ensure!(config["StopSignal"] == "SIGTERM", "signal {}", config["StopSignal"]);
    ensure!(config["Entrypoint"][0] == container::PROGRAM, "entry point {}", config["Entrypoint"]);
    Ok(())
}
