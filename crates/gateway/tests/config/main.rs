//! Settings: their sources, validation and report.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fuzz;
mod page;
mod precedence;
mod rejected;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use gateway::cli;
use gateway::config::{
    Alias, CliArgs, Config, ConfigError, DisplayValue, ProcessEnv, Resolved, Setting, Source, defaults,
    settings,
};
use tempfile::TempDir;

/// A working directory with this settings file in its usual place.
fn folder(file: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("config")).unwrap();
    fs::write(folder.path().join("config/embedgate.toml"), file).unwrap();
    folder
}

fn environment(folder: &Path) -> ProcessEnv {
    ProcessEnv { working_directory: folder.to_owned(), executable: None, cpus: 3, variables: BTreeMap::new() }
}

/// An environment with one variable, and no settings file.
fn with_variable(name: &str, value: &str) -> ProcessEnv {
    let variables = BTreeMap::from([(name.to_owned(), value.into())]);
    ProcessEnv { variables, ..environment(Path::new("nowhere")) }
}

/// The command line `embedgate serve ARGUMENTS`.
fn args(arguments: &[&str]) -> CliArgs {
    let program = ["embedgate", "serve"].iter().chain(arguments).map(Into::into);
    cli::parse(program).unwrap().1
}

fn resolve(file: &str) -> Result<Resolved, ConfigError> {
    Config::resolve(&CliArgs::default(), &environment(folder(file).path()))
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
fn the_shipped_file_has_every_key_with_its_default() {
    let resolved = resolve(&uncommented()).unwrap();
    // Some keys have no default; what the file shows for them is an example.
    let mut config = resolved.config;
    config.onnxruntime_path = None;
    config.ops_listen = None;
    config.tls = None;
    config.cache.redis_url = None;
    config.limits.redis_url = None;
    config.auth.api_keys_file = None;
    config.loading.memory_budget = None;
    config.trace.otlp_endpoint = None;
    config.hub.cache_dir = None;
    config.models[0].auto_min_cosine = None;
    config.models[0].auto_max_score_difference = None;
    config.models[0].onnx_file = None;
    config.models[0].default_prompt = None;
    config.models[0].max_input_tokens = None;
    config.models[0].max_batch_tokens = None;
    assert_eq!(config, Config::builtin(3));
    let (said, defaults) = (resolved.report.entries, defaults(3).report.entries);
    assert_eq!(said.len(), defaults.len());
    for (said, default) in said.iter().zip(defaults) {
        assert_eq!(said.key, default.key);
        if default.value != DisplayValue::Unset && default.source == Source::Default {
            assert_eq!(said.value, default.value, "{}", said.key);
        }
        let from_file = matches!(said.source, Source::File(_));
        assert!(from_file, "{} is not in the shipped file", said.key);
    }
}

#[test]
fn every_setting_has_a_key_a_flag_and_a_variable() {
    let serve = cli::command().find_subcommand("serve").unwrap().clone();
    let with_flag: BTreeSet<_> = settings().into_iter().filter_map(Setting::flag_name).collect();
    let flags: BTreeSet<_> =
        serve.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    // Parts of `listen`, which other servers have flags for.
    let parts: BTreeSet<_> = ["host", "port"].map(str::to_owned).into();
    assert_eq!(flags, &with_flag | &parts);
    let variables: BTreeSet<_> = settings().into_iter().filter_map(Setting::variable_name).collect();
    assert_eq!(variables.len(), with_flag.len() + 2, "two settings share a variable");
    for arg in serve.get_arguments().filter(|arg| !parts.contains(arg.get_long().unwrap())) {
        let (flag, help) = (arg.get_long().unwrap(), arg.get_help().unwrap().to_string());
        let setting =
            settings().into_iter().find(|setting| setting.flag_name().as_deref() == Some(flag)).unwrap();
        assert!(help.ends_with(&format!(" [env: {}]", setting.variable_name().unwrap())), "{flag}: {help}");
        assert!(help.starts_with(&setting.help()) && setting.help().len() > 10, "{flag}: {help}");
        let list = matches!(flag, "model" | "alias");
        let variable = format!("EMBEDGATE_{}", flag.replace('-', "_").to_uppercase());
        assert!(list || setting.variable_name() == Some(variable), "{flag}");
    }
    let without_flag = settings().into_iter().filter(|setting| setting.flag_name().is_none());
    assert_eq!(without_flag.map(|setting| setting.key).collect::<Vec<_>>(), ["api_keys", "admin_keys", "id"]);
    // In the file there is no key for its own path; the aliases are a table.
    let reported: BTreeSet<_> = defaults(1)
        .report
        .entries
        .into_iter()
        .filter_map(|entry| entry.setting.map(Setting::qualified_key))
        .collect();
    let keys = settings().into_iter().map(Setting::qualified_key);
    let unreported: Vec<_> = keys.filter(|key| !reported.contains(key)).collect();
    assert_eq!(unreported, ["", "aliases"]);
}

#[test]
fn every_list_has_a_flag_that_repeats() {
    let serve = cli::command().find_subcommand("serve").unwrap().clone();
    let report = defaults(1).report;
    let lists = settings().into_iter().filter(|setting| {
        report.default_of(setting).is_some_and(|value| value.starts_with('['))
            && setting.flag_name().is_some()
    });
    let lists = lists.filter_map(Setting::flag_name);
    let lists: BTreeSet<_> = lists.chain(["model", "alias"].map(str::to_owned)).collect();
    assert!(lists.len() >= 4, "{lists:?}");
    for list in lists {
        let arg = serve.get_arguments().find(|arg| arg.get_long() == Some(&list)).unwrap();
        assert!(matches!(arg.get_action(), clap::ArgAction::Append), "{list}");
    }
}

#[test]
fn a_large_machine_gets_as_many_threads_as_can_be_started() {
    let env = ProcessEnv { cpus: 2048, ..environment(folder("").path()) };
    let config = Config::resolve(&CliArgs::default(), &env).unwrap().config;
    assert_eq!((config.server.http_workers, config.models[0].threads), (512, 1024));
    assert_eq!(config, Config::builtin(2048));
}

#[test]
fn listen_takes_the_forms_of_other_servers() {
    for (file, listen) in [
        ("listen = \"localhost:8081\"", "127.0.0.1:8081"),
        ("listen = \":8081\"", "0.0.0.0:8081"),
        ("listen = \"9000\"", "127.0.0.1:9000"),
        ("listen = 9000", "127.0.0.1:9000"),
    ] {
        assert_eq!(resolve(file).unwrap().config.listen.to_string(), listen, "{file}");
        let ops = resolve(&format!("ops_{file}")).unwrap().config.ops_listen;
        assert_eq!(ops.unwrap().to_string(), listen, "{file}");
    }
    assert!(resolve("listen = \":8081\"").unwrap().warnings[0].contains("without API keys"));
}

#[test]
fn host_and_port_replace_their_part_of_listen_from_any_source() {
    let variable = with_variable("EMBEDGATE_LISTEN", "0.0.0.0:8081");
    let file = folder("listen = \"[::1]:8082\"");
    for (env, arguments, listen) in [
        (environment(Path::new("nowhere")), &["--port", "9000"][..], "127.0.0.1:9000"),
        (environment(Path::new("nowhere")), &["--host", "localhost", "--port=0"], "127.0.0.1:0"),
        (variable.clone(), &["--port", "9000"], "0.0.0.0:9000"),
        (variable, &["--host", "::"], "[::]:8081"),
        (environment(file.path()), &["--port", "9000"], "[::1]:9000"),
    ] {
        let resolved = Config::resolve(&args(arguments), &env).unwrap();
        assert_eq!(resolved.config.listen.to_string(), listen, "{arguments:?}");
        let entry = resolved.report.entries.iter().find(|entry| entry.key == "listen").unwrap();
        assert_eq!(
            (&entry.value, &entry.source),
            (&DisplayValue::Toml(format!("{listen:?}")), &Source::Flag)
        );
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
fn onnxruntime_is_found_in_the_documented_places() {
    let folder = folder("");
    let name = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
    let place = |path: &str| {
        let folder = folder.path().join(path);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), "").unwrap();
        folder.join(name)
    };
    let found = |env: &ProcessEnv| Config::resolve(&CliArgs::default(), env).unwrap().config.onnxruntime_path;
    let mut env = environment(folder.path());
    env.executable = Some(folder.path().join("app/bin/embedgate"));
    assert_eq!(found(&env), None);
    let set_up = place(".runtime/onnxruntime");
    assert_eq!(found(&env), Some(set_up));
    let sibling = place("app/bin");
    assert_eq!(found(&env), Some(sibling));
    place("app/lib");
    let library = found(&env).unwrap();
    assert_eq!(library, folder.path().join("app/bin/../lib").join(name));
    env.variables.insert("ORT_DYLIB_PATH".to_owned(), "elsewhere.so".into());
    assert_eq!(found(&env), Some("elsewhere.so".into()));
}

#[test]
fn the_collector_of_other_programs_is_used() {
    let folder = folder("[trace]\notlp_endpoint = \"http://file:1\"");
    let mut env = environment(folder.path());
    let collector = |arguments: &[&str], env: &ProcessEnv| {
        Config::resolve(&args(arguments), env).unwrap().config.trace.otlp_endpoint.unwrap().to_string()
    };
    assert_eq!(collector(&[], &env), "http://file:1");
    env.variables.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "".into());
    assert_eq!(collector(&[], &env), "http://file:1");
    env.variables.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://standard:2".into());
    assert_eq!(collector(&[], &env), "http://standard:2");
    assert_eq!(collector(&["--otlp-endpoint", "http://flag:3"], &env), "http://flag:3");
}

