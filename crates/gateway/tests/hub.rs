//! Models by name: `embedgate model pull`, `model list` and `serve --model ORG/NAME`, against a local hub that has a
//! tiny model.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use testkit::{
    Program, Server, http,
    hub::{COMMIT, FakeHub, Fault, MODEL, sha256},
    model::copy_tiny,
};

/// Limit of a start that must fail.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The files of a tiny BERT model, and some that embedgate does not need.
fn files() -> Vec<(String, Vec<u8>)> {
    fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, files);
            } else if !path.file_name().unwrap().to_str().unwrap().contains("embedgate") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.push((name, fs::read(path).unwrap()));
            }
        }
    }
    let copy = tempfile::tempdir().unwrap();
    let root = copy.path().join("bert-mean");
    copy_tiny("bert-mean", &root).unwrap();
    let mut files =
        vec![("README.md".to_owned(), b"read me".to_vec()), ("tf_model.h5".to_owned(), vec![0; 9])];
    collect(&root, &root, &mut files);
    files
}

/// A hub, and a folder with an empty cache as the working directory.
struct Setup {
    remote: FakeHub,
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        Self { remote: FakeHub::start(files()).unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("hf")
    }

    /// The program with nothing but the hub in its environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embedgate"));
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("HF_HOME", self.home()).env("HF_ENDPOINT", self.remote.endpoint());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed. Returns its output.
    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with code 1. Returns its error.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}: {error}");
        error
    }
}

/// Asks the server for a vector by this model name. Returns the header that names the model.
#[track_caller]
fn embed(server: &Server, model: &str) -> String {
    let body = json!({"model": model, "input": "hello"}).to_string();
    let reply = http::post(server.address(), "/v1/embeddings", "application/json", &body).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("x-embedgate-model").unwrap().to_owned()
}

#[test]
fn a_pulled_model_is_described_and_served_without_network() {
    let setup = Setup::new();
    let pulled = setup.succeeds(&["model", "pull", MODEL]);
    for part in [
        &format!("acme/tiny · commit {COMMIT} · "),
        "bert · ",
        " dimensions · at most ",
        "serve it with: embedgate serve --model acme/tiny\n",
        setup.home().join("hub/models--acme--tiny/snapshots").to_str().unwrap(),
    ] {
        assert!(pulled.contains(part), "{part:?} is not in:\n{pulled}");
    }
    let again = setup.succeeds(&["model", "pull", MODEL]);
    assert!(again.contains("(0 B downloaded)"), "{again}");

    setup.remote.take_requests();
    let mut command = setup.command(&["serve", "--listen", "127.0.0.1:0", "--model", MODEL]);
    command.env("HF_HUB_OFFLINE", "1");
    let server = Server::start(command).unwrap();
    for name in ["acme/tiny", "tiny", "ACME/Tiny", "text-embedding-3-small"] {
        assert_eq!(embed(&server, name), "tiny", "{name}");
    }
    server.stop().unwrap();
    assert_eq!(setup.remote.take_requests(), [], "serving sends no request to the hub");
}

#[test]
fn serve_pulls_a_missing_model_if_asked_to() {
    let setup = Setup::new();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--model", MODEL];
    let ended = Program::start(setup.command(&arguments)).unwrap().wait(TIMEOUT).unwrap();
    assert!(!ended.status.success());
    assert!(
        ended.log.contains("run `embedgate model pull acme/tiny`, or start with --pull"),
        "{}",
        ended.log
    );
    assert_eq!(setup.remote.take_requests(), [], "without --pull, no request is sent");

    let arguments = [&arguments[..], &["--pull"]].concat();
    for requests_hub in [true, false] {
        let server = Server::start(setup.command(&arguments)).unwrap();
        assert_eq!(embed(&server, "acme/tiny"), "tiny");
        server.stop().unwrap();
        assert_eq!(!setup.remote.take_requests().is_empty(), requests_hub, "a second start needs no network");
    }
}

#[test]
fn an_incomplete_model_of_the_cache_is_completed_or_named() {
    let setup = Setup::new();
    setup.succeeds(&["model", "pull", MODEL]);
    let snapshot = setup.home().join("hub/models--acme--tiny/snapshots").join(COMMIT);
    // As transformers leaves it, which has no use for the pooling.
    fs::remove_file(snapshot.join("modules.json")).unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--model", MODEL];
    let ended = Program::start(setup.command(&arguments)).unwrap().wait(TIMEOUT).unwrap();
    assert!(
        ended.log.contains("run `embedgate model pull acme/tiny`, or start with --pull"),
        "{}",
        ended.log
    );
    let server = Server::start(setup.command(&[&arguments[..], &["--pull"]].concat())).unwrap();
    server.stop().unwrap();
    assert!(snapshot.join("modules.json").is_file());
}

