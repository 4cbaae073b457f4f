//! What is refused, and how it is said.

use std::path::PathBuf;

use bert_cpu::Isa;
use gateway::config::{
    ApiKeyError, Bytes, CollectorFault, Config, ConfigError, FileProblem, Flags, OriginFault, Problem,
    Setting, Shown, Table, defaults,
};

use crate::{folder, resolve, surroundings};

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
    check(
        "[[models]]\npath = \"a\"\nbatch_token = 1",
        3,
        "models.batch_token",
        Some("models.max_batch_tokens"),
    );
    check("port = 8080", 1, "port", Some("listen"));
    check("[server]\nhost = \"0.0.0.0\"", 2, "server.host", Some("listen"));
    check("zzz = 1", 1, "zzz", None);
}

#[test]
fn a_former_key_or_variable_is_answered_with_its_present_name() {
    for (file, key, new_name) in [
        ("[server]\ngrace_pause = \"1s\"", "server.grace_pause", "server.shutdown_delay"),
        ("[limits]\nredis_down = \"open\"", "limits.redis_down", "limits.redis_failure_mode"),
        ("[auth]\nkeys_file = \"a\"", "auth.keys_file", "auth.api_keys_file"),
        ("[[models]]\npath = \"a\"\nwindow = 7", "models.window", "models.max_input_tokens"),
    ] {
        let found = mistakes(file);
        assert!(
            matches!(&found[..], [(_, FileProblem::RenamedKey { key: old, new_name: new })]
                if old == key && *new == new_name),
            "{found:?}"
        );
    }
    for (variable, new_name) in [
        ("EMBEDGATE_GRACE_PAUSE", "EMBEDGATE_SHUTDOWN_DELAY"),
        ("EMBEDGATE_REDIS_URL", "EMBEDGATE_CACHE_REDIS_URL"),
        ("EMBEDGATE_LOG", "EMBEDGATE_LOG_FILTER"),
    ] {
        let mut around = surroundings(folder("").path());
        around.variables = vec![variable.to_owned()];
        let Err(error) = Config::resolve(&Flags::default(), &around) else {
            panic!("{variable} was accepted")
        };
        assert_eq!(error.to_string(), format!("the variable `{variable}` is now called `{new_name}`"));
    }
    // A former value is answered with those that there are.
    let error = resolve("[limits]\nredis_failure_mode = \"closed\"").unwrap_err().to_string();
    assert!(error.ends_with("is \"closed\"; expected \"fail-open\" or \"fail-closed\""), "{error}");
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
        "config/embedgate.toml:3: `models.provider` is \"cdua\"; expected \"cpu\", \"openvino\", \"cuda\" or \"cuda:1\"",
    );
    check(
        "[[models]]\npath = \"a\"\ndynamic_quantization = \"batched\"",
        "config/embedgate.toml:3: `models.dynamic_quantization` is \"batched\"; expected \"per-text\" or \"reject\"",
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
    assert_eq!(mistakes("listen = true\n[server]\nkeep_alive = true\nfoo = 1").len(), 3);
    assert!(matches!(mistakes("a = \n")[..], [(1, FileProblem::Syntax(_))]));
}

