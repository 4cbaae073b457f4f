//! SIGTERM, SIGINT and SIGHUP as a supervisor or a terminal sends them, during the start, while serving and in the drain.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use testkit::http::{Connection, Reply, request};

/// Maximum time to wait for an event, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Longer than any test takes.
const NEVER: &str = "1h";

struct Program {
    child: Child,
    folder: TempDir,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Program {
    /// `embedgate serve ARGUMENTS` with a tiny model, in an empty folder and with nothing in its environment, run by the
    /// shell after `setup`.
    fn start_after(setup: &str, arguments: &[&str], folder: TempDir) -> Self {
        let log = File::create(folder.path().join("log")).unwrap();
        // A test runner under `nohup` ignores SIGHUP, which a shell cannot undo.
        let mut command = Command::new("env");
        command.args([
            "--default-signal=HUP",
            "sh",
            "-c",
            &format!("{setup} exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_embedgate"),
            "serve",
        ]);
        command.args(["--listen", "127.0.0.1:0", "--model"]);
        // A copy, since the program writes a fingerprint next to the model.
        let model = folder.path().join("bert-mean");
        let tiny = workspace().join("crates/model-import/tests/tiny-models/bert-mean");
        assert!(Command::new("cp").arg("-r").args([&tiny, &model]).status().unwrap().success());
        command.arg(model);
        command.args(arguments).env_clear().current_dir(folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, folder }
    }

    fn start(arguments: &[&str], folder: TempDir) -> Self {
        Self::start_after("", arguments, folder)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until something is found while the program runs.
    #[track_caller]
    fn wait_for<T>(&mut self, found: impl Fn(&Self) -> Option<T>) -> T {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "{ended:?}:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the program serves, and returns its address.
    #[track_caller]
    fn ready(&mut self) -> SocketAddr {
        self.wait_for(|program| {
            let log = program.log();
            log.split_once("listening on http://")?.1.split_once(' ')?.0.parse().ok()
        })
    }

    /// Sends a signal, with the shell's builtin `kill`: a slim machine may lack the program. The process may have ended.
    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {} 2>/dev/null", self.child.id());
        Command::new("sh").args(["-c", &kill]).status().unwrap();
    }

    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it has not ended:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(address: SocketAddr, path: &str) -> Reply {
    let mut connection = Connection::open(address);
    connection.send(&request("GET", path, &[], b""));
    connection.receive()
}

/// A file whose reads never end, as on a volume that does not respond.
fn fifo(folder: &TempDir) -> String {
    let path = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path.to_str().unwrap().to_owned()
}

/// Waits until the program opens the file for reading. It reads while the returned end is open.
#[track_caller]
fn reading(path: &str) -> File {
    let (sender, opened) = mpsc::channel();
    let path = path.to_owned();
    // Opening blocks until there is a reader.
    thread::spawn(move || sender.send(File::options().write(true).open(path)));
    opened.recv_timeout(TIMEOUT).expect("the program never opened the file").unwrap()
}

/// `dlopen` would hold a lock that the exit of the process needs.
#[test]
fn a_library_that_is_not_a_regular_file_is_rejected_and_never_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let library = fifo(&folder);
    let mut program = Program::start(&["--isa", "none", "--onnxruntime-path", &library], folder);
    assert_eq!(program.ended().code(), Some(1), "{}", program.log());
    assert!(program.log().contains("it is not a regular file"), "{}", program.log());
}

#[test]
fn sigterm_ends_a_program_that_hangs_in_its_settings_file() {
    let folder = tempfile::tempdir().unwrap();
    let settings = fifo(&folder);
    let mut program = Program::start(&["--config", &settings], folder);
    let _writer = reading(&settings);
    program.signal("TERM");
    assert_eq!(program.ended().code(), Some(0), "{}", program.log());
    assert_eq!(program.log(), "stopped while reading the settings\n");
}

#[test]
fn sighup_drains_and_a_further_signal_ends_the_shutdown_delay() {
    let mut program = Program::start(&["--shutdown-delay", NEVER], tempfile::tempdir().unwrap());
    let address = program.ready();
    program.signal("HUP");
    program.wait_for(|_| (get(address, "/readyz").status == 503).then_some(()));
    assert_eq!(get(address, "/readyz").text(), "draining\n");
    program.signal("TERM");
    assert_eq!(program.ended().code(), Some(0), "{}", program.log());
    assert!(
        program.log().contains("the shutdown delay ends") && program.log().contains("drained"),
        "{}",
        program.log()
    );
}

/// `nohup` starts programs with SIGHUP ignored.
#[cfg(target_os = "linux")]
#[test]
fn sighup_stays_ignored_if_it_was_at_the_start() {
    let caught = |setup| {
        let mut program = Program::start_after(setup, &[], tempfile::tempdir().unwrap());
        program.ready();
        let status = fs::read_to_string(format!("/proc/{}/status", program.child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & 1 != 0
    };
    assert!(caught("") && !caught("trap '' HUP;"));
}
