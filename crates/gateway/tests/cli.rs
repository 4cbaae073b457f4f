//! The command line: help, exit codes, standard output and standard error.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use insta::assert_snapshot;

/// Runs the program in an empty folder, with nothing in its environment.
fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), arguments, &[])
}

fn run_in(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_embedgate"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs the program, which must exit with `code` and print nothing. Returns its error output.
#[track_caller]
fn fails(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!((output.status.code(), &*out(&output)), (Some(code), ""), "{arguments:?}");
    err(&output)
}

/// The first `lines` lines.
fn head(text: &str, lines: usize) -> String {
    text.lines().take(lines).collect::<Vec<_>>().join("\n")
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

#[test]
fn help_is_a_page() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert_snapshot!(head(&out(&help), 14), @r"
    Serves text embeddings over OpenAI's API.

    Without a command, `serve` is meant.

    Usage: embedgate [COMMAND]

    Commands:
      serve         Serve embeddings over HTTP (the default)
      check-config  Show every setting with its source, or what is wrong with them
      health        Ask a running server whether it is ready, for containers
      status        Show the load of a running server as a table, refreshed in place
      similarity    Compare texts: print the cosine similarity of each pair
      model         Download, import, list or verify models
      help          Print this message or the help of the given subcommand(s)
    ");
    assert!(out(&help).contains("Examples:\n  embedgate  "), "{}", out(&help));
}

#[test]
fn help_shows_variables_and_defaults_but_no_values() {
    let folder = tempfile::tempdir().unwrap();
    let help = out(&run_in(folder.path(), &["serve", "--help"], &[("EMBEDGATE_LISTEN", "127.0.0.1:4711")]));
    for part in ["Main settings:", "Server:", "Limits:", "Log:", "Examples:", "EMBEDGATE_API_KEYS"] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("[default: 127.0.0.1:8080] [env: EMBEDGATE_LISTEN]"), "{words}");
    assert!(words.contains("[default: 90s] [env: EMBEDGATE_KEEP_ALIVE]"), "{words}");
    assert!(!help.contains("4711"));
    // The short help leaves the finer settings out.
    let short = out(&run(&["serve", "-h"]));
    assert!(short.contains("--listen") && !short.contains("--keep-alive"), "{short}");
}

#[test]
fn the_version_is_the_packages() {
    let version = run(&["--version"]);
    assert_eq!(out(&version), format!("embedgate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_mistyped_flag_exits_with_code_2_and_names_the_nearest_one() {
    let message = fails(2, &["serve", "--lisen", "127.0.0.1:0"]);
    assert!(message.contains("--listen"), "{message}");
    for arguments in [&["serv"][..], &["--listen", "nowhere"], &["model"]] {
        fails(2, arguments);
    }
}

#[test]
fn settings_that_cannot_work_exit_with_code_2() {
    assert_snapshot!(fails(2, &["check-config", "--max-queue-tokens", "5"]), @"error: `max_queue_tokens` of model `all-MiniLM-L6-v2` is 5, but one request may have 300000 tokens: raise `max_queue_tokens` or lower `limits.max_request_tokens`");
    let message = fails(2, &["serve", "--config", "nowhere.toml"]);
    let start = "error: cannot read the settings file nowhere.toml\n  because: ";
    assert!(message.starts_with(start), "{message}");
}

#[test]
fn a_failed_start_exits_with_code_1_and_the_reason() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let message = fails(1, &["serve", "--listen", &address]);
    assert!(message.contains(&format!("cannot listen on {address}: ")), "{message}");
    let message = fails(1, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(message.contains("because: there is no such folder in /"), "{message}");
}

#[test]
fn a_number_above_its_bound_is_code_2() {
    let message = fails(2, &["check-config", "--http-workers", "513", "--threads", "99999999999"]);
    assert_snapshot!(message, @r"
    error: `--http-workers` is 513, but may be 512 at most
    `--threads` is 99999999999, but may be 1024 at most
    ");
}

#[test]
fn an_instruction_set_of_another_architecture_is_code_2() {
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    let message = fails(2, &["check-config", "--isa", foreign]);
    let start = format!(
        "error: `isa` of model `all-MiniLM-L6-v2` is `{foreign}`, which no {} CPU has: write `auto`, ",
        std::env::consts::ARCH
    );
    assert!(message.starts_with(&start), "{message}");
}

#[test]
fn an_unknown_variable_is_code_2_and_its_value_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["check-config", "serve", "health"] {
        let output = run_in(folder.path(), &[command], &[("EMBEDGATE_API_KEY", "sk-secret")]);
        assert_eq!(output.status.code(), Some(2));
        let expected = "error: unknown variable `EMBEDGATE_API_KEY`; did you mean `EMBEDGATE_API_KEYS`?\n";
        assert_eq!(err(&output), expected);
    }
    // What Kubernetes sets for a Service that is called embedgate.
    let links = [("EMBEDGATE_PORT", "tcp://10.0.0.1:80"), ("EMBEDGATE_SERVICE_HOST", "10.0.0.1")];
    assert_eq!(run_in(folder.path(), &["check-config"], &links).status.code(), Some(0));
}

#[test]
fn a_flag_of_other_servers_is_answered_with_the_one_here() {
    for arguments in [["--bind", "0.0.0.0"], ["--hostname", "0.0.0.0"], ["--address=::", "--port=9000"]] {
        let message = fails(2, &arguments);
        let tip = "tip: --listen takes address and port in one, such as --listen 127.0.0.1:8080";
        assert!(message.contains(tip), "{message}");
    }
}

#[test]
fn a_host_or_a_port_that_cannot_be_used_is_answered_with_an_example() {
    for (arguments, parts) in [
        (["--port", "http"], ["`--port` is \"http\"", "such as \"9000\""]),
        (["--port", ":9000"], ["`--port` is \":9000\"", "such as \"9000\""]),
        (
            ["--host", "0.0.0.0:80"],
            ["`--host` is \"0.0.0.0:80\"", "\"0.0.0.0\" or \"::\" for every interface"],
        ),
        (["--host", "*"], ["`--host` is \"*\"", "\"0.0.0.0\" or \"::\" for every interface"]),
    ] {
        let message = fails(2, &[&["check-config"][..], &arguments].concat());
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let message = fails(2, &["--listen", ":80", "--port", "9000"]);
    assert!(message.contains("cannot be used with"), "{message}");
    let warned = err(&run(&["check-config", "--host", "0.0.0.0", "--port", "9000"]));
    assert!(warned.starts_with("warning: listening on 0.0.0.0:9000 without API keys"), "{warned}");
}

#[test]
fn a_former_flag_is_answered_with_its_present_name() {
    for (old, new) in [
        ("--grace-pause", "--shutdown-delay"),
        ("--redis-url", "--cache-redis-url"),
        ("--overlong", "--truncation"),
        ("--log", "--log-filter"),
    ] {
        let message = fails(2, &["serve", old, "1"]);
        assert!(message.contains(&format!("tip: {old} is now called {new}\n")), "{message}");
    }
}

#[test]
fn an_invalid_address_is_answered_with_the_accepted_forms() {
    for address in ["localhost", "http://localhost:8080", "0.0.0.0", "localhost:http"] {
        let message = fails(2, &["check-config", "--listen", address]);
        for form in ["\"localhost:8080\"", "\":8080\" for every"] {
            assert!(message.contains(form), "{message}");
        }
    }
}

#[test]
fn a_missing_model_is_answered_with_how_to_get_it() {
    let message = fails(1, &["serve", "--listen", "127.0.0.1:0", "--model", "BAAI/bge-small-en-v1.5"]);
    let command = "`embedgate model pull BAAI/bge-small-en-v1.5`";
    assert!(message.contains(command), "{message}");

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("models/own")).unwrap();
    for arguments in
        [&["serve", "--listen", "127.0.0.1:0", "--model", "own"][..], &["model", "verify", "own"]]
    {
        let output = run_in(folder.path(), arguments, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains("but there is models/own: name models/own"), "{}", err(&output));
    }
}

#[test]
fn help_advises_no_project_tool() {
    for command in [&["serve"][..], &["check-config"], &["health"], &["model", "verify"], &["model", "bench"]]
    {
        let help = out(&run(&[command, &["--help"]].concat()));
        assert!(help.contains("Usage:") && !help.contains("xtask"), "{help}");
    }
}

#[test]
fn without_a_command_it_serves() {
    // Without a model it cannot, but it says so as `serve` does.
    let flags = run(&["--listen", "127.0.0.1:0"]);
    assert_eq!(flags.status.code(), Some(1));
    let folder = tempfile::tempdir().unwrap();
    let bare = run_in(folder.path(), &[], &[("EMBEDGATE_LISTEN", "127.0.0.1:0")]);
    assert_eq!(bare.status.code(), Some(1));
    for output in [flags, bare] {
        assert!(err(&output).contains("there is no such folder"), "{}", err(&output));
    }
}

#[test]
fn check_config_shows_sources_and_hides_keys() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("EMBEDGATE_API_KEYS", "alice=sk-1,sk-2"), ("EMBEDGATE_THREADS", "3")];
    let output = run_in(folder.path(), &["check-config", "--listen", "0.0.0.0:80"], &variables);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let printed = out(&output);
    let line = |name: &str| {
        let line = printed.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("listen"), "listen = \"0.0.0.0:80\" # flag");
    assert_eq!(line("threads"), "threads = 3 # EMBEDGATE_THREADS");
    assert_eq!(line("# api_keys"), "# api_keys: 2 (alice, key-2) # EMBEDGATE_API_KEYS");
    assert!(line("http_workers").starts_with("http_workers = 0 # default, here "));
    assert!(!printed.contains("sk-") && err(&output).is_empty());
}

#[cfg(unix)]
#[test]
fn an_endless_settings_file_is_rejected() {
    let message = fails(2, &["check-config", "--config", "/dev/zero"]);
    assert!(message.contains("it is larger than 1048576 bytes"), "{message}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_embedgate"))
        .arg("check-config")
        .env_clear()
        .current_dir(folder.path())
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!((output.status.code(), &*err(&output)), (Some(0), ""));
}

