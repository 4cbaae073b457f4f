//! Settings: where they come from, what is refused, what is never shown, and the page that lists them.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gateway::cli;
use gateway::config::{
    ApiKey, ApiKeyError, Config, ConfigError, FileProblem, Flags, Problem, Resolved, Secret, Settings, Shown,
    Source, Surroundings, Table, defaults,
};
use proptest::prelude::{ProptestConfig, Strategy, any, proptest};
use tempfile::TempDir;

/// A working directory with this settings file in its usual place.
fn folder(file: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("config")).unwrap();
    fs::write(folder.path().join("config/embedgate.toml"), file).unwrap();
    folder
}

fn surroundings(folder: &Path) -> Surroundings {
    Surroundings {
        working_directory: folder.to_owned(),
        executable: None,
        processors: 3,
        api_keys: None,
        ort_dylib_path: None,
    }
}

fn resolve(file: &str) -> Result<Resolved, ConfigError> {
    Config::resolve(&Flags::default(), &surroundings(folder(file).path()))
}

/// Line and problem of each mistake in `file`.
#[track_caller]
fn mistakes(file: &str) -> Vec<(usize, FileProblem)> {
    match resolve(file) {
        Err(ConfigError::File(errors)) => {
            errors.into_iter().map(|error| (error.line, error.problem)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn problems(file: &str) -> Vec<Problem> {
    match resolve(file) {
        Err(ConfigError::Problems(problems)) => problems,
        other => panic!("{other:?}"),
    }
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn shipped() -> String {
    fs::read_to_string(project("config/embedgate.toml")).unwrap()
}

/// The shipped file with every setting in force.
fn uncommented() -> String {
    // Prose has a space after the `#`, a setting or a heading has none.
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') && !setting.is_empty() => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    shipped().lines().map(line).collect()
}

#[test]
fn the_shipped_file_changes_nothing() {
    assert_eq!(resolve(&shipped()).unwrap().config, Config::builtin(3));
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    let resolved = resolve(&uncommented()).unwrap();
    // Two keys have no default; what the file shows for them is an example.
    let mut config = resolved.config;
    config.onnxruntime = None;
    config.models[0].window = None;
    assert_eq!(config, Config::builtin(3));
    for (said, default) in resolved.report.settings.iter().zip(defaults().settings) {
        assert_eq!(said.name, default.name);
        if default.value != Shown::Unset && default.source == Source::Default {
            assert_eq!(said.value, default.value, "{}", said.name);
        }
        let from_file = matches!(said.source, Source::File(_));
        assert!(from_file, "{} is not in the shipped file", said.name);
    }
}

#[test]
fn every_key_has_a_flag_and_a_variable_and_nothing_else_has() {
    let serve = cli::command().find_subcommand("serve").unwrap().clone();
    let flags: BTreeSet<_> = serve.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let mut keys: BTreeSet<_> =
        defaults().settings.iter().filter_map(|key| key.arg).map(str::to_owned).collect();
    // The file's own path, and the two lists that are whole tables there.
    keys.extend(["config", "models", "aliases"].map(str::to_owned));
    assert_eq!(flags, keys);
    for arg in serve.get_arguments() {
        let variable = format!("EMBEDGATE_{}", arg.get_id().as_str().to_uppercase());
        assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        assert!(arg.get_long().is_some() && arg.get_help().is_some(), "{}", arg.get_id());
    }
    let without_flag: Vec<_> = defaults().settings.into_iter().filter(|key| key.arg.is_none()).collect();
    for key in without_flag {
        let listed = matches!(key.table, Table::Named("aliases") | Table::Model(_));
        assert!(listed || key.name == "api_keys", "{} has no flag", key.name);
    }
}

/// Table, key, clap's id, and three values in TOML: for the file, the variable, the flag.
const KEYS: [(&str, &str, &str, [&str; 3]); 24] = [
    ("", "listen", "listen", ["\"127.0.0.1:1\"", "\"127.0.0.1:2\"", "\"[::1]:3\""]),
    ("", "onnxruntime", "onnxruntime", ["\"a.so\"", "\"b.so\"", "\"c.so\""]),
    ("server", "http_workers", "http_workers", ["1", "2", "3"]),
    ("server", "keep_alive", "keep_alive", ["\"81s\"", "\"82s\"", "\"83500ms\""]),
    ("server", "client_timeout", "client_timeout", ["\"1s\"", "\"2s\"", "\"3s\""]),
    ("server", "request_timeout", "request_timeout", ["\"4s\"", "\"5s\"", "\"6s\""]),
    ("server", "max_connections", "max_connections", ["11", "12", "13"]),
    ("server", "grace_pause", "grace_pause", ["\"7s\"", "\"8s\"", "\"9s\""]),
    ("server", "drain_timeout", "drain_timeout", ["\"10s\"", "\"11s\"", "\"12s\""]),
    ("limits", "max_inputs", "max_inputs", ["14", "15", "16"]),
    ("limits", "max_request_tokens", "max_request_tokens", ["1001", "1002", "1003"]),
    ("limits", "max_body_bytes", "max_body_bytes", ["2001", "2002", "2003"]),
    ("log", "format", "log_format", ["\"json\"", "\"text\"", "\"json\""]),
    ("log", "filter", "log", ["\"warn\"", "\"debug\"", "\"error\""]),
    ("models", "provider", "provider", ["\"cuda\"", "\"cuda:1\"", "\"cuda:2\""]),
    ("models", "threads", "threads", ["4", "5", "6"]),
    ("models", "workers", "workers", ["7", "8", "9"]),
    ("models", "overlong", "overlong", ["\"average\"", "\"error\"", "\"average\""]),
    ("models", "token_ids", "token_ids", ["\"o200k_base\"", "\"native\"", "\"reject\""]),
    ("models", "matryoshka", "matryoshka", ["[1]", "[2]", "[3]"]),
    ("models", "batch_tokens", "batch_tokens", ["5001", "5002", "5003"]),
    ("models", "batch_inputs", "batch_inputs", ["21", "22", "23"]),
    ("models", "queue_tokens", "queue_tokens", ["700001", "700002", "700003"]),
    ("models", "window", "window", ["101", "102", "103"]),
];

/// What `check-config` prints when each key is given by the sources in its mask (1 file, 2 variable, 4 flag).
fn check_config(masks: &[u8]) -> String {
    let mut tables: BTreeMap<&str, String> = BTreeMap::new();
    let mut program = Command::new(env!("CARGO_BIN_EXE_embedgate"));
    program.arg("check-config").env_clear();
    for ((table, name, arg, [file, variable, flag]), mask) in KEYS.into_iter().zip(masks) {
        let plain = |toml: &str| toml.trim_matches(['"', '[', ']']).to_owned();
        let text = tables.entry(table).or_default();
        if mask & 1 != 0 {
            writeln!(text, "{name} = {file}").unwrap();
        }
        if mask & 2 != 0 {
            // The one list loses its brackets, the one address keeps them.
            program.env(format!("EMBEDGATE_{}", arg.to_uppercase()), plain(variable));
        }
        if mask & 4 != 0 {
            let value = if arg == "listen" { flag.trim_matches('"').to_owned() } else { plain(flag) };
            program.arg(format!("--{}={value}", arg.replace('_', "-")));
        }
    }
    let mut file = tables.remove("").unwrap_or_default();
    for (table, text) in tables {
        let heading = if table == "models" { "[[models]]\npath = \"m/a\"" } else { &format!("[{table}]") };
        write!(file, "{heading}\n{text}").unwrap();
    }
    let folder = folder(&file);
    let output = program.current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn assert_precedence(masks: &[u8]) {
    let printed = check_config(masks);
    let defaults = defaults();
    for ((_, name, arg, [file, variable, flag]), mask) in KEYS.into_iter().zip(masks) {
        let default = defaults.settings.iter().find(|setting| setting.arg == Some(arg)).unwrap();
        let (value, source) = match (mask & 4 != 0, mask & 2 != 0, mask & 1 != 0) {
            (true, ..) => (flag, "flag".to_owned()),
            (_, true, _) => (variable, format!("EMBEDGATE_{}", arg.to_uppercase())),
            (.., true) => (file, "config/embedgate.toml".to_owned()),
            _ => match &default.value {
                // Twice another key, which is among those that change.
                _ if arg == "queue_tokens" => ("", "default".to_owned()),
                Shown::Toml(value) => (value.as_str(), "default".to_owned()),
                _ => continue,
            },
        };
        let found = printed.lines().find(|line| {
            line.starts_with(&format!("{name} = {value}")) && line.contains(&format!("# {source}"))
        });
        assert!(found.is_some(), "{name} should be {value} by {source} in\n{printed}");
    }
}

#[test]
fn each_source_alone_and_all_together() {
    for mask in 0..8 {
        assert_precedence(&[mask; KEYS.len()]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flag_over_variable_over_file_over_default(
        masks in proptest::collection::vec(any::<u8>().prop_map(|mask| mask % 8), KEYS.len())
    ) {
        assert_precedence(&masks);
    }
}

#[test]
fn the_report_is_a_settings_file_that_says_the_same() {
    let file = uncommented().replace("\"127.0.0.1:8080\"", "\"0.0.0.0:99\"").replace("90s", "1500ms");
    let first = resolve(&file).unwrap();
    let second = resolve(&first.report.to_string()).unwrap();
    assert_eq!(second.config, first.config);
}

#[test]
fn a_window_may_be_set_and_unset() {
    let model =
        |line: &str| resolve(&format!("[[models]]\npath = \"m\"\n{line}")).unwrap().config.models.remove(0);
    assert_eq!(model("").window, None);
    assert_eq!(model("window = 64").window, Some(64));
    assert_eq!(model("matryoshka = [256, 64, 256]").matryoshka, [64, 256]);
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    #[track_caller]
    fn check(file: &str, at: usize, key: &str, nearest: Option<&str>) {
        let nearest = nearest.map(str::to_owned);
        assert_eq!(mistakes(file), [(at, FileProblem::UnknownKey { key: key.to_owned(), nearest })]);
    }
    check("\nlisten_on = 1", 2, "listen_on", Some("listen"));
    check("[server]\nkeepalive = \"1s\"", 2, "server.keepalive", Some("server.keep_alive"));
    check("[limit]\nmax_inputs = 1", 1, "limit", Some("limits"));
    check("[[model]]\npath = \"a\"", 1, "model", Some("models"));
    check("max_inputs = 1", 1, "max_inputs", Some("limits.max_inputs"));
    check("threads = 1", 1, "threads", Some("models.threads"));
    check("[[models]]\npath = \"a\"\nbatch_token = 1", 3, "models.batch_token", Some("models.batch_tokens"));
    check("zzz = 1", 1, "zzz", None);
}

#[test]
fn a_wrong_value_names_line_key_and_what_is_expected() {
    #[track_caller]
    fn check(file: &str, message: &str) {
        let Err(error) = resolve(file) else { panic!("{file} was accepted") };
        assert_eq!(error.to_string(), message);
    }
    check(
        "[server]\n\nkeep_alive = \"soon\"",
        "config/embedgate.toml:3: `server.keep_alive` is \"soon\"; \
         expected a duration such as \"90s\", \"500ms\" or \"2m\"",
    );
    check(
        "[limits]\nmax_inputs = 0",
        "config/embedgate.toml:2: `limits.max_inputs` is 0; expected a whole number, at least 1",
    );
    check(
        "[[models]]\npath = \"a\"\nprovider = \"cdua\"",
        "config/embedgate.toml:3: `models.provider` is \"cdua\"; expected \"cpu\", \"cuda\" or \"cuda:1\"",
    );
    check("[[models]]\nid = \"a\"", "config/embedgate.toml:1: `models.path` is missing");
    check(
        "[models]\npath = \"a\"",
        "config/embedgate.toml:1: `models` is no list of tables; expected a heading `[[models]]` for each model",
    );
    check("server = 1", "config/embedgate.toml:1: `server` is 1; expected a table");
    check(
        "[aliases]\na.b = \"c\"",
        "config/embedgate.toml:2: `aliases.a` is of type table; expected a string in quotes",
    );
    // One mistake does not hide another.
    assert_eq!(mistakes("listen = 1\n[server]\nkeep_alive = true\nfoo = 1").len(), 3);
    assert!(matches!(mistakes("a = \n")[..], [(1, FileProblem::Syntax(_))]));
}

#[test]
fn durations_are_read_in_every_unit() {
    for (text, milliseconds) in [("\"90s\"", 90_000), ("\"500ms\"", 500), ("\"2m\"", 120_000), ("7", 7000)] {
        let config = resolve(&format!("[server]\ngrace_pause = {text}")).unwrap().config;
        assert_eq!(config.server.grace_pause.as_millis(), milliseconds, "{text}");
    }
    for text in ["\"\"", "\"s\"", "\"-1s\"", "\"1.5s\"", "\"1d\"", "\"99999999999999999h\"", "-1", "1.5"] {
        assert_eq!(mistakes(&format!("[server]\ngrace_pause = {text}")).len(), 1, "{text}");
    }
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { config: Some("other.toml".into()), ..Settings::default() };
    let flags = Flags { settings, ..Flags::default() };
    let missing = Config::resolve(&flags, &surroundings(folder.path()));
    assert!(matches!(missing, Err(ConfigError::Read { path, .. }) if path == Path::new("other.toml")));
    let none = Config::resolve(&Flags::default(), &surroundings(folder.path())).unwrap();
    assert_eq!(none.config, Config::builtin(3));
}

#[test]
fn what_cannot_work_is_refused() {
    let model = |id: &str| format!("[[models]]\npath = \"m/{id}\"\n");
    assert_eq!(problems("models = []"), [Problem::NoModel]);
    assert_eq!(problems(&(model("a") + &model("a"))), [Problem::DuplicateModel { id: "a".to_owned() }]);
    assert_eq!(problems("[[models]]\npath = \"..\""), [Problem::UnnamedModel { path: PathBuf::from("..") }]);
    assert_eq!(
        problems(&format!("default_model = \"b\"\naliases = {{}}\n{}", model("a"))),
        [Problem::UnknownDefault { id: "b".to_owned(), models: "a".to_owned() }]
    );
    assert_eq!(
        problems(&format!("[aliases]\nx = \"b\"\n{}", model("a"))),
        [Problem::UnknownAlias { alias: "x".to_owned(), id: "b".to_owned(), models: "a".to_owned() }]
    );
    assert_eq!(
        problems(&format!("[aliases]\na = \"a\"\n{}", model("a"))),
        [Problem::ShadowingAlias { alias: "a".to_owned() }]
    );
    assert_eq!(problems("[server]\nrequest_timeout = 0"), [Problem::NoTime]);
    assert!(matches!(problems("[log]\nfilter = \"info,,=x=y\"")[..], [Problem::LogFilter { .. }]));
    assert_eq!(
        problems("[auth]\napi_keys = [\"a=1\", \"a=2\"]"),
        [Problem::ApiKey(ApiKeyError::DuplicateName { name: "a".to_owned() })]
    );
}

#[test]
fn every_legal_request_must_fit_the_queue() {
    let with = |lines: &str| format!("[limits]\nmax_inputs = 10\n[[models]]\npath = \"a\"\n{lines}");
    let small = |queue_tokens, needed| [Problem::SmallQueue { model: "a".to_owned(), queue_tokens, needed }];
    assert_eq!(problems(&with("queue_tokens = 299999")), small(299_999, 300_000));
    assert!(resolve(&with("queue_tokens = 300000")).is_ok());
    // Ten texts, each cut at 100 tokens, are the most; unless all windows of a text are read.
    assert!(resolve(&with("queue_tokens = 1000\nwindow = 100")).is_ok());
    assert_eq!(problems(&with("queue_tokens = 999\nwindow = 100")), small(999, 1000));
    let averaged = with("queue_tokens = 1000\nwindow = 100\noverlong = \"average\"");
    assert_eq!(problems(&averaged), small(1000, 300_000));
    assert_eq!(
        problems(&with("batch_tokens = 99\nwindow = 100")),
        [Problem::SmallBatch { model: "a".to_owned(), batch_tokens: 99, window: 100 }]
    );
    let grown = resolve("[limits]\nmax_request_tokens = 5000000").unwrap().config;
    assert_eq!(grown.models[0].queue_tokens, 10_000_000);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let warnings = |file: &str| resolve(file).unwrap().warnings;
    assert_eq!(warnings(""), Vec::<String>::new());
    assert!(warnings("listen = \"0.0.0.0:80\"")[0].contains("without API keys"));
    assert_eq!(warnings("listen = \"0.0.0.0:80\"\n[auth]\napi_keys = [\"k\"]"), Vec::<String>::new());
    assert!(warnings("[server]\nkeep_alive = \"74s\"")[0].contains("keep_alive"));
}

#[test]
fn models_from_outside_replace_those_of_the_file() {
    let file = "default_model = \"a\"\n[aliases]\nx = \"a\"\ny = \"c\"\n[[models]]\npath = \"m/a\"\n";
    let settings = Settings { models: Some(vec!["m/b".into(), "m/c".into()]), ..Settings::default() };
    let flags = Flags { settings, ..Flags::default() };
    let resolved = Config::resolve(&flags, &surroundings(folder(file).path())).unwrap();
    let ids: Vec<_> = resolved.config.models.iter().map(|model| model.id.as_str()).collect();
    assert_eq!(ids, ["b", "c"]);
    assert_eq!(resolved.config.default_model, "b");
    assert_eq!(resolved.config.aliases, BTreeMap::from([("y".to_owned(), "c".to_owned())]));
    assert!(resolved.warnings[0].contains("`x`"), "{:?}", resolved.warnings);

    let resolved = Config::resolve(&flags, &surroundings(tempfile::tempdir().unwrap().path())).unwrap();
    assert!(resolved.config.aliases.values().all(|id| id == "b") && resolved.config.aliases.len() == 3);
}

#[test]
fn a_model_may_have_one_of_the_openai_names() {
    let config = resolve("[[models]]\nid = \"text-embedding-3-small\"\npath = \"m\"").unwrap().config;
    assert!(!config.aliases.contains_key("text-embedding-3-small") && config.aliases.len() == 2);
}

#[test]
fn onnxruntime_is_found_where_it_is_put() {
    let folder = folder("");
    let name = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
    let place = |path: &str| {
        let folder = folder.path().join(path);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), "").unwrap();
        folder.join(name)
    };
    let found = |surroundings: &Surroundings| {
        Config::resolve(&Flags::default(), surroundings).unwrap().config.onnxruntime
    };
    let mut around = surroundings(folder.path());
    around.executable = Some(folder.path().join("app/bin/embedgate"));
    assert_eq!(found(&around), None);
    let set_up = place(".runtime/onnxruntime");
    assert_eq!(found(&around), Some(set_up));
    let beside = place("app/bin");
    assert_eq!(found(&around), Some(beside));
    place("app/lib");
    let library = found(&around).unwrap();
    assert_eq!(library, folder.path().join("app/bin/../lib").join(name));
    around.ort_dylib_path = Some("elsewhere.so".into());
    assert_eq!(found(&around), Some("elsewhere.so".into()));
}

#[test]
fn keys_are_hashed_and_never_shown() {
    const SECRETS: [&str; 3] = ["sk-first", "sk-second", "s=k,t"];
    let mut around = surroundings(folder("").path());
    around.api_keys = Some(Secret("alice=sk-first, sk-second".into()));
    let flags = Flags::default();
    let resolved = Config::resolve(&flags, &around).unwrap();
    let keys = &resolved.config.auth.keys;
    assert_eq!(keys[..], [ApiKey::new("alice", "sk-first"), ApiKey::new("key-2", "sk-second")]);
    assert_ne!(keys[0].sha256, keys[1].sha256);
    // SHA-256 of `sk-first`, by coreutils' sha256sum.
    let hex: String = keys[0].sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "2a19f16bb2586edf26ab5186503c69b4b6e37edcd08ab5c98c97f5320c5ed5c5");

    let file = "[auth]\napi_keys = [\"alice=sk-first\", \"sk-second\"]";
    let from_file = resolve(file).unwrap();
    assert_eq!(from_file.config.auth, resolved.config.auth);
    let wrong = [
        "[auth]\napi_keys = \"sk-first\"",
        "auth = \"sk-first\"",
        "[auth]\napi_keys = [\"sk-first\", 1]",
        "[auth]\napi_keys = [\"sk-first\", \"sk-second\"",
        "[auth]\napi_key = \"sk-first\"",
        "[auth]\napi_keys = [\"a=sk-first\", \"a=sk-second\"]",
    ];
    let mut shown = vec![
        format!("{around:?} {resolved:?} {from_file:?}"),
        resolved.report.to_string(),
        from_file.report.to_string(),
    ];
    shown.extend(wrong.map(|file| {
        let error = resolve(file).unwrap_err();
        format!("{error} {error:?}")
    }));
    for text in &shown {
        assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
    assert!(shown[1].contains("# api_keys: 2 (alice, key-2)"), "{}", shown[1]);
}

#[test]
fn a_key_that_was_not_filled_in_is_refused() {
    for keys in ["", ",", "a=1,", "alice=", "=secret", " "] {
        let mut around = surroundings(folder("").path());
        around.api_keys = Some(Secret(keys.into()));
        let refused = Config::resolve(&Flags::default(), &around);
        let Err(ConfigError::Problems(problems)) = refused else { panic!("{keys:?} was accepted") };
        assert!(matches!(problems[..], [Problem::ApiKey(ApiKeyError::Empty { .. })]), "{keys:?}");
    }
}

#[test]
fn the_page_of_settings_is_up_to_date() {
    let serve = cli::command().find_subcommand("serve").unwrap().clone();
    let mut page = String::from(
        "<!-- Generated by a test from crates/gateway/src/config/settings.rs. -->\n\n# Settings\n\n\
         A setting is taken from its flag, else from its variable, else from the settings file \
         (`config/embedgate.toml`, or the one that `--config` or `EMBEDGATE_CONFIG` names), else its default \
         holds. `embedgate check-config` shows what holds and where it comes from. Unknown keys and values \
         that cannot work are errors, with exit code 2.\n\n\
         Durations are a number with `ms`, `s`, `m` or `h`. Lists are arrays in the file, and separated by \
         commas in a variable; their flags may be repeated.\n",
    );
    let mut heading = String::new();
    for setting in defaults().settings {
        let table = match setting.table {
            Table::Top => "Top of the file".to_owned(),
            Table::Named(name) => format!("`[{name}]`"),
            Table::Model(_) => {
                "`[[models]]`, one for each model (a flag or variable holds for all of them)".to_owned()
            }
        };
        if table != heading {
            writeln!(page, "\n## {table}\n").unwrap();
            heading = table;
            if setting.table == Table::Named("aliases") {
                page.push_str(
                    "Other names for models, each a key with a model's id as its value. Flag `--alias NAME=ID`, \
                     variable `EMBEDGATE_ALIASES`. By default OpenAI's names stand for the default model:\n\n",
                );
            } else {
                page.push_str("| key | default | flag | variable | what |\n|---|---|---|---|---|\n");
            }
        }
        let default = match &setting.value {
            Shown::Toml(value) if setting.source == Source::Default => format!("`{value}`"),
            _ => "none".to_owned(),
        };
        if setting.table == Table::Named("aliases") {
            writeln!(page, "- `{} = {}`", setting.name, default.trim_matches('`')).unwrap();
            continue;
        }
        let arg = setting.arg.and_then(|id| serve.get_arguments().find(|arg| arg.get_id() == id));
        let (flag, variable, help) = match (arg, setting.name.as_str()) {
            (Some(arg), _) => {
                let help = arg.get_help().unwrap().to_string();
                let help = help.split(" [default:").next().unwrap_or_default().replace('\n', " ");
                let variable = arg.get_env().unwrap().to_string_lossy().into_owned();
                (format!("`--{}`", arg.get_long().unwrap()), format!("`{variable}`"), help)
            }
            (None, "api_keys") => (
                "none".to_owned(),
                "`EMBEDGATE_API_KEYS`".to_owned(),
                "Keys that are let in, as `name=key` or `key`; only their SHA-256 is kept. With none, everyone \
                 is let in"
                    .to_owned(),
            ),
            (None, "id") => ("none".to_owned(), "none".to_owned(), "Name that clients send. Without it, the folder's name".to_owned()),
            (None, "path") => (
                "`--model`".to_owned(),
                "`EMBEDGATE_MODELS`".to_owned(),
                "The model's folder. Flag and variable replace all models of the file".to_owned(),
            ),
            (None, name) => panic!("{name} is not described"),
        };
        writeln!(page, "| `{}` | {default} | {flag} | {variable} | {help}. |", setting.name).unwrap();
    }
    page.push_str(
        "\n`ORT_DYLIB_PATH` names ONNX Runtime's library too; `--onnxruntime` and `EMBEDGATE_ONNXRUNTIME` win \
         over it, and it wins over the file.\n",
    );
    let path = project("docs/CONFIG.md");
    let stale = fs::read_to_string(&path).ok().as_deref() != Some(page.as_str());
    if stale {
        fs::write(&path, page).unwrap();
    }
    assert!(!stale, "docs/CONFIG.md was stale and has been written anew: commit it");
}
