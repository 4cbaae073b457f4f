//! The container image and the archive: their sources are checked, then both are made, looked at and run.
//!
//! No registry is asked. A folder with this checkout's release binary takes the place of the Dockerfile's Rust stage,
//! and a Debian made from packages that of Debian's image; everything after these is built as it is shipped.

mod bare;
mod checked;
mod container;
mod context;
mod engine;
mod files;
mod machine;

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};

use self::engine::Engine;
use crate::dist;
use crate::test::report::{Report, Suite};
use crate::workspace::Workspace;

/// The Dockerfile's stages that are shipped, the base image of each, and the build stage that fills it.
const CPU: Target =
    Target { stage: "cpu", base: "docker.io/library/debian:bookworm-slim", filled_by: "build" };
const CUDA: Target = Target {
    stage: "cuda",
    base: "docker.io/nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04",
    filled_by: "build-cuda",
};

/// What can be built from the Dockerfile.
struct Target {
    stage: &'static str,
    base: &'static str,
    filled_by: &'static str,
}

/// Where images are made, and for which processors.
pub(crate) struct Place {
    /// Everything that is made lies below.
    pub(crate) folder: PathBuf,
    /// As Debian and images call the processors.
    pub(crate) arch: &'static str,
    /// One static file that runs their programs, where this machine's processor does not.
    pub(crate) emulator: Option<PathBuf>,
}

impl Place {
    fn here(workspace: &Workspace) -> Self {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Self { folder: workspace.runtime().join("image"), arch, emulator: None }
    }
}

/// Builds the image for processors from `context`, looks at it, and runs it.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_at(
    place: Place,
    workspace: &Workspace,
    context: &std::path::Path,
    suite: &mut Suite,
) -> Result<()> {
    if let Err(reason) = machine::prepare() {
        suite.skip(reason);
        return Ok(());
    }
    let debian = machine::debian(&place)?;
    let engine = Engine::new(place)?;
    build_and_run(&engine, workspace, &debian, context, suite)
}

/// The image of this checkout's release binary, for those who run containers of it. Dropping it removes it.
pub(crate) struct Built {
    engine: Engine,
    /// Its id.
    pub(crate) name: String,
}

impl Built {
    /// Builds it; the inner error is the reason why images cannot be built or run on this machine.
    ///
    /// # Errors
    /// The build fails on a machine on which it should not.
    pub(crate) fn new(workspace: &Workspace) -> Result<std::result::Result<Self, String>> {
        if let Err(reason) = machine::prepare() {
            return Ok(Err(reason));
        }
        let place = Place::here(workspace);
        let debian = machine::debian(&place)?;
        let context = laid_out(workspace)?;
        let engine = Engine::new(place)?;
        engine.import(&debian, CPU.base)?;
        let name = engine.build(workspace, &CPU, &context)?;
        Ok(Ok(Self { engine, name }))
    }

    /// Podman with the store that the image is in.
    pub(crate) fn podman(&self) -> Command {
        self.engine.podman()
    }
}

/// The build context that takes the place of the Rust stage.
fn laid_out(workspace: &Workspace) -> Result<PathBuf> {
    let context = workspace.runtime().join("image/context");
    dist::lay_out(workspace, &context.join("opt/embedgate"))?;
    Ok(context)
}

/// Makes the image and the archive and runs them; what this machine cannot do is skipped, with the reason.
///
/// # Errors
/// The machine's own part of the work fails. What is wrong with image and archive is in the report instead.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    if !cfg!(target_os = "linux") {
        let mut suite = Suite::new("image and archive");
        suite.skip("both are made on Linux, for Linux");
        report.suites.push(suite);
        return Ok(());
    }
    let begun = Instant::now();
    let archive = dist::archive(workspace)?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("\n{} in {seconds:.0} s", workspace.shown(&archive.path));
    println!("{} bytes, SHA-256 {}", archive.bytes, archive.sha256);

    let mut again = Suite::new("archive");
    again.check("the same input gives the same archive", || {
        let again = dist::archive(workspace)?;
        ensure!(again.sha256 == archive.sha256, "SHA-256 {} now", again.sha256);
        Ok(())
    });
    report.suites.push(again);

    let context = laid_out(workspace)?;
    report.suites.push(checked::run(workspace, &context.join("opt/embedgate/share/sbom.cdx.json"))?);

    let (mut image, mut bare) =
        (Suite::new("image, built and run"), Suite::new("archive on a bare Debian 12"));
    match machine::prepare() {
        Err(reason) => {
            image.skip(reason.clone());
            bare.skip(reason);
        }
        Ok(()) => {
            let place = Place::here(workspace);
            let debian = machine::debian(&place)?;
            bare::run(workspace, &debian, &archive.path, &mut bare)?;
            let engine = Engine::new(place)?;
            build_and_run(&engine, workspace, &debian, &context, &mut image)?;
        }
    }
    report.suites.extend([image, bare]);
    Ok(())
}

fn build_and_run(
    engine: &Engine,
    workspace: &Workspace,
    debian: &std::path::Path,
    context: &std::path::Path,
    suite: &mut Suite,
) -> Result<()> {
    println!("\n{}", suite.name);
    for base in [CPU.base, CUDA.base] {
        engine.import(debian, base)?;
    }
    let image = engine.build(workspace, &CPU, context)?;
    suite.check("the same input gives the same image", || {
        let again = engine.build(workspace, &CPU, context)?;
        ensure!(image == again, "{image} and {again}");
        Ok(())
    });
    suite.check("a builder is sent what it needs, and no more", || context::check(engine, workspace));
    suite.check("the stage for CUDA can be filled", || {
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
    suite.check("its files are what it needs, and no more", || files::check(engine, &image));
    suite.check("it says what it is", || says_what_it_is(engine, &image));
    container::run(engine, &image, suite)
}

/// Labels, user, signal and entry point.
fn says_what_it_is(engine: &Engine, image: &str) -> Result<()> {
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

impl Suite {
    /// Counts one check and shows how it ended.
    pub(crate) fn check(&mut self, what: &str, check: impl FnOnce() -> Result<()>) {
        let begun = Instant::now();
        match check() {
            Ok(()) => {
                self.passed += 1;
                println!("  ok - {what} ({:.1} s)", begun.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!("  not ok - {what}: {error:#}");
                self.fail(format!("{what}: {error:#}"));
            }
        }
    }
}
