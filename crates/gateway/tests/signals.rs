//! SIGTERM and SIGHUP as a supervisor or a terminal sends them: during the start, while serving, and in the drain.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{fs::File, net::SocketAddr, process::Command, sync::mpsc, thread};

use tempfile::TempDir;
use testkit::{
    Program,
    http::get,
    model::copy_tiny,
    wait::{TIMEOUT, until},
};

/// Starts `embedgate serve ARGUMENTS` with a tiny model, in `folder` and with nothing in its environment, from a shell
/// that has run `setup`.
fn start_after(setup: &str, arguments: &[&str], folder: &TempDir) -> Program {
    // A copy, since the program writes a fingerprint next to the model.
    copy_tiny("bert-mean", &folder.path().join("bert-mean")).unwrap();
    let mut command = Command::new("env");
    command.args([
        // A test runner under `nohup` ignores SIGHUP, which a shell cannot undo.
        "--default-signal=HUP",
        "sh",
        "-c",
        &format!("{setup} exec \"$0\" \"$@\""),
        env!("CARGO_BIN_EXE_embedgate"),
        "serve",
    ]);
    command.args(["--listen", "127.0.0.1:0", "--model", "bert-mean"]).args(arguments);
    command.env_clear().current_dir(folder.path());
    Program::start(command).unwrap()
}

fn start(arguments: &[&str], folder: &TempDir) -> Program {
    start_after("", arguments, folder)
}

/// Waits until the program serves, and returns its address.
#[track_caller]
fn ready(program: &mut Program) -> SocketAddr {
    let address = program.poll(TIMEOUT, |program| {
        let log = program.log();
        log.split_once("listening on http://")?.1.split_once(' ')?.0.parse().ok()
    });
    address.unwrap()
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
    let program = start(&["--isa", "none", "--onnxruntime-path", &fifo(&folder)], &folder);
    let ended = program.wait(TIMEOUT).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("it is not a regular file"), "{}", ended.log);
}

#[test]
fn sigterm_ends_a_program_that_hangs_in_its_settings_file() {
    let folder = tempfile::tempdir().unwrap();
    let settings = fifo(&folder);
    let program = start(&["--config", &settings], &folder);
    let _writer = reading(&settings);
    program.signal("TERM").unwrap();
    let ended = program.wait(TIMEOUT).unwrap();
    assert_eq!((ended.status.code(), &*ended.log), (Some(0), "stopped while reading the settings\n"));
}

#[test]
fn sighup_drains_and_a_further_signal_ends_the_shutdown_delay() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than the test takes.
    let mut program = start(&["--shutdown-delay", "1h"], &folder);
    let address = ready(&mut program);
    program.signal("HUP").unwrap();
    until("/readyz fails", || get(address, "/readyz").unwrap().status == 503);
    assert_eq!(get(address, "/readyz").unwrap().text(), "draining\n");
    program.signal("TERM").unwrap();
    let ended = program.wait(TIMEOUT).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    for line in ["the shutdown delay ends", "drained"] {
        assert!(ended.log.contains(line), "{}", ended.log);
    }
}

/// `nohup` starts programs with SIGHUP ignored.
#[cfg(target_os = "linux")]
#[test]
fn sighup_stays_ignored_if_it_was_at_the_start() {
    let is_caught = |setup| {
        let folder = tempfile::tempdir().unwrap();
        let mut program = start_after(setup, &[], &folder);
        ready(&mut program);
        let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & 1 != 0
    };
    assert!(is_caught("") && !is_caught("trap '' HUP;"));
}