#[test]
fn check_config_warns_about_an_open_server() {
    let output = run(&["check-config", "--listen", "0.0.0.0:80"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(err(&output).starts_with("warning: listening on 0.0.0.0:80 without API keys"));
}

#[test]
fn lists_follow_the_same_precedence() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("config")).unwrap();
    let file = "default_model = \"f\"\n[aliases]\nx = \"f\"\n[[models]]\npath = \"m/f\"\n";
    std::fs::write(folder.path().join("config/embedgate.toml"), file).unwrap();
    let variables =
        [("EMBEDGATE_MODELS", "m/a,m/b"), ("EMBEDGATE_DEFAULT_MODEL", "b"), ("EMBEDGATE_ALIASES", "y=a,z=b")];
    let lines = |arguments: &[&str], variables: &[(&str, &str)]| {
        let printed = out(&run_in(folder.path(), arguments, variables));
        let wanted = |line: &&str| ["default_model", "\"", "id"].iter().any(|start| line.starts_with(start));
        let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        printed.lines().filter(wanted).map(squeeze).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(lines(&["check-config"], &[]), @r#"
    default_model = "f" # config/embedgate.toml
    "x" = "f" # config/embedgate.toml
    id = "f" # config/embedgate.toml
    "#);
    assert_snapshot!(lines(&["check-config"], &variables), @r#"
    default_model = "b" # EMBEDGATE_DEFAULT_MODEL
    "y" = "a" # EMBEDGATE_ALIASES
    "z" = "b" # EMBEDGATE_ALIASES
    id = "a" # EMBEDGATE_MODELS
    id = "b" # EMBEDGATE_MODELS
    "#);
    let flags = ["check-config", "--model", "m/c", "--default-model", "c", "--alias", "w=c"];
    assert_snapshot!(lines(&flags, &variables), @r#"
    default_model = "c" # flag
    "w" = "c" # flag
    id = "c" # flag
    "#);
}

#[test]
fn a_list_is_the_same_by_repeated_flags_by_commas_and_by_line_breaks() {
    let folder = tempfile::tempdir().unwrap();
    let shown = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = run_in(folder.path(), &[&["check-config"], arguments].concat(), variables);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        // Without the sources, which differ.
        out(&output)
            .lines()
            .map(|line| line.split("  # ").next().unwrap().trim().to_owned())
            .collect::<Vec<_>>()
    };
    for (flag, variable, [first, second]) in [
        ("--model", "EMBEDGATE_MODELS", ["m/a", "m/b"]),
        ("--alias", "EMBEDGATE_ALIASES", ["x=all-MiniLM-L6-v2", "y=all-MiniLM-L6-v2"]),
        ("--cors-origins", "EMBEDGATE_CORS_ORIGINS", ["https://a.example", "https://b.example"]),
        ("--matryoshka-dimensions", "EMBEDGATE_MATRYOSHKA_DIMENSIONS", ["64", "128"]),
    ] {
        let repeated = shown(&[flag, first, flag, second], &[]);
        assert_ne!(repeated, shown(&[flag, first], &[]), "{flag}");
        assert_eq!(shown(&[flag, &format!("{first},{second}")], &[]), repeated, "{flag}");
        for list in [format!("{first},{second}"), format!("\n  {first} ,\r\n{second}\n")] {
            assert_eq!(shown(&[], &[(variable, &list)]), repeated, "{variable}={list:?}");
        }
    }
}

#[test]
fn health_requests_readyz_at_the_listen_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        for response in ["200 OK\r\n\r\nok\n", "503 Service Unavailable\r\n\r\nloading\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 512];
            let count = stream.read(&mut asked).unwrap();
            assert!(asked[..count].starts_with(b"GET /readyz "));
            stream.write_all(format!("HTTP/1.1 {response}").as_bytes()).unwrap();
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let ready = run_in(folder.path(), &["health"], &[("EMBEDGATE_LISTEN", &address)]);
    assert_eq!((ready.status.code(), out(&ready).as_str()), (Some(0), "ready\n"));
    let loading = fails(1, &["health", "--listen", &address]);
    assert_eq!(loading, format!("error: {address} is not ready: 503 loading\n"));
    server.join().unwrap();
    let gone = fails(1, &["health", "--listen", &address]);
    assert!(gone.starts_with(&format!("error: no response from {address}\n  because: ")), "{gone}");
}

#[test]
fn model_list_names_what_is_missing() {
    let output = run(&["model", "list", &models().to_string_lossy()]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let line = out(&output).lines().find(|line| line.starts_with("all-MiniLM-L6-v2 ")).map(str::to_owned);
    let line = line.unwrap();
    assert!(line.contains("384 dimensions") && line.contains("256"), "{line}");

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("models/empty")).unwrap();
    let output = run_in(folder.path(), &["model", "list"], &[]);
    assert!(out(&output).contains("incomplete: "), "{}", out(&output));
}

#[test]
fn model_commands_on_a_missing_folder_exit_with_code_1() {
    for command in ["import", "verify", "list"] {
        let message = fails(1, &["model", command, "nowhere"]);
        assert!(message.starts_with("error: ") && message.contains("nowhere"), "{message}");
    }
}