#[test]
fn models_of_flags_replace_those_of_the_file() {
    let file = "default_model = \"a\"\n[aliases]\nx = \"a\"\ny = \"c\"\n[[models]]\npath = \"m/a\"\n";
    let args = args(&["--model", "m/b", "--model", "m/c"]);
    let resolved = Config::resolve(&args, &environment(folder(file).path())).unwrap();
    let ids: Vec<_> = resolved.config.models.iter().map(|model| model.id.as_str()).collect();
    assert_eq!(ids, ["b", "c"]);
    assert_eq!(resolved.config.default_model, "b");
    assert_eq!(resolved.config.aliases, BTreeMap::from([("y".to_owned(), "c".into())]));
    assert!(resolved.warnings[0].contains("`x`"), "{:?}", resolved.warnings);

    // Wrong settings of the file's models are still an error.
    let wrong = Config::resolve(&args, &environment(folder(&format!("{file}threads = true")).path()));
    assert!(wrong.unwrap_err().to_string().contains("`models.threads` is true"));

    let resolved = Config::resolve(&args, &environment(tempfile::tempdir().unwrap().path())).unwrap();
    assert!(
        resolved.config.aliases.values().all(|alias| alias.model == "b")
            && resolved.config.aliases.len() == 3
    );
}

#[test]
fn an_alias_may_choose_a_prompt() {
    let alias = |prompt: Option<&str>| Alias { prompt: prompt.map(str::to_owned), ..Alias::from("a") };
    let expected = BTreeMap::from(
        [("q", Some("query")), ("off", Some("")), ("plain", None)]
            .map(|(name, prompt)| (name.to_owned(), alias(prompt))),
    );
    let file = "[aliases]\nq = { model = \"a\", prompt = \"query\" }\noff = { prompt = \"\", model = \"a\" }\n\
                plain = { model = \"a\" }\n[[models]]\npath = \"m/a\"\n";
    let resolved = resolve(file).unwrap();
    assert_eq!(resolved.config.aliases, expected);
    // The report is a settings file that says the same.
    assert_eq!(resolve(&resolved.report.to_string()).unwrap().config.aliases, expected);
    let flags = ["--model", "m/a", "--alias", "q=a#query", "--alias", "off=a#", "--alias", "plain=a"];
    let env = environment(Path::new("nowhere"));
    assert_eq!(Config::resolve(&args(&flags), &env).unwrap().config.aliases, expected);
    // In the file a `#` is a part of the id.
    let file = "[aliases]\nx = \"a#b\"\n[[models]]\nid = \"a#b\"\npath = \"m/a\"\n";
    assert_eq!(resolve(file).unwrap().config.aliases["x"], Alias::from("a#b"));
    for wrong in ["{ prompt = \"query\" }", "{ model = 1 }", "{ model = \"a\", prompts = \"query\" }", "1"] {
        let error = resolve(&format!("[aliases]\nq = {wrong}\n[[models]]\npath = \"m/a\"\n")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(":2: `aliases.q`") && error.contains("prompt = \"NAME\" }"), "{error}");
    }
}

