//! A Redis server for one test, on a socket in a temporary folder.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Maximum duration of every wait.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A running server. Dropping it kills the process.
pub(crate) struct Server {
    child: Child,
    folder: Arc<tempfile::TempDir>,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), arguments)
    }

    /// Starts a server at the address of a killed one.
    pub(crate) fn start_in(folder: Arc<tempfile::TempDir>, arguments: &[&str]) -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/redis/redis-server");
        assert!(binary.exists(), "run `cargo xtask setup --redis` first: no {binary:?}");
        let socket = socket(&folder);
        // A killed server leaves its socket.
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(binary);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
        command.arg("--dir").arg(folder.path()).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let server = Self { child, folder };
        wait("the server listens", || socket.exists());
        server
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", socket(&self.folder).display())
    }

    pub(crate) fn client(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Kills the process, like a crash.
    pub(crate) fn kill(mut self) -> Arc<tempfile::TempDir> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Arc::clone(&self.folder)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It can have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("redis.sock")
}

/// Waits until `condition` is true.
#[track_caller]
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
