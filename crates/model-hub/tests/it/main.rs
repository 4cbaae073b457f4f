//! Downloads from a local hub that misbehaves, the cache that other programs share, and archives.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod archives;
mod cache;
mod faults;
mod refusals;

use std::{path::Path, time::Duration};

use model_hub::{Cache, Hub, HubError, HubSettings, PullProgress, PulledModel, RepoRef, RetryPolicy};
use testkit::hub::{FakeHub, MODEL};

/// Size of the weights: several reads of a socket.
const WEIGHTS: usize = 300_000;

/// The files of the model on the hub, some of which embedgate does not need.
fn files() -> Vec<(String, Vec<u8>)> {
    let weights: Vec<u8> = (0..WEIGHTS).map(|index| (index % 251) as u8).collect();
    [
        ("README.md", b"read me".to_vec()),
        ("config.json", b"{\"model_type\":\"bert\"}".to_vec()),
        ("model.safetensors", weights.clone()),
        ("pytorch_model.bin", weights),
        ("modules.json", b"[]".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("1_Pooling/config.json", b"{\"pooling\":true}".to_vec()),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .into()
}

/// The names of the needed ones, sorted.
const NEEDED: [&str; 5] =
    ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json"];

fn settings(endpoint: String, cache: &Path) -> HubSettings {
    HubSettings {
        endpoint,
        cache: Cache::new(cache),
        is_offline: false,
        proxy: None,
        retry: RetryPolicy {
            max_attempts: 3,
            first_backoff: Duration::from_millis(1),
            max_wait: Duration::from_secs(2),
            stall_timeout: Duration::from_millis(300),
        },
    }
}

/// A hub and an empty cache.
struct Setup {
    remote: FakeHub,
    cache: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        Self { remote: FakeHub::start(files()).unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    fn hub(&self, token: Option<&str>) -> Hub {
        Hub::new(settings(self.remote.endpoint(), self.cache.path()), token.map(str::to_owned)).unwrap()
    }

    fn pull(&self) -> Result<PulledModel, HubError> {
        self.hub(None).pull(&model(), None, &mut ignore)
    }

    /// Pulls, and returns the reasons of the repeated requests.
    fn pull_with_retries(&self) -> (Result<PulledModel, HubError>, Vec<String>) {
        let mut reasons = Vec::new();
        let mut observer = |progress: PullProgress<'_>| {
            if let PullProgress::Retrying { reason, .. } = progress {
                reasons.push(reason.to_owned());
            }
        };
        let pulled = self.hub(None).pull(&model(), None, &mut observer);
        (pulled, reasons)
    }
}

fn ignore(_: PullProgress<'_>) {}

fn model() -> RepoRef {
    MODEL.parse().unwrap()
}

/// Names of all files below a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    fn collect(root: &Path, folder: &Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, names);
            } else {
                names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut names = Vec::new();
    collect(folder, folder, &mut names);
    names.sort();
    names
}

/// Requires that exactly the needed files are there, with the hub's content.
#[track_caller]
fn assert_complete(folder: &Path) {
    assert_eq!(names(folder), NEEDED);
    for (name, content) in files() {
        if NEEDED.contains(&name.as_str()) {
            assert!(std::fs::read(folder.join(&name)).unwrap() == content, "{name} differs");
        }
    }
}