#[test]
fn an_alias_may_have_the_size_of_another_model() {
    let sizes = |file: &str| -> Vec<_> {
        let aliases = resolve(file).unwrap().config.aliases;
        aliases.into_iter().map(|(name, alias)| (name, alias.native_dimensions)).collect()
    };
    let openai = |ada, large, small| {
        [("ada-002", ada), ("3-large", large), ("3-small", small)]
            .map(|(name, size): (_, Option<usize>)| (format!("text-embedding-{name}"), size))
    };
    let sorted = |mut sizes: Vec<(String, Option<usize>)>| {
        sizes.sort();
        sizes
    };
    assert_eq!(sizes(""), sorted(openai(None, None, None).to_vec()));
    let all = sorted(openai(Some(1536), Some(3072), Some(1536)).to_vec());
    assert_eq!(sizes("native_dimensions = true"), all);
    let file = "native_dimensions = true\n\
                [aliases]\n\
                a = { model = \"m\", native_dimensions = 1024, prompt = \"q\" }\n\
                b = \"m\"\n\
                text-embedding-3-small = { model = \"m\", native_dimensions = 512 }\n\
                [[models]]\npath = \"m\"\n";
    let expected = [("a", Some(1024)), ("b", None), ("text-embedding-3-small", Some(512))]
        .map(|(name, size)| (name.to_owned(), size));
    assert_eq!(sizes(file), expected);
    let report = resolve(file).unwrap().report.to_string();
    assert_eq!(sizes(&report), expected);
    for wrong in ["0", "\"1536\"", "-1"] {
        let alias = format!("a = {{ model = \"m\", native_dimensions = {wrong} }}");
        let file = format!("[aliases]\n{alias}\n[[models]]\npath = \"m\"\n");
        assert!(resolve(&file).unwrap_err().to_string().contains("`aliases.a`"), "{wrong}");
    }
}