#[test]
fn durations_are_read_in_every_unit() {
    for (text, milliseconds) in [("\"90s\"", 90_000), ("\"500ms\"", 500), ("\"2m\"", 120_000), ("7", 7000)] {
        let config = resolve(&format!("[server]\nshutdown_delay = {text}")).unwrap().config;
        assert_eq!(config.server.shutdown_delay.as_millis(), milliseconds, "{text}");
    }
    for text in ["\"\"", "\"s\"", "\"-1s\"", "\"1.5s\"", "\"1d\"", "\"99999999999999999h\"", "-1", "1.5"] {
        assert_eq!(mistakes(&format!("[server]\nshutdown_delay = {text}")).len(), 1, "{text}");
    }
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
    assert_eq!(
        problems("[limits]\nmax_buffered_body_bytes = \"1MiB\"\nmax_body_bytes = 1048577"),
        [Problem::SmallBodyMemory { memory: Bytes(1 << 20), largest: Bytes((1 << 20) + 1) }]
    );
    assert_eq!(
        problems("[limits]\nmax_buffered_response_bytes = 1048575"),
        [Problem::SmallResponseMemory { memory: Bytes((1 << 20) - 1), least: Bytes(1 << 20) }]
    );
    assert!(resolve("[limits]\nmax_buffered_response_bytes = \"1MiB\"").is_ok());
    for (url, problem) in [
        ("rediss://host", Problem::RedisTls { table: "cache" }),
        ("valkeys://host", Problem::RedisTls { table: "cache" }),
        ("redis://host/notanumber", Problem::RedisUrl { table: "cache" }),
    ] {
        assert_eq!(problems(&format!("[cache]\nredis_url = \"{url}\"")), [problem]);
    }
    assert_eq!(problems("[tls]\nkey = \"a\""), [Problem::HalfOfTls { given: "key", missing: "certificate" }]);
    for (origin, fault) in [
        ("https://App.example:443", OriginFault::Written("https://app.example".to_owned())),
        ("https://*.example.com", OriginFault::Pattern),
        ("app.example", OriginFault::NotAnOrigin),
    ] {
        let found = problems(&format!("[cors]\norigins = [\"{origin}\"]"));
        assert_eq!(found, [Problem::Origin { origin: origin.to_owned(), fault }]);
    }
    let foreign = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
    assert_eq!(
        problems(&format!("[[models]]\npath = \"a\"\nisa = \"{foreign}\"")),
        [Problem::ForeignIsa { model: "a".to_owned(), isa: foreign }]
    );
    assert!(matches!(
        &problems("listen = \"no..host:80\"")[..],
        [Problem::UnknownHost { host, .. }] if host == "no..host"
    ));
    for (url, fault) in [
        ("https://otel:4318", CollectorFault::Https),
        ("otel:4317", CollectorFault::NotAnAddress),
        ("http://user:hunter2@otel", CollectorFault::NotAnAddress),
    ] {
        let found = problems(&format!("[trace]\notlp_endpoint = \"{url}\""));
        assert_eq!(found, [Problem::OtlpEndpoint(fault)]);
        assert!(!found[0].to_string().contains("hunter2"), "{}", found[0]);
    }
    assert_eq!(mistakes("[trace]\nsample_ratio = 1.5").len(), 1);
    assert_eq!(
        problems("[limits]\nredis_url = \"host\"\nredis_timeout = 0"),
        [Problem::RedisUrl { table: "limits" }, Problem::LimitsRedisTimeout]
    );
    assert!(matches!(problems("[log]\nfilter = \"info,,=x=y\"")[..], [Problem::LogFilter { .. }]));
    assert_eq!(
        problems("[auth]\napi_keys = [\"a=1\", \"a=2\"]"),
        [Problem::ApiKey(ApiKeyError::DuplicateName { name: "a".to_owned() })]
    );
    for (key, found) in [
        (r"b=2\nc=3", "a line break or another control character"),
        ("k1 k2", "white space"),
        ("k1  # of the team", "white space"),
        ("k1;k2", "a comma or semicolon"),
        ("b=k1,c=k2", "a comma or semicolon"),
        ("'k1'", "a quotation mark"),
        ("[k1]", "a bracket"),
    ] {
        assert_eq!(
            problems(&format!("[auth]\napi_keys = [\"a=1\", \"{key}\"]")),
            [Problem::ApiKey(ApiKeyError::Character { position: 2, found })],
            "{key}"
        );
    }
}

/// The settings file that gives `setting` this value.
fn file_with(setting: &Setting, value: &str) -> String {
    let table = match setting.table {
        Table::Top => String::new(),
        Table::Named(table) => format!("[{table}]\n"),
        Table::Model(_) => "[[models]]\npath = \"m\"\n".to_owned(),
    };
    format!("{table}{} = {value}", setting.name)
}

/// The key as messages name it.
fn qualified(setting: &Setting) -> String {
    match setting.table {
        Table::Top => setting.name.clone(),
        Table::Named(table) => format!("{table}.{}", setting.name),
        Table::Model(_) => format!("models.{}", setting.name),
    }
}

