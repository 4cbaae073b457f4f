//! The fuzz target of the settings file: every file is rejected, or accepted with settings that can work.
//!
//! `cargo test` runs it on the corpus and a bounded number of random files; docs/fuzzing.md says how to run it under a
//! coverage-guided fuzzer.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::LazyLock};

use gateway::config::{CliArgs, Config, ConfigError, Resolved};
use tempfile::TempDir;

use crate::{environment, folder};

const MAX_LEN: usize = 4096;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| folder(""));

#[test]
fn settings() {
    bolero::check!().with_max_len(MAX_LEN).with_iterations(2000).for_each(check);
}

fn check(file: &[u8]) {
    fs::write(FOLDER.path().join("config/embedgate.toml"), file).unwrap();
    match Config::resolve(&CliArgs::default(), &environment(FOLDER.path())) {
        Ok(resolved) => can_work(&resolved),
        Err(ConfigError::Read { .. }) => assert!(str::from_utf8(file).is_err(), "a text cannot be read"),
        Err(ConfigError::Invalid(problems)) => {
            let lines = file.iter().filter(|byte| **byte == b'\n').count() + 1;
            let exists = |place: &(PathBuf, usize)| (1..=lines).contains(&place.1);
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.message.is_empty()));
            assert!(problems.iter().filter_map(|problem| problem.place.as_ref()).all(exists), "{problems:?}");
        }
    }
}

/// Asserts what the rest of the program relies on.
fn can_work(resolved: &Resolved) {
    let config = &resolved.config;
    let ids: BTreeSet<&str> = config.models.iter().map(|model| model.id.as_str()).collect();
    assert!(!ids.is_empty() && ids.len() == config.models.len());
    assert!(ids.contains(config.default_model.as_str()), "{}", config.default_model);
    for (alias, target) in &config.aliases {
        assert!(ids.contains(target.model.as_str()), "{alias}");
    }
    for model in &config.models {
        assert!(model.threads > 0 && model.onnx_sessions > 0 && model.max_batch_inputs > 0, "{model:?}");
        assert!(model.max_queue_tokens >= config.limits.max_request_tokens, "a legal request has no room");
        assert!(model.max_batch_tokens != Some(0) && model.max_input_tokens != Some(0), "{model:?}");
    }
    assert!(config.limits.max_inputs > 0 && config.limits.max_body_bytes > 0);
    assert!(config.server.http_workers > 0 && config.server.max_connections > 0);
    assert!(!resolved.report.to_string().is_empty());
}
