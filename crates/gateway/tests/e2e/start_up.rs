//! A start that fails: one readable error that says what to do, and an exit code other than 0.

use std::{fs, net::TcpListener, path::Path};

use crate::server::{Ended, Program, Server, command, root};

/// `embedgate serve` in `folder`, which must end by itself.
#[track_caller]
fn refused(folder: &Path, arguments: &[&str], said: &[&str]) -> Ended {
    let arguments = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
    let mut command = command(folder, &arguments);
    command.env_remove("ORT_DYLIB_PATH");
    let ended = Program::start(command).0.wait();
    assert!(!ended.status.success(), "{}", ended.log);
    for part in said {
        assert!(ended.log.contains(part), "{part:?} is not in:\n{}", ended.log);
    }
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    ended
}

#[test]
fn a_missing_library_names_the_command_to_run() {
    refused(
        &root(),
        &["--isa", "none", "--onnxruntime-path", "nowhere/libonnxruntime.so"],
        &["nowhere/libonnxruntime.so", "ORT_DYLIB_PATH"],
    );
}

#[test]
fn a_library_that_is_none_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libonnxruntime.so");
    fs::write(&library, "not a library").unwrap();
    refused(
        &root(),
        &["--isa", "none", "--onnxruntime-path", library.to_str().unwrap()],
        &[library.to_str().unwrap(), "ORT_DYLIB_PATH"],
    );
}

#[test]
fn a_missing_model_names_its_folder() {
    // A server that starts proves that nothing else is missing.
    drop(Server::start(&[]));
    refused(&root(), &["--model", "models/no-such-model"], &["models/no-such-model"]);
}

#[test]
fn a_folder_without_weights_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), r#"{"model_type":"bert"}"#).unwrap();
    refused(&root(), &["--model", folder.path().to_str().unwrap()], &[folder.path().to_str().unwrap()]);
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Program::start(command(&root(), &["serve", "--listen", &address])).0.wait();
    assert!(!ended.status.success(), "{}", ended.log);
    assert!(ended.log.contains(&address) && ended.log.contains("in use"), "{}", ended.log);
}

#[test]
fn an_unknown_key_names_itself_its_file_and_the_nearest_known_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my.toml");
    fs::write(&file, "[server]\nkeep_alvie = \"80s\"\n").unwrap();
    refused(&root(), &["--config", file.to_str().unwrap()], &["my.toml", "keep_alvie", "keep_alive"]);
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let ended = refused(&root(), &["--lisen", "127.0.0.1:0"], &["--lisen", "--listen"]);
    assert_eq!(ended.status.code(), Some(2));
}
