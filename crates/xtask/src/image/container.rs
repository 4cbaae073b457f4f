//! A container of the image, run as a careful operator runs it: nothing writable, no rights, not root.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::engine::Engine;
use crate::bench::client::Connection;
use crate::process::capture;
use crate::server::Server;
use crate::test::report::Suite;

/// The image's only program.
pub(super) const PROGRAM: &str = "/opt/embedgate/bin/embedgate";
/// Where the emulator of another processor is put in an image for it.
const EMULATOR: &str = "/emulator";
/// As the Dockerfile has it.
const UID: u32 = 65532;
/// Numbers of one of the default model's vectors.
const DIMENSIONS: usize = 384;

/// Starts a container, asks it, looks at it from inside and outside, and stops it.
///
/// # Errors
/// It does not start. What is wrong with it is in `suite` instead.
pub(super) fn run(engine: &Engine, image: &str, suite: &mut Suite) -> Result<()> {
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        suite.check("without its kernels it says what it lacks", || without_kernels(engine, image));
    }
    let container = Container { engine, name: format!("embedgate-{}", std::process::id()) };
    // The port is the kernel's choice, so that nothing else can hold it; no pause, for nobody waits for it.
    let settings = ["EMBEDGATE_LISTEN=127.0.0.1:0", "EMBEDGATE_SHUTDOWN_DELAY=0s"];
    let server = Server::launch(container.podman_run(image, &settings))?;

    suite.check("it embeds", || embeds(&server));
    suite.check("it runs as nobody, with no rights", || container.has_no_rights());
    suite.check("it cannot write", || container.cannot_write());
    suite.check("it has no shell", || {
        let shell = container.exec(&["/bin/sh", "-c", "exit 0"]);
        let said = shell.err().context("/bin/sh runs")?.to_string();
        ensure!(said.contains("not found"), "{said}");
        Ok(())
    });
    suite.check("its health check tells health from illness", || {
        let address = server.address()?.to_string();
        let health =
            |address| container.exec(&[container.program(), &["health", "--listen", address]].concat());
        let said = health(&address)?;
        ensure!(said.trim() == "ready", "{said}");
        ensure!(health("127.0.0.1:1").is_err(), "nobody is there, and it is healthy");
        Ok(())
    });
    suite.check("it ends on SIGTERM, with code 0", || server.stop());
    Ok(())
}

/// The graph for ONNX Runtime is not in the image, and cannot be written into it.
fn without_kernels(engine: &Engine, image: &str) -> Result<()> {
    let container = Container { engine, name: format!("embedgate-graph-{}", std::process::id()) };
    let mut command = container.podman_run(image, &["EMBEDGATE_ISA=none"]);
    let said = capture(&mut command).err().context("it serves")?.to_string();
    ensure!(said.contains("run `embedgate model import "), "{said}");
    Ok(())
}

/// One text gives one vector of length 1.
pub(super) fn embeds(server: &Server) -> Result<()> {
    let body = r#"{"input": "hello", "model": "text-embedding-3-small"}"#;
    let request = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: embedgate\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = Connection::open(server.address()?)?;
    let head = connection.ask(request.as_bytes())?;
    ensure!(head.status == 200, "status {}: {}", head.status, connection.said());
    let answer: Value = serde_json::from_slice(connection.body()).context("the answer is no JSON")?;
    let vector = answer["data"][0]["embedding"].as_array().context("the answer has no vector")?;
    ensure!(vector.len() == DIMENSIONS, "a vector of {} numbers", vector.len());
    let squares: f64 = vector.iter().filter_map(Value::as_f64).map(|number| number * number).sum();
    ensure!((squares - 1.0).abs() < 1e-3, "a vector of length {}", squares.sqrt());
    Ok(())
}

/// A container by its name. Dropping it removes it, whatever it still does.
struct Container<'a> {
    engine: &'a Engine,
    name: String,
}

impl Container<'_> {
    /// What is executed in it: the program, or what emulates the program's processor, and the program.
    fn program(&self) -> &'static [&'static str] {
        if self.engine.emulator().is_some() { &[EMULATOR, PROGRAM] } else { &[PROGRAM] }
    }

    /// Runs the image as it is meant to be, with further settings.
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
        // Podman's own limits are above what a machine may allow.
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
                // The image's own arguments do not hold for another entry point.
                command.args([&volume, &entry, image, "serve"])
            }
        };
        command
    }

    /// Runs a command inside; yields what it printed.
    fn exec(&self, command: &[&str]) -> Result<String> {
        capture(self.engine.podman().args(["exec", &self.name]).args(command))
    }

    /// The kernel's folder on the container's first process.
    fn process(&self) -> Result<PathBuf> {
        let format = "--format={{.State.Pid}}";
        let id = capture(self.engine.podman().args(["container", "inspect", format, &self.name]))?;
        Ok(PathBuf::from("/proc").join(id.trim()))
    }

    fn has_no_rights(&self) -> Result<()> {
        let path = self.process()?.join("status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
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

    /// Not even this machine's root can, through the container's own view of its files.
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
        // What has ended and gone is no harm.
        let _ = capture(self.engine.podman().args(["rm", "--force", "--ignore", "--time=0", &self.name]));
    }
}
