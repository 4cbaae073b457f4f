//! Models by name: found in the cache of a model hub, and downloaded into it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model_hub::{
    Cache, Hub, HubError, HubSettings, PullObserver, PullProgress, PulledModel, RepoRef, RetryPolicy,
};
use model_import::ModelFolder;
use thiserror::Error;

use crate::config::{HubAccess, HubConfig};

/// Interval between two lines of the log about a download.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A model that cannot be had by name.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubModelError {
    /// The environment names no folder for the cache.
    #[error("there is no cache folder for models: set HF_HOME, or `hub.cache_dir` (--hub-cache-dir)")]
    NoCache,
    /// The download failed.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Returns the client of the hub that the settings name. Without `needs_cache` it serves for downloads to other places.
pub(crate) fn client(
    config: &HubConfig,
    access: &HubAccess,
    needs_cache: bool,
) -> Result<Hub, HubModelError> {
    let cache = match &config.cache_dir {
        Some(folder) => Cache::new(folder),
        None if needs_cache => return Err(HubModelError::NoCache),
        None => Cache::new(""),
    };
    let HubAccess { token, proxy } = access.clone();
    let settings = HubSettings {
        endpoint: config.endpoint.clone(),
        cache,
        is_offline: config.offline.0,
        proxy,
        retry: RetryPolicy::default(),
    };
    Ok(Hub::new(settings, token)?)
}

/// Returns the folder of the model that `path` names: `path` itself if it is a folder, else the model of this name in
/// the cache.
pub(crate) fn cached(path: &Path, config: &HubConfig) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    Cache::new(config.cache_dir.as_ref()?).find(&repo(path)?)
}

/// Returns the model on a hub that `path` names, unless it is a folder.
pub(crate) fn repo(path: &Path) -> Option<RepoRef> {
    crate::config::hub_model(path, Path::new(""))
}

/// Returns the folder of a model that the server is to serve. With `hub.pull`, a model that is not completely in the
/// cache is downloaded first. `None` if there is no such model on this machine.
pub(crate) fn folder_to_serve(
    path: &Path,
    onnx_file: Option<&Path>,
    (config, access): (&HubConfig, &HubAccess),
    cancelled: &AtomicBool,
) -> Result<Option<PathBuf>, HubModelError> {
    let found = cached(path, config);
    let Some(repo) = repo(path).filter(|_| config.pull) else { return Ok(found) };
    if let Some(folder) = found.filter(|folder| ModelFolder::open_with_graph(folder, onnx_file).is_ok()) {
        return Ok(Some(folder));
    }
    let mut observer = LogObserver { repo: &repo, cancelled, logged: Instant::now() };
    tracing::info!(model = %repo, "downloading the model");
    let pulled =
        client(config, access, true)?.pull(&repo, onnx_file.and_then(Path::to_str), &mut observer)?;
    let PulledModel { folder, downloaded, .. } = pulled;
    tracing::info!(model = %repo, bytes = downloaded, "downloaded the model");
    Ok(Some(folder))
}

/// Logs the progress of a download at the start of the server.
struct LogObserver<'a> {
    repo: &'a RepoRef,
    cancelled: &'a AtomicBool,
    logged: Instant,
}

impl PullObserver for LogObserver<'_> {
    fn on_progress(&mut self, progress: PullProgress<'_>) {
        let repo = self.repo;
        match progress {
            PullProgress::Retrying { file, reason, wait } => {
                tracing::warn!(model = %repo, file, reason, ?wait, "a request to the model hub failed; trying again");
            }
            PullProgress::Bytes { file, done, total } if self.logged.elapsed() >= LOG_INTERVAL => {
                self.logged = Instant::now();
                tracing::info!(model = %repo, file, bytes = done, total, "downloading the model");
            }
            _ => {}
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}
