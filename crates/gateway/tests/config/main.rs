//! Settings: where they come from and what they become.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fuzz;
mod page;
mod precedence;
mod refused;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use gateway::cli;
use gateway::config::{
    Config, ConfigError, Flags, List, Resolved, Settings, Shown, Source, Surroundings, Table, defaults,
};
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
        variables: Vec::new(),
        api_keys: None,
        ort_dylib_path: None,
        otlp_endpoint: None,
    }
}

fn resolve(file: &str) -> Result<Resolved, ConfigError> {
    Config::resolve(&Flags::default(), &surroundings(folder(file).path()))
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
    // Some keys have no default; what the file shows for them is an example.
    let mut config = resolved.config;
    config.onnxruntime_path = None;
    config.ops_listen = None;
    config.tls = None;
    config.cache.redis_url = None;
    config.limits.redis_url = None;
    config.auth.api_keys_file = None;
    config.trace.otlp_endpoint = None;
    config.models[0].onnx_file = None;
    config.models[0].max_input_tokens = None;
    config.models[0].max_batch_tokens = None;
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

#[test]
fn every_list_has_a_flag_that_repeats() {
    let serve = cli::command().find_subcommand("serve").unwrap().clone();
    let lists = defaults().settings.into_iter().filter_map(|setting| match setting.value {
        Shown::Toml(value) if value.starts_with('[') => setting.arg,
        _ => None,
    });
    let lists: BTreeSet<_> = lists.chain(["models", "aliases"]).collect();
    assert!(lists.len() >= 4, "{lists:?}");
    for list in lists {
        let arg = serve.get_arguments().find(|arg| arg.get_id() == list).unwrap();
        assert!(matches!(arg.get_action(), clap::ArgAction::Append), "{list}");
    }
}

#[test]
fn a_large_machine_gets_as_many_threads_as_can_be_started() {
    let mut around = surroundings(folder("").path());
    around.processors = 2048;
    let config = Config::resolve(&Flags::default(), &around).unwrap().config;
    assert_eq!((config.server.http_workers, config.models[0].threads), (512, 1024));
    assert_eq!(config, Config::builtin(2048));
}

#[test]
fn an_address_is_read_in_the_forms_that_other_servers_take() {
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
fn the_report_is_a_settings_file_that_says_the_same() {
    let file = uncommented().replace("\"127.0.0.1:8080\"", "\"0.0.0.0:99\"").replace("90s", "1500ms");
    let first = resolve(&file).unwrap();
    let second = resolve(&first.report.to_string()).unwrap();
    assert_eq!(second.config, first.config);
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
        Config::resolve(&Flags::default(), surroundings).unwrap().config.onnxruntime_path
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
fn a_collector_is_found_where_other_programs_find_it() {
    let folder = folder("[trace]\notlp_endpoint = \"http://file:1\"");
    let mut around = surroundings(folder.path());
    let mut flags = Flags::default();
    let collector = |flags: &Flags, around: &Surroundings| {
        Config::resolve(flags, around).unwrap().config.trace.otlp_endpoint.unwrap().to_string()
    };
    assert_eq!(collector(&flags, &around), "http://file:1");
    around.otlp_endpoint = Some("http://standard:2".into());
    assert_eq!(collector(&flags, &around), "http://standard:2");
    flags.settings.trace.otlp_endpoint = Some("http://flag:3".into());
    assert_eq!(collector(&flags, &around), "http://flag:3");
}

#[test]
fn models_from_outside_replace_those_of_the_file() {
    let file = "default_model = \"a\"\n[aliases]\nx = \"a\"\ny = \"c\"\n[[models]]\npath = \"m/a\"\n";
    let settings = Settings {
        models: Some(vec![List(vec!["m/b".into()]), List(vec!["m/c".into()])]),
        ..Settings::default()
    };
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
fn a_window_may_be_set_and_unset() {
    let model =
        |line: &str| resolve(&format!("[[models]]\npath = \"m\"\n{line}")).unwrap().config.models.remove(0);
    assert_eq!(model("").max_input_tokens, None);
    assert_eq!(model("max_input_tokens = 64").max_input_tokens, Some(64));
    assert_eq!(model("matryoshka_dimensions = [256, 64, 256]").matryoshka_dimensions, [64, 256]);
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
fn what_is_probably_not_meant_is_a_warning() {
    let warnings = |file: &str| resolve(file).unwrap().warnings;
    assert_eq!(warnings(""), Vec::<String>::new());
    assert!(warnings("listen = \"0.0.0.0:80\"")[0].contains("without API keys"));
    assert_eq!(warnings("listen = \"0.0.0.0:80\"\n[auth]\napi_keys = [\"k\"]"), Vec::<String>::new());
    assert_eq!(warnings("listen = \"0.0.0.0:80\"\n[auth]\napi_keys_file = \"k\""), Vec::<String>::new());
    let shared = "[limits]\nredis_url = \"redis://a\"";
    assert!(warnings(shared)[0].contains("nothing is limited"));
    assert_eq!(warnings(&format!("{shared}\nkey_tokens_per_minute = 9")), Vec::<String>::new());
    assert!(warnings("[server]\nkeep_alive = \"74s\"")[0].contains("keep_alive"));
}
