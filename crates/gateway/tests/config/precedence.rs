//! Flag over variable over file over default, for every key, by the program's own report.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use gateway::config::{defaults, settings};
use proptest::prelude::{ProptestConfig, Strategy, any, proptest};

use crate::folder;

/// Instruction sets of this architecture; others are rejected.
const ISAS: [&str; 3] = if cfg!(target_arch = "aarch64") {
    ["\"neon\"", "\"none\"", "\"auto\""]
} else {
    ["\"avx2\"", "\"none\"", "\"avx512\""]
};

/// Table, name of flag and variable in the spelling of keys, and three values in TOML: for the file, the variable, the
/// flag.
const KEYS: &[(&str, &str, [&str; 3])] = &[
    ("", "listen", ["\"127.0.0.1:1\"", "\"127.0.0.1:2\"", "\"[::1]:3\""]),
    ("", "ops_listen", ["\"127.0.0.1:1\"", "\"127.0.0.1:2\"", "\"[::1]:3\""]),
    ("", "onnxruntime_path", ["\"a.so\"", "\"b.so\"", "\"c.so\""]),
    ("server", "http_workers", ["1", "2", "3"]),
    ("server", "keep_alive", ["\"81s\"", "\"82s\"", "\"83500ms\""]),
    ("server", "client_header_timeout", ["\"1s\"", "\"2s\"", "\"3s\""]),
    ("server", "send_timeout", ["\"1s\"", "\"2s\"", "\"3s\""]),
    ("server", "min_send_rate", ["\"1KiB\"", "\"0\"", "\"3KiB\""]),
    ("server", "request_timeout", ["\"4s\"", "\"5s\"", "\"6s\""]),
    ("server", "max_connections", ["11", "12", "13"]),
    ("server", "shutdown_delay", ["\"7s\"", "\"8s\"", "\"9s\""]),
    ("server", "drain_timeout", ["\"10s\"", "\"11s\"", "\"12s\""]),
    ("limits", "max_inputs", ["14", "15", "16"]),
    ("limits", "max_request_tokens", ["1001", "1002", "1003"]),
    ("limits", "max_body_bytes", ["2001", "2002", "2003"]),
    ("limits", "max_buffered_body_bytes", ["\"64MiB\"", "\"65MiB\"", "\"66MiB\""]),
    ("limits", "unsupported_parameters", ["\"ignore\"", "\"reject\"", "\"ignore\""]),
    ("limits", "max_buffered_response_bytes", ["\"71MiB\"", "\"72MiB\"", "\"73MiB\""]),
    ("limits", "key_requests_per_minute", ["3001", "3002", "3003"]),
    ("limits", "key_tokens_per_minute", ["4001", "4002", "4003"]),
    ("limits", "limits_redis_url", ["\"redis://a:1\"", "\"redis://b:2\"", "\"redis://c:3\""]),
    ("limits", "limits_redis_timeout", ["\"1ms\"", "\"2ms\"", "\"3ms\""]),
    ("limits", "limits_redis_failure_mode", ["\"fail-closed\"", "\"fail-open\"", "\"fail-closed\""]),
    ("auth", "api_keys_file", ["\"a.keys\"", "\"b.keys\"", "\"c.keys\""]),
    ("tls", "tls_certificate", ["\"a.pem\"", "\"b.pem\"", "\"c.pem\""]),
    ("tls", "tls_key", ["\"a.key\"", "\"b.key\"", "\"c.key\""]),
    ("cors", "cors_origins", ["[\"http://a\"]", "[\"http://b\"]", "[\"http://c\"]"]),
    ("cache", "cache_memory", ["\"1MiB\"", "\"0\"", "\"3GiB\""]),
    ("cache", "cache_redis_url", ["\"redis://a:1\"", "\"redis://b:2\"", "\"redis://c:3\""]),
    ("cache", "cache_redis_timeout", ["\"1ms\"", "\"2ms\"", "\"3ms\""]),
    ("cache", "cache_redis_ttl", ["\"41s\"", "\"42s\"", "\"43s\""]),
    ("log", "log_format", ["\"json\"", "\"text\"", "\"json\""]),
    ("log", "log_filter", ["\"warn\"", "\"debug\"", "\"error\""]),
    ("trace", "otlp_endpoint", ["\"http://a:1\"", "\"http://b:2\"", "\"http://c:3\""]),
    ("trace", "trace_sample_ratio", ["0.25", "0.5", "0.75"]),
    ("models", "provider", ["\"cuda\"", "\"cuda:1\"", "\"cuda:2\""]),
    ("models", "precision", ["\"fp32\"", "\"bf16\"", "\"fp32\""]),
    ("models", "isa", ISAS),
    ("models", "onnx_file", ["\"a.onnx\"", "\"onnx/b.onnx\"", "\"c.onnx\""]),
    ("models", "dynamic_quantization", ["\"reject\"", "\"per-text\"", "\"reject\""]),
    ("models", "threads", ["4", "5", "6"]),
    ("models", "onnx_sessions", ["7", "8", "9"]),
    ("models", "truncation", ["\"average\"", "\"error\"", "\"average\""]),
    ("models", "token_ids", ["\"o200k_base\"", "\"native\"", "\"reject\""]),
    ("models", "strip_whitespace", ["true", "false", "true"]),
    ("models", "matryoshka_dimensions", ["[1]", "[2]", "[3]"]),
    ("models", "max_batch_tokens", ["5001", "5002", "5003"]),
    ("models", "max_batch_inputs", ["21", "22", "23"]),
    ("models", "max_queue_tokens", ["700001", "700002", "700003"]),
    ("models", "max_input_tokens", ["101", "102", "103"]),
];

