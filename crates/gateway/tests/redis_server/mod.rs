//! A Redis server for one test, on a socket in a temporary folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tempfile::TempDir;
use testkit::{Program, wait::TIMEOUT};

/// A running server. Dropping it kills the process.
pub(crate) struct Server {
    program: Program,
    folder: Arc<TempDir>,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), arguments)
    }

    /// Starts a server at the address of a killed one.
    pub(crate) fn start_in(folder: Arc<TempDir>, arguments: &[&str]) -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/redis/redis-server");
        assert!(binary.exists(), "run `cargo xtask setup --redis` first: no {binary:?}");
        let socket = socket(&folder);
        // A killed server leaves its socket.
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(binary);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
        command.arg("--dir").arg(folder.path()).args(arguments);
        let mut program = Program::start(command).unwrap();
        program.poll(TIMEOUT, |_| socket.exists().then_some(())).unwrap();
        Self { program, folder }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", socket(&self.folder).display())
    }

    pub(crate) fn client(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Kills the process, like a crash.
    pub(crate) fn kill(mut self) -> Arc<TempDir> {
        self.program.kill().unwrap();
        self.folder
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("redis.sock")
}