#[test]
fn every_number_has_an_upper_bound() {
    const LARGEST: i64 = i64::MAX;
    let keys: Vec<_> = defaults().settings.into_iter().filter(|setting| setting.arg.is_some()).collect();
    let numbers = keys.iter().filter(|setting| setting.max.is_some()).count();
    assert!(numbers > 20, "{numbers}");
    for setting in keys {
        // A key that is no number refuses it as well.
        let mut too_large = vec![LARGEST.to_string(), format!("[{LARGEST}]")];
        if setting.max.is_some() {
            too_large.push("\"9000000000000000s\"".to_owned());
        }
        let key = format!("`{}` is ", qualified(&setting));
        for value in too_large {
            let file = file_with(&setting, &value);
            let Err(error) = resolve(&file) else { panic!("{file} was accepted") };
            assert!(error.to_string().contains(&key), "{file}: {error}");
        }
    }
}

#[test]
fn an_upper_bound_is_the_largest_value_that_works() {
    let above = |problems: &[Problem], name: &str| {
        problems.iter().any(|problem| matches!(problem, Problem::AboveMaximum { key, .. } if key == name))
    };
    for setting in defaults().settings {
        let Some(max) = &setting.max else { continue };
        let in_list = |number: String| match &setting.value {
            Shown::Toml(value) if value.starts_with('[') => format!("[{number}]"),
            _ => number,
        };
        let name = qualified(&setting);
        if let Err(error) = resolve(&file_with(&setting, &in_list(max.clone()))) {
            // It may contradict another key's default.
            let ConfigError::Problems(found) = error else { panic!("{name} = {max}: {error}") };
            assert!(!above(&found, &name), "{name} = {max}");
        }
        let more = match max.parse::<u64>() {
            Ok(max) => in_list((max + 1).to_string()),
            Err(_) if max.ends_with("s\"") => "\"31536001s\"".to_owned(),
            Err(_) => "\"1025GiB\"".to_owned(),
        };
        assert!(above(&problems(&file_with(&setting, &more)), &name), "{name} = {more}");
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
        let mut around = surroundings(folder("").path());
        around.variables = ["EMBEDGATE_LISTEN", "EMBEDGATE_API_KEYS", variable].map(str::to_owned).to_vec();
        let refused = Config::resolve(&Flags::default(), &around);
        let Err(ConfigError::Problems(problems)) = refused else { panic!("{variable} was accepted") };
        let nearest = nearest.map(str::to_owned);
        assert_eq!(problems, [Problem::UnknownVariable { variable: variable.to_owned(), nearest }]);
    }
}

#[test]
fn a_graph_outside_the_models_folder_is_refused() {
    let with = |path: &str| format!("[[models]]\npath = \"a\"\nonnx_file = \"{path}\"");
    for path in ["../model.onnx", "/etc/model.onnx", "onnx/../../model.onnx"] {
        let outside = [Problem::OnnxFile { model: "a".to_owned(), path: path.into() }];
        assert_eq!(problems(&with(path)), outside);
        assert!(outside[0].to_string().contains("inside the model's folder"), "{}", outside[0]);
    }
    assert!(resolve(&with("onnx/model_quantized.onnx")).is_ok());
}

#[test]
fn every_legal_request_must_fit_the_queue() {
    let with = |lines: &str| format!("[limits]\nmax_inputs = 10\n[[models]]\npath = \"a\"\n{lines}");
    let small =
        |max_queue_tokens, needed| [Problem::SmallQueue { model: "a".to_owned(), max_queue_tokens, needed }];
    assert_eq!(problems(&with("max_queue_tokens = 299999")), small(299_999, 300_000));
    assert!(resolve(&with("max_queue_tokens = 300000")).is_ok());
    // Ten texts, each cut at 100 tokens, are the most; unless all windows of a text are read.
    assert!(resolve(&with("max_queue_tokens = 1000\nmax_input_tokens = 100")).is_ok());
    assert_eq!(problems(&with("max_queue_tokens = 999\nmax_input_tokens = 100")), small(999, 1000));
    let averaged = with("max_queue_tokens = 1000\nmax_input_tokens = 100\ntruncation = \"average\"");
    assert_eq!(problems(&averaged), small(1000, 300_000));
    let grown = resolve("[limits]\nmax_request_tokens = 2000000").unwrap().config;
    assert_eq!(grown.models[0].max_queue_tokens, 4_000_000);
}