#[test]
fn a_refused_pull_exits_with_code_1_and_the_remedy() {
    let setup = Setup::new();
    setup.remote.fail("/api/", Fault::Status(403, "x-error-code: GatedRepo"));
    let error = setup.fails(&["model", "pull", MODEL]);
    assert!(error.contains("accept its license at http://127.0.0.1:"), "{error}");
    let error = setup.fails(&["model", "pull", "acme/other"]);
    assert!(error.contains("has no model acme/other"), "{error}");
    let error = setup.fails(&["model", "pull", "tiny"]);
    assert!(error.contains("expected ORG/NAME"), "{error}");
    let mut offline = setup.command(&["model", "pull", MODEL]);
    let output = offline.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("HF_HUB_OFFLINE forbids downloads"));
}

#[test]
fn the_token_of_the_environment_is_used_and_never_shown() {
    let setup = Setup::new();
    setup.remote.require_token("hf_secret");
    let mut command = setup.command(&["model", "pull", MODEL]);
    let output = command.env("HF_TOKEN", "hf_secret").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    // The place where `hf auth login` stores it.
    fs::write(setup.home().join("token"), "hf_secret\n").unwrap();
    setup.succeeds(&["model", "pull", MODEL]);
    let shown = setup.command(&["check-config"]).env("HF_TOKEN", "hf_secret").output().unwrap();
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("hf_secret"));
}

#[test]
fn a_model_is_pulled_into_a_folder() {
    let setup = Setup::new();
    let mut command = setup.command(&["model", "pull", MODEL, "--to", "models/tiny"]);
    // As in a container, which has no home folder.
    let output = command.env_remove("HF_HOME").output().unwrap();
    let (said, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("serve it with: embedgate serve --model models/tiny\n"), "{said}{error}");
    assert!(!setup.home().exists());
    let listed = setup.succeeds(&["model", "list", "models"]);
    assert!(listed.starts_with("tiny "), "{listed}");
}

#[test]
fn a_model_is_installed_from_an_archive_or_a_folder() {
    let setup = Setup::new();
    copy_tiny("bert-mean", &setup.folder.path().join("download/small-bert")).unwrap();
    let installed = setup.succeeds(&["model", "pull", "--from", "download/small-bert"]);
    assert!(installed.contains("embedgate serve --model models/small-bert\n"), "{installed}");

    let archive = setup.folder.path().join("packed.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).args(["-C", "download", "small-bert"]).current_dir(setup.folder.path());
    assert!(tar.status().unwrap().success());
    let digest = sha256(&fs::read(&archive).unwrap());
    let installed = setup.succeeds(&["model", "pull", "--from", "packed.tar", "--sha256", &digest]);
    assert!(installed.contains("embedgate serve --model models/packed\n"), "{installed}");
    let error = setup.fails(&["model", "pull", "--from", "packed.tar", "--sha256", &"0".repeat(64)]);
    assert!(error.contains("is damaged: expected the digest 0000"), "{error}");
    let error = setup.fails(&["model", "pull", "--from", "http://127.0.0.1:1/a.tar"]);
    assert!(error.contains("--sha256"), "{error}");
}

#[test]
fn the_list_shows_the_catalogue_and_what_is_installed() {
    let setup = Setup::new();
    copy_tiny("bert-mean", &setup.folder.path().join("models/all-MiniLM-L6-v2")).unwrap();
    setup.succeeds(&["model", "pull", MODEL]);
    let list = setup.succeeds(&["model", "list"]);
    let line =
        |start: &str| list.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{list}"));
    assert!(line("acme/tiny ").contains("from the cache of the model hub"), "{list}");
    assert!(line("sentence-transformers/all-MiniLM-L6-v2 ").ends_with("ready"), "{list}");
    let columns: Vec<&str> = line("BAAI/bge-m3 ").split_whitespace().collect();
    assert_eq!(columns, ["BAAI/bge-m3", "1024", "8192", "multilingual", "MIT", "568M"]);
    assert!(line("google/embeddinggemma-300m ").ends_with("gated"), "{list}");
    let table = list.lines().skip_while(|line| !line.starts_with("MODEL"));
    assert!(
        table.clone().count() > 30 && table.into_iter().all(|line| line.chars().count() <= 120),
        "{list}"
    );

    let lines = setup.succeeds(&["model", "list", "--json"]);
    let models: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |id: &str| models.iter().find(|model| model["id"] == id).unwrap();
    assert_eq!(find("acme/tiny")["installed"], true);
    assert_eq!(find("BAAI/bge-m3")["installed"], false);
    assert_eq!(find("intfloat/e5-base-v2")["prompts"]["query"], "query: ");
}
