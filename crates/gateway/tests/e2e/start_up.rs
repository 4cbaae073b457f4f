//! Failing starts: one readable error with the remedy, and an exit code other than 0.

use std::{fs, net::TcpListener, path::Path};

use testkit::ExitReport;

use crate::server::{Server, command, root, run};

/// Runs `embedgate serve` in `folder`, which must fail with these parts of an error.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str], parts: &[&str]) -> ExitReport {
    let arguments = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
    let mut command = command(folder, &arguments);
    command.env_remove("ORT_DYLIB_PATH");
    let ended = run(command);
    assert!(!ended.status.success(), "{}", ended.log);
    for part in parts {
        assert!(ended.log.contains(part), "{part:?} is not in:\n{}", ended.log);
    }
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    ended
}

#[test]
fn a_missing_library_is_named_with_the_remedy() {
    fails(
        &root(),
        &["--isa", "none", "--onnxruntime-path", "nowhere/libonnxruntime.so"],
        &["nowhere/libonnxruntime.so", "ORT_DYLIB_PATH"],
    );
}

#[test]
fn an_invalid_library_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libonnxruntime.so");
    fs::write(&library, "not a library").unwrap();
    fails(
        &root(),
        &["--isa", "none", "--onnxruntime-path", library.to_str().unwrap()],
        &[library.to_str().unwrap(), "ORT_DYLIB_PATH"],
    );
}

#[test]
fn a_missing_model_folder_is_named() {
    // Nothing else is missing if a server starts.
    drop(Server::start(&[]));
    fails(&root(), &["--model", "models/no-such-model"], &["models/no-such-model"]);
}

#[test]
fn a_folder_without_weights_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), r#"{"model_type":"bert"}"#).unwrap();
    fails(&root(), &["--model", folder.path().to_str().unwrap()], &[folder.path().to_str().unwrap()]);
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = run(command(&root(), &["serve", "--listen", &address]));
    assert!(!ended.status.success(), "{}", ended.log);
    assert!(ended.log.contains(&address) && ended.log.contains("in use"), "{}", ended.log);
}

#[test]
fn an_unknown_key_is_named_with_its_file_and_the_nearest_known_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my.toml");
    fs::write(&file, "[server]\nkeep_alvie = \"80s\"\n").unwrap();
    fails(&root(), &["--config", file.to_str().unwrap()], &["my.toml", "keep_alvie", "keep_alive"]);
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let ended = fails(&root(), &["--lisen", "127.0.0.1:0"], &["--lisen", "--listen"]);
    assert_eq!(ended.status.code(), Some(2));
}
