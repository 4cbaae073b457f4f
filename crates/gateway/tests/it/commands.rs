//! The commands `status` and `similarity`: the program against a server of the test.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::model::copy_tiny;

use crate::app::TestApp;

/// Runs the program with `input` as its standard input and only these variables.
fn run(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_embedgate"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end before it reads all of it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[track_caller]
fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The error of a command that must exit with code 1 and print nothing else.
#[track_caller]
fn error(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn url(app: &TestApp) -> String {
    format!("http://{}", app.address)
}

/// A copy of a tiny model, next to which the program may write, and its path.
fn tiny(name: &str) -> (TempDir, String) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join(name);
    copy_tiny(name, &folder).unwrap();
    let path = folder.to_str().unwrap().to_owned();
    (parent, path)
}

#[test]
fn status_prints_one_table_without_a_terminal() {
    let app = TestApp::start();
    app.post(r#"{"model":"m","input":["a","b"]}"#);
    app.post(r#"{"model":"unknown","input":"a"}"#);
    app.wait_for_metric(r#"embedgate_request_duration_seconds_count{model="tiny",outcome="success"} 1"#);
    app.wait_for_metric(r#"embedgate_errors_total{code="model_not_found"} 1"#);
    let shown = out(&run(&["status", &url(&app)], &[], ""));
    let lines: Vec<&str> = shown.lines().collect();
    let version = env!("CARGO_PKG_VERSION");
    assert!(lines[0].starts_with(&format!("embedgate {version} · ready · up ")), "{shown}");
    assert_eq!(lines[1], url(&app));
    let cells = |line: &&str| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    assert!(lines.iter().map(cells).any(|cells| cells == ["requests", "2"]), "{shown}");
    assert!(lines.iter().any(|line| line.trim_start().starts_with("model_not_found  1")), "{shown}");
    assert!(lines.iter().any(|line| line.starts_with("tiny   embed")), "{shown}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80 && !line.contains('\x1b')), "{shown}");
}

#[test]
fn status_prints_the_json_of_the_server() {
    let app = TestApp::builder().key("team", "secret").start();
    let shown = out(&run(&["status", "--json", "--api-key", "secret", &url(&app)], &[], ""));
    let status: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&status["object"], &status["access"]["keys"]), (&json!("status"), &json!(true)));
    // The key may be in the variable, and the address that of OpenAI's SDKs.
    let address = format!("{}/v1", app.address);
    out(&run(&["status", "--once", &address], &[("OPENAI_API_KEY", "secret")], ""));
}

#[test]
fn status_tells_what_is_wrong_with_the_server() {
    let app = TestApp::builder().key("team", "secret").start();
    let missing = error(&run(&["status", &url(&app)], &[], ""));
    assert!(missing.contains("requires an API key: name one by --api-key"), "{missing}");
    let wrong = error(&run(&["status", "--api-key", "wrong", &url(&app)], &[], ""));
    assert!(wrong.contains("does not accept the API key: Incorrect API key provided"), "{wrong}");
    assert!(!wrong.contains("wrong"), "{wrong}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let gone = error(&run(&["status", &address], &[], ""));
    assert!(
        gone.starts_with(&format!(
            "error: no response from http://{address}/status: is the server running?\n  because: "
        )),
        "{gone}"
    );
    let invalid = error(&run(&["status", "ftp://host"], &[], ""));
    assert!(invalid.contains("`ftp://host` is not the address of a server"), "{invalid}");
}

#[test]
fn status_recognizes_another_server() {
    for (response, said) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n<p>x", "the body is not JSON"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "the JSON is not a status"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404"),
        ("SSH-2.0-x\r\n\r\n", "the response is not HTTP"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(response.as_bytes()).unwrap();
        });
        let message = error(&run(&["status", &address], &[], ""));
        assert!(message.contains("did not answer as embedgate does") && message.contains(said), "{message}");
        server.join().unwrap();
    }
}

#[test]
fn similarity_with_a_server_prints_the_matrix() {
    let app = TestApp::builder().key("team", "secret").start();
    let variables = [("OPENAI_API_KEY", "secret")];
    let shown = out(&run(&["similarity", "--url", &url(&app), "a cat", "a dog"], &variables, ""));
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "               1       2");
    assert!(lines[1].starts_with("1  a cat  1.0000 ") && lines[2].starts_with("2  a dog  "), "{shown}");
    assert!(lines[2].ends_with("  1.0000"), "{shown}");
    let arguments = ["similarity", "--json", "--model", "m", "--url", &url(&app), "a", "-"];
    let shown = out(&run(&arguments, &variables, "b\na\n"));
    let result: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&result["model"], &result["texts"]), (&json!("m"), &json!(["a", "b", "a"])));
    let matrix = &result["similarities"];
    assert!((matrix[0][2].as_f64().unwrap() - 1.0).abs() < 1e-6, "{matrix}");
    assert_eq!(matrix[0][1], matrix[1][0]);
    let unknown = run(&["similarity", "--model", "x", "--url", &url(&app), "a", "b"], &variables, "");
    assert!(error(&unknown).contains("answered 404: The model `x` does not exist"));
}

#[test]
fn similarity_loads_a_model_without_a_server() {
    let (_folder, model) = tiny("bert-mean");
    let output = run(&["similarity", "--json", "--model", &model, "a cat", "a cat", "the dog"], &[], "");
    let result: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((&result["model"], &result["object"]), (&json!("bert-mean"), &json!("similarities")));
    assert!((result["similarities"][0][1].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert!(result["similarities"][0][2].as_f64().unwrap() < 0.9999);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "loading is quiet");
}

#[test]
fn similarity_needs_texts_and_a_model_that_embeds() {
    let one = error(&run(&["similarity", "-"], &[], "a\n"));
    assert_eq!(one, "error: expected at least two texts to compare\n");
    let missing = error(&run(&["similarity", "--model", "no/model", "a", "b"], &[], ""));
    assert!(missing.starts_with("error: cannot serve the model"), "{missing}");
    let (_folder, reranker) = tiny("ce-bert");
    let wrong = error(&run(&["similarity", "--model", &reranker, "a", "b"], &[], ""));
    assert!(wrong.contains("name one that embeds texts"), "{wrong}");
}
