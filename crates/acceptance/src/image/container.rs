//! A container of the image with a read-only file system, without capabilities and not as root.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::engine::Engine;
use testkit::process::capture;
use testkit::report::Suite;
use testkit::{Server, files, http};

/// The only program in the image.
pub(super) const PROGRAM: &str = "/opt/embedgate/bin/embedgate";
/// Path of the CPU emulator in an image for another architecture.
const EMULATOR: &str = "/emulator";
/// As in the Dockerfile.
const UID: u32 = 65532;
/// Dimensions of the default model.
const DIMENSIONS: usize = 384;

/// Starts a container, sends requests, inspects it from inside and outside, and stops it. Failed checks are part of the
/// suite.
pub(super) fn run(engine: &Engine, image: &str, suite: &mut Suite) -> Result<()> {
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        suite.check("without native kernels the error names the missing graph", || {
            without_kernels(engine, image)
        });
    }
    let container = Container { engine, name: format!("embedgate-{}", std::process::id()) };
    // A port chosen by the kernel cannot be in use; no shutdown delay, since no load balancer watches.
    let settings = ["EMBEDGATE_LISTEN=127.0.0.1:0", "EMBEDGATE_SHUTDOWN_DELAY=0s"];
    let server = Server::start(container.podman_run(image, &settings))?;

    suite.check("it embeds", || embeds(&server));
    suite.check("it runs without root and capabilities", || container.has_no_capabilities());
    suite.check("it cannot write", || container.cannot_write());
    suite.check("it has no shell", || {
        let shell = container.exec(&["/bin/sh", "-c", "exit 0"]);
        let said = shell.err().context("/bin/sh runs")?.to_string();
        ensure!(said.contains("not found"), "{said}");
        Ok(())
    });
    suite.check("its health check reports ready and unreachable servers", || {
        let address = server.address().to_string();
        let health =
            |address| container.exec(&[container.program(), &["health", "--listen", address]].concat());
        let said = health(&address)?;
        ensure!(said.trim() == "ready", "{said}");
        ensure!(health("127.0.0.1:1").is_err(), "the health check of an unused port succeeds");
        Ok(())
    });
    suite.check("it ends on SIGTERM, with code 0", || server.stop());
    Ok(())
}

/// The graph for ONNX Runtime is not in the image and cannot be written to it.
fn without_kernels(engine: &Engine, image: &str) -> Result<()> {
    let container = Container { engine, name: format!("embedgate-graph-{}", std::process::id()) };
    let mut command = container.podman_run(image, &["EMBEDGATE_ISA=none"]);
    let said = capture(&mut command).err().context("the server starts")?.to_string();
    ensure!(said.contains("run `embedgate model import "), "{said}");
    Ok(())
}

/// Checks that one text gives one vector of length 1.
pub(super) fn embeds(server: &Server) -> Result<()> {
    let body = r#"{"input": "hello", "model": "text-embedding-3-small"}"#;
    let reply = http::post(server.address(), "/v1/embeddings", "application/json", body)?;
    ensure!(reply.status == 200, "status {}: {}", reply.status, reply.text());
    let answer: Value = serde_json::from_slice(&reply.body).context("the answer is not JSON")?;
    let vector = answer["data"][0]["embedding"].as_array().context("the response has no vector")?;
    ensure!(vector.len() == DIMENSIONS, "a vector of {} dimensions", vector.len());
    let squares: f64 = vector.iter().filter_map(Value::as_f64).map(|number| number * number).sum();
    ensure!((squares - 1.0).abs() < 1e-3, "a vector of length {}", squares.sqrt());
    Ok(())
}

/// A container by its name. Dropping it kills and removes it.
struct Container<'a> {
    engine: &'a Engine,
    name: String,
}

impl Container<'_> {
    /// The command in it: the program, preceded by an emulator for another architecture.
    fn program(&self) -> &'static [&'static str] {
        if self.engine.emulator().is_some() { &[EMULATOR, PROGRAM] } else { &[PROGRAM] }
    }

    /// Runs the image with restricted rights and further settings.
    fn podman_run(&self, image: &str, settings: &[&str]) -> Command {
        let mut command = self.engine.podman();
        command.args([
            "run",
            "--rm",
            "--name",
            &self.name,
            "--pull=never",
            "--network=host",
            "--cgroups=disabled",
        ]);
        // Podman's defaults may exceed the machine's limits.
        command.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
        command.args(["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL"]);
        command.arg("--security-opt=no-new-privileges");
        for setting in settings {
            command.args(["--env", setting]);
        }
        match self.engine.emulator() {
            None => command.arg(image),
            Some(emulator) => {
                let volume = format!("--volume={}:{EMULATOR}:ro", emulator.display());
                let entry = format!("--entrypoint={:?}", self.program());
                // Another entry point replaces the image's arguments, too.
                command.args([&volume, &entry, image, "serve"])
            }
        };
        command
    }

    /// Runs a command inside and returns its output.
    fn exec(&self, command: &[&str]) -> Result<String> {
        capture(self.engine.podman().args(["exec", &self.name]).args(command))
    }

    /// The `/proc` folder of the container's first process.
    fn process(&self) -> Result<PathBuf> {
        let format = "--format={{.State.Pid}}";
        let id = capture(self.engine.podman().args(["container", "inspect", format, &self.name]))?;
        Ok(PathBuf::from("/proc").join(id.trim()))
    }

    fn has_no_capabilities(&self) -> Result<()> {
        let status = files::read_text(&self.process()?.join("status"))?;
        let has = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let (uid, nothing) = (UID.to_string(), "0".repeat(16));
        ensure!(has("Uid:") == [uid.as_str(); 4] && has("Gid:") == [uid.as_str(); 4], "{status}");
        ensure!(has("CapEff:") == [nothing.as_str()] && has("CapBnd:") == [nothing.as_str()], "{status}");
        ensure!(has("NoNewPrivs:") == ["1"], "{status}");
        Ok(())
    }

    /// Checks that not even the host's root can write to the container's mounts.
    fn cannot_write(&self) -> Result<()> {
        let root = self.process()?.join("root");
        for folder in ["", "tmp", "opt/embedgate", "opt/embedgate/models"] {
            let path = root.join(folder).join("written");
            match fs::write(&path, "") {
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                Err(error) if folder == "tmp" && error.kind() == io::ErrorKind::NotFound => {}
                other => ensure!(false, "{}: {other:?}", path.display()),
            }
        }
        Ok(())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Fails if the container is gone, which is the wanted state.
        let _ = capture(self.engine.podman().args(["rm", "--force", "--ignore", "--time=0", &self.name]));
    }
}