/// Key in the table: the name without the table's.
fn key<'a>(table: &str, name: &'a str) -> &'a str {
    name.strip_prefix(table).and_then(|rest| rest.strip_prefix('_')).unwrap_or(name)
}

/// Output of `check-config` when each key is given by the sources in its mask (1 file, 2 variable, 4 flag).
fn check_config(masks: &[u8]) -> String {
    let mut tables: BTreeMap<&str, String> = BTreeMap::new();
    let mut program = Command::new(env!("CARGO_BIN_EXE_embedgate"));
    program.arg("check-config").env_clear();
    for ((table, name, [file, variable, flag]), mask) in KEYS.iter().copied().zip(masks) {
        let plain = |toml: &str| toml.trim_matches(['"', '[', ']']).to_owned();
        let text = tables.entry(table).or_default();
        if mask & 1 != 0 {
            writeln!(text, "{} = {file}", key(table, name)).unwrap();
        }
        if mask & 2 != 0 {
            // The one list loses its brackets, an address keeps them.
            program.env(format!("EMBEDGATE_{}", name.to_uppercase()), plain(variable));
        }
        if mask & 4 != 0 {
            let value =
                if name.ends_with("listen") { flag.trim_matches('"').to_owned() } else { plain(flag) };
            program.arg(format!("--{}={value}", name.replace('_', "-")));
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
    let mut masks = masks.to_vec();
    // TLS needs both of its files, or neither.
    let pair: Vec<usize> = (0..KEYS.len()).filter(|&key| KEYS[key].0 == "tls").collect();
    if pair.iter().any(|&key| masks[key] == 0) {
        pair.iter().for_each(|&key| masks[key] = 0);
    }
    let printed = check_config(&masks);
    let (defaults, settings) = (defaults(1).report, settings());
    for ((table, name, [file, variable, flag]), mask) in KEYS.iter().copied().zip(masks) {
        let flag_name = name.replace('_', "-");
        let setting =
            settings.iter().find(|setting| setting.flag_name().as_ref() == Some(&flag_name)).unwrap();
        let (value, source) = match (mask & 4 != 0, mask & 2 != 0, mask & 1 != 0) {
            (true, ..) => (flag, "flag".to_owned()),
            (_, true, _) => (variable, format!("EMBEDGATE_{}", name.to_uppercase())),
            (.., true) => (file, "config/embedgate.toml".to_owned()),
            // Twice another key, which is among those that change.
            _ if name == "max_queue_tokens" => ("", "default".to_owned()),
            _ => match defaults.default_of(setting) {
                Some(value) => (value, "default".to_owned()),
                None => continue,
            },
        };
        let (start, source) = (format!("{} = {value}", key(table, name)), format!("# {source}"));
        let found = printed.lines().any(|line| line.starts_with(&start) && line.contains(&source));
        assert!(found, "no {start} {source} in\n{printed}");
    }
}

#[test]
fn strip_whitespace_as_a_flag_needs_no_value() {
    let folder = folder("[[models]]\npath = \"m/a\"\nstrip_whitespace = false\n");
    let mut program = Command::new(env!("CARGO_BIN_EXE_embedgate"));
    program.args(["check-config", "--strip-whitespace"]).env_clear().current_dir(folder.path());
    let printed = String::from_utf8(program.output().unwrap().stdout).unwrap();
    let line = printed.lines().find(|line| line.starts_with("strip_whitespace = ")).unwrap();
    assert!(line.starts_with("strip_whitespace = true") && line.contains("# flag"), "{line}");
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
