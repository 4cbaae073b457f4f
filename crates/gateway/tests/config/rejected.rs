//! Settings that cannot work, and the errors about them.

use std::collections::BTreeMap;

use bert_cpu::Isa;
use gateway::config::{CliArgs, Config, ConfigError, ProcessEnv, Setting, Table, defaults, settings};

use crate::{args, environment, folder, resolve, with_variable};

/// All problems with a settings file that holds `file`, as printed.
#[track_caller]
fn problems(file: &str) -> Vec<String> {
    match resolve(file) {
        Err(ConfigError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

/// Asserts that `file` has exactly one problem, whose text begins and ends so.
#[track_caller]
fn assert_problem(file: &str, start: &str, end: &str) {
    let found = problems(file);
    assert!(found.len() == 1 && found[0].starts_with(start) && found[0].ends_with(end), "{found:?}");
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    #[track_caller]
    fn check(file: &str, at: usize, key: &str, nearest: Option<&str>) {
        let nearest = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
        assert_eq!(problems(file), [format!("config/embedgate.toml:{at}: unknown key `{key}`{nearest}")]);
    }
    check("\nlisten_on = 1", 2, "listen_on", Some("listen"));
    check("[server]\nkeepalive = \"1s\"", 2, "server.keepalive", Some("server.keep_alive"));
    check("[limit]\nmax_inputs = 1", 1, "limit", Some("limits"));
    check("[[model]]\npath = \"a\"", 1, "model", Some("models"));
    check("max_inputs = 1", 1, "max_inputs", Some("limits.max_inputs"));
    check("threads = 1", 1, "threads", Some("models.threads"));
    check(
        "[[models]]\npath = \"a\"\nbatch_token = 1",
        3,
        "models.batch_token",
        Some("models.max_batch_tokens"),
    );
    check("port = 8080", 1, "port", Some("listen"));
    check("[server]\nhost = \"0.0.0.0\"", 2, "server.host", Some("listen"));
    check("config = \"a.toml\"", 1, "config", None);
    check("zzz = 1", 1, "zzz", None);
}

#[test]
fn a_former_key_or_variable_is_answered_with_its_present_name() {
    for (file, line, key, new) in [
        ("[server]\ngrace_pause = \"1s\"", 2, "server.grace_pause", "server.shutdown_delay"),
        ("[limits]\nredis_down = \"open\"", 2, "limits.redis_down", "limits.redis_failure_mode"),
        ("[auth]\nkeys_file = \"a\"", 2, "auth.keys_file", "auth.api_keys_file"),
        ("[[models]]\npath = \"a\"\nwindow = 7", 3, "models.window", "models.max_input_tokens"),
        ("onnxruntime = \"a.so\"", 1, "onnxruntime", "onnxruntime_path"),
    ] {
        assert_eq!(problems(file), [format!("config/embedgate.toml:{line}: `{key}` is now called `{new}`")]);
    }
    for (variable, new) in [
        ("EMBEDGATE_GRACE_PAUSE", "EMBEDGATE_SHUTDOWN_DELAY"),
        ("EMBEDGATE_REDIS_URL", "EMBEDGATE_CACHE_REDIS_URL"),
        ("EMBEDGATE_LOG", "EMBEDGATE_LOG_FILTER"),
    ] {
        let Err(error) = Config::resolve(&CliArgs::default(), &with_variable(variable, "1")) else {
            panic!("{variable} was accepted")
        };
        assert_eq!(error.to_string(), format!("the variable `{variable}` is now called `{new}`"));
    }
    // The error for a former value lists the present ones.
    let error = resolve("[limits]\nredis_failure_mode = \"closed\"").unwrap_err().to_string();
    assert!(error.ends_with("is \"closed\"; expected \"fail-open\" or \"fail-closed\""), "{error}");
}

#[test]
fn wrong_values_of_all_sources_are_reported_together() {
    let folder = folder("[server]\nkeep_alive = \"soon\"");
    let variables = BTreeMap::from([("EMBEDGATE_CACHE_MEMORY".to_owned(), "much".into())]);
    let env = ProcessEnv { variables, ..environment(folder.path()) };
    let error = Config::resolve(&args(&["--threads", "x", "--max-inputs", "0"]), &env).unwrap_err();
    let expected = [
        "`--max-inputs` is 0; expected a whole number, at least 1",
        "`EMBEDGATE_CACHE_MEMORY` is \"much\"; expected a size such as \"32MiB\" or \"1GiB\", or a number of bytes",
        "`--threads` is \"x\"; expected a whole number",
        "config/embedgate.toml:2: `server.keep_alive` is \"soon\"; expected a duration such as \"90s\", \"500ms\" or \
         \"2m\"",
    ];
    assert_eq!(error.to_string(), expected.join("\n"));
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
        "config/embedgate.toml:3: `models.provider` is \"cdua\"; expected \"cpu\", \"openvino\", \"cuda\" or \
         \"cuda:1\"",
    );
    check(
        "[[models]]\npath = \"a\"\ndynamic_quantization = \"batched\"",
        "config/embedgate.toml:3: `models.dynamic_quantization` is \"batched\"; expected \"per-text\" or \"reject\"",
    );
    check("[[models]]\npath = 1", "config/embedgate.toml:2: `models.path` is 1; expected a path");
    check("[[models]]\nid = \"a\"\nthreads = 1", "config/embedgate.toml:1: `models.path` is missing");
    check(
        "[models]\npath = \"a\"",
        "config/embedgate.toml:1: `models` is not an array of tables; expected a heading `[[models]]` for each model",
    );
    check("server = 1", "config/embedgate.toml:1: `server` is 1; expected a table");
    check(
        "[aliases]\na.b = \"c\"",
        "config/embedgate.toml:2: `aliases.a` is of type table; expected the id of a model in quotes, or { model = \"ID\", \
         prompt = \"NAME\" }; `native_dimensions = 1536` may stand there, too",
    );
    // One mistake does not hide another.
    assert_eq!(problems("listen = true\n[server]\nkeep_alive = true\nfoo = 1").len(), 3);
    assert_problem("a = \n", "config/embedgate.toml:1: not TOML: ", "");
}

#[test]
fn durations_are_read_in_every_unit() {
    for (text, milliseconds) in [("\"90s\"", 90_000), ("\"500ms\"", 500), ("\"2m\"", 120_000), ("7", 7000)] {
        let config = resolve(&format!("[server]\nshutdown_delay = {text}")).unwrap().config;
        assert_eq!(config.server.shutdown_delay.as_millis(), milliseconds, "{text}");
    }
    for text in ["\"\"", "\"s\"", "\"-1s\"", "\"1.5s\"", "\"1d\"", "\"99999999999999999h\"", "-1", "1.5"] {
        assert_eq!(problems(&format!("[server]\nshutdown_delay = {text}")).len(), 1, "{text}");
    }
}

#[test]
fn settings_that_cannot_work_are_rejected() {
    #[track_caller]
    fn check(file: &str, message: &str) {
        assert_eq!(problems(file), [message]);
    }
    let model = |id: &str| format!("[[models]]\npath = \"m/{id}\"\n");
    check("models = []", "there is no model to serve: add a `[[models]]` with its `path`, or `--model DIR`");
    check(
        &(model("a") + &model("a") + "threads = 1"),
        "two models are called `a`: give one of them another `id`",
    );
    check("[[models]]\npath = \"..\"", "the model at .. needs an `id`: its path ends in no name");
    check(
        &format!("default_model = \"b\"\naliases = {{}}\n{}", model("a")),
        "`default_model` is `b`, which is not among the models (a)",
    );
    check(
        &format!("[aliases]\nx = \"b\"\n{}", model("a")),
        "the alias `x` stands for `b`, which is not among the models (a)",
    );
    check(
        &format!("[aliases]\na = \"a\"\n{}", model("a")),
        "the alias `a` has the name of a model: remove one of them",
    );
    check(
        "[server]\nrequest_timeout = 0",
        "config/embedgate.toml:2: `server.request_timeout` is \"0s\"; expected a duration such as \"90s\", \"500ms\" \
         or \"2m\", at least \"1ms\"",
    );
    check(
        "[limits]\nmax_buffered_body_bytes = \"1MiB\"\nmax_body_bytes = 1048577",
        "`limits.max_buffered_body_bytes` is 1MiB, but one body may have 1048577: raise it or lower \
         `limits.max_body_bytes`",
    );
    check(
        "[limits]\nmax_buffered_response_bytes = 1048575",
        "config/embedgate.toml:2: `limits.max_buffered_response_bytes` is \"1048575\"; expected a size such as \
         \"32MiB\" or \"1GiB\", or a number of bytes, at least \"1MiB\"",
    );
    assert!(resolve("[limits]\nmax_buffered_response_bytes = \"1MiB\"").is_ok());
    for table in ["cache", "limits"] {
        for (url, fault) in [
            ("rediss://host", "asks for TLS"),
            ("valkeys://host", "asks for TLS"),
            ("redis://host/notanumber", "is not the address of a Redis server"),
            ("host", "is not the address of a Redis server"),
        ] {
            let start = format!("`{table}.redis_url` {fault}");
            assert_problem(&format!("[{table}]\nredis_url = \"{url}\""), &start, "");
        }
        assert_problem(&format!("[{table}]\nredis_timeout = 0"), "", "at least \"1ms\"");
    }
    assert_problem("[cache]\nredis_ttl = \"999ms\"", "", "at least \"1s\"");
    check("[tls]\nkey = \"a\"", "`tls.key` is set, but not `tls.certificate`: TLS needs both");
    check("[tls]\ncertificate = \"a\"", "`tls.certificate` is set, but not `tls.key`: TLS needs both");
    for (origin, advice) in [
        ("https://App.example:443", "write `https://app.example`"),
        (
            "https://*.example.com",
            "patterns are not supported; write each origin out, with its port, or `*` alone for all",
        ),
        ("app.example", "write https://host or https://host:port, or *"),
    ] {
        check(
            &format!("[cors]\norigins = [\"{origin}\"]"),
            &format!("`cors.origins` holds `{origin}`, which no browser sends: {advice}"),
        );
    }
    let foreign = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
    let start = format!("`isa` of model `a` is `{foreign}`, which no ");
    assert_problem(&format!("[[models]]\npath = \"a\"\nisa = \"{foreign}\""), &start, "");
    assert_problem("listen = \"no..host:80\"", "`listen`: the host `no..host` cannot be resolved", "");
    for (url, fault) in [
        ("https://otel:4318", "asks for TLS"),
        ("otel:4317", "is not the address of a collector"),
        ("http://user:hunter2@otel", "is not the address of a collector"),
    ] {
        let file = format!("[trace]\notlp_endpoint = \"{url}\"");
        assert_problem(&file, &format!("`trace.otlp_endpoint` {fault}"), "");
        assert!(!problems(&file)[0].contains("hunter2"), "{url}");
    }
    check(
        "[trace]\nsample_ratio = 1.5",
        "config/embedgate.toml:2: `trace.sample_ratio` is 1.5; expected a number from 0 to 1",
    );
    assert_problem("[log]\nfilter = \"info,,=x=y\"", "`log.filter` is `info,,=x=y` (", "");
    check("[auth]\napi_keys = [\"a=1\", \"a=2\"]", "two API keys are named `a`: their names must differ");
    for (key, found) in [
        (r"b=2\nc=3", "a line break or another control character"),
        ("k1 k2", "white space"),
        ("k1  # of the team", "white space"),
        ("k1;k2", "a comma or semicolon"),
        ("b=k1,c=k2", "a comma or semicolon"),
        ("'k1'", "a quotation mark"),
        ("[k1]", "a bracket"),
    ] {
        check(
            &format!("[auth]\napi_keys = [\"a=1\", \"{key}\"]"),
            &format!(
                "API key 2 holds {found}: write each key as an element of its own, without quotes, and a comment on a \
                 line of its own"
            ),
        );
    }
    // One problem does not hide another.
    assert_eq!(problems("[tls]\nkey = \"a\"\n[limits]\nredis_url = \"host\"").len(), 2);
}

/// The settings file that gives `setting` this value.
fn file_with(setting: &Setting, value: &str) -> String {
    let table = match setting.table {
        Table::Top => String::new(),
        Table::Named(table) => format!("[{table}]\n"),
        Table::Model(_) => "[[models]]\npath = \"m\"\n".to_owned(),
    };
    format!("{table}{} = {value}", setting.key)
}

/// The settings that have both a key and a flag.
fn keys() -> impl Iterator<Item = &'static Setting> {
    settings()
        .into_iter()
        .filter(|setting| !["", "aliases", "path"].contains(&setting.key) && setting.flag_name().is_some())
}

#[test]
fn every_number_has_an_upper_bound() {
    const LARGEST: i64 = i64::MAX;
    let numbers = keys().filter(|setting| setting.max_toml().is_some()).count();
    assert!(numbers > 20, "{numbers}");
    for setting in keys() {
        // A key that is no number rejects it as well.
        let mut too_large = vec![LARGEST.to_string(), format!("[{LARGEST}]")];
        if setting.max_toml().is_some() {
            too_large.push("\"9000000000000000s\"".to_owned());
        }
        let key = format!("`{}` is ", setting.qualified_key());
        for value in too_large {
            let file = file_with(setting, &value);
            let Err(error) = resolve(&file) else { panic!("{file} was accepted") };
            assert!(error.to_string().contains(&key), "{file}: {error}");
        }
    }
}

#[test]
fn an_upper_bound_is_the_largest_value_that_works() {
    let above = |problems: &[String], name: &str| {
        let (start, end) = (format!("`{name}` is "), "at most");
        problems.iter().any(|problem| problem.contains(&start) && problem.ends_with(end))
    };
    let defaults = defaults(1).report;
    for setting in keys() {
        let Some(max) = setting.max_toml() else { continue };
        let in_list = |number: String| match defaults.default_of(setting) {
            Some(value) if value.starts_with('[') => format!("[{number}]"),
            _ => number,
        };
        let name = setting.qualified_key();
        if let Err(error) = resolve(&file_with(setting, &in_list(max.clone()))) {
            // It may contradict another key's default.
            let ConfigError::Invalid(found) = error else { panic!("{name} = {max}: {error}") };
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert!(!above(&found, &name) && !found[0].contains("; expected "), "{name} = {max}: {found:?}");
        }
        let more = match max.parse::<u64>() {
            Ok(max) => in_list((max + 1).to_string()),
            Err(_) if max.ends_with("s\"") => "\"31536001s\"".to_owned(),
            Err(_) => "\"1025GiB\"".to_owned(),
        };
        assert!(above(&problems(&file_with(setting, &more)), &name), "{name} = {more}");
    }
}

#[test]
fn an_unknown_variable_names_the_nearest_known_one() {
    for (variable, nearest) in [
        ("EMBEDGATE_KEEPALIVE", Some("EMBEDGATE_KEEP_ALIVE")),
        ("EMBEDGATE_API_KEY", Some("EMBEDGATE_API_KEYS")),
        ("EMBEDGATE_MODEL", Some("EMBEDGATE_MODELS")),
        ("EMBEDGATE_PORT", Some("EMBEDGATE_LISTEN")),
        ("EMBEDGATE_listen", Some("EMBEDGATE_LISTEN")),
        ("EMBEDGATE_ZZZ", None),
    ] {
        let mut env = with_variable(variable, "1");
        env.variables.insert("EMBEDGATE_LISTEN".to_owned(), "127.0.0.1:1".into());
        env.variables.insert("EMBEDGATE_API_KEYS".to_owned(), "k".into());
        let Err(error) = Config::resolve(&CliArgs::default(), &env) else {
            panic!("{variable} was accepted")
        };
        let advice = match nearest {
            Some(nearest) => format!("; did you mean `{nearest}`?"),
            None => {
                "; `embedgate serve --help` lists the known variables, remove or rename this one".to_owned()
            }
        };
        assert_eq!(error.to_string(), format!("unknown variable `{variable}`{advice}"));
    }
}

#[test]
fn a_graph_outside_the_models_folder_is_rejected() {
    let with = |path: &str| format!("[[models]]\npath = \"a\"\nonnx_file = \"{path}\"");
    for path in ["../model.onnx", "/etc/model.onnx", "onnx/../../model.onnx"] {
        let message = format!(
            "`onnx_file` of model `a` is `{path}`: it must be a path inside the model's folder, such as \
             onnx/model_quantized.onnx"
        );
        assert_eq!(problems(&with(path)), [message]);
    }
    assert!(resolve(&with("onnx/model_quantized.onnx")).is_ok());
}

#[test]
fn every_legal_request_must_fit_the_queue() {
    let with = |lines: &str| format!("[limits]\nmax_inputs = 10\n[[models]]\npath = \"a\"\n{lines}");
    let small = |max_queue_tokens: usize, needed: usize| {
        [format!(
            "`max_queue_tokens` of model `a` is {max_queue_tokens}, but one request may have {needed} tokens: raise \
             `max_queue_tokens` or lower `limits.max_request_tokens`"
        )]
    };
    assert_eq!(problems(&with("max_queue_tokens = 299999")), small(299_999, 300_000));
    assert!(resolve(&with("max_queue_tokens = 300000")).is_ok());
    // Ten texts, each truncated at 100 tokens, are the most; unless all of a text is read.
    assert!(resolve(&with("max_queue_tokens = 1000\nmax_input_tokens = 100")).is_ok());
    assert_eq!(problems(&with("max_queue_tokens = 999\nmax_input_tokens = 100")), small(999, 1000));
    let averaged = with("max_queue_tokens = 1000\nmax_input_tokens = 100\ntruncation = \"average\"");
    assert_eq!(problems(&averaged), small(1000, 300_000));
    let grown = resolve("[limits]\nmax_request_tokens = 2000000").unwrap().config;
    assert_eq!(grown.models[0].max_queue_tokens, 4_000_000);
}