#[test]
fn a_model_may_have_an_openai_name() {
    let config = resolve("[[models]]\nid = \"text-embedding-3-small\"\npath = \"m\"").unwrap().config;
    assert!(!config.aliases.contains_key("text-embedding-3-small") && config.aliases.len() == 2);
}

#[test]
fn a_maximum_of_input_tokens_may_be_set_and_unset() {
    let model =
        |line: &str| resolve(&format!("[[models]]\npath = \"m\"\n{line}")).unwrap().config.models.remove(0);
    assert_eq!(model("").max_input_tokens, None);
    assert_eq!(model("max_input_tokens = 64").max_input_tokens, Some(64));
    assert_eq!(model("matryoshka_dimensions = [256, 64, 256]").matryoshka_dimensions, [64, 256]);
}

#[test]
fn a_named_settings_file_must_exist() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Config::resolve(&args(&["--config", "other.toml"]), &environment(folder.path()));
    assert!(matches!(missing, Err(ConfigError::Read { path, .. }) if path == Path::new("other.toml")));
    let none = Config::resolve(&CliArgs::default(), &environment(folder.path())).unwrap();
    assert_eq!(none.config, Config::builtin(3));
}

#[test]
fn probable_mistakes_are_warnings() {
    let warnings = |file: &str| resolve(file).unwrap().warnings;
    assert_eq!(warnings(""), Vec::<String>::new());
    assert!(warnings("listen = \"0.0.0.0:80\"")[0].contains("without API keys"));
    assert_eq!(warnings("listen = \"0.0.0.0:80\"\n[auth]\napi_keys = [\"k\"]"), Vec::<String>::new());
    assert_eq!(warnings("listen = \"0.0.0.0:80\"\n[auth]\napi_keys_file = \"k\""), Vec::<String>::new());
    let on_demand = "[[models]]\npath = \"m\"\nload = \"on-demand\"\nkeep_alive = \"5m\"";
    assert_eq!(warnings(on_demand), Vec::<String>::new());
    assert!(warnings(&on_demand.replace("on-demand", "startup"))[0].contains("`keep_alive` of model `m`"));
    let shared = "[limits]\nredis_url = \"redis://a\"";
    assert!(warnings(shared)[0].contains("nothing is limited"));
    assert_eq!(warnings(&format!("{shared}\nkey_tokens_per_minute = 9")), Vec::<String>::new());
    assert!(warnings("[server]\nkeep_alive = \"74s\"")[0].contains("keep_alive"));
}
