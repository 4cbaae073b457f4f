//! The folder of a model of the settings: at a path, or in the cache of a hub.

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use model_hub::RepoRef;
use model_import::ModelFolder;

use super::{LoadContext, ModelLoadError, load_model, no_folder};
use crate::{
    catalogue::license,
    config::{Config, ModelConfig},
    hub,
    metrics::Metrics,
    registry::{LoadedModel, ModelDescription},
};

/// A model of the settings whose folder was found.
pub(super) struct FoundModel {
    /// The settings, with the path of the folder, which may be in the cache of a hub.
    pub(super) config: ModelConfig,
    /// The name on the hub, if the settings name it by that.
    repo: Option<RepoRef>,
}

impl FoundModel {
    /// Finds the folder that the settings name by its path, or by its name on a hub.
    pub(super) fn find(
        model: &ModelConfig,
        config: &Config,
        cancelled: &AtomicBool,
    ) -> Result<Self, ModelLoadError> {
        let access = (&config.hub, &config.hub_access);
        let found = hub::folder_to_serve(&model.path, model.onnx_file.as_deref(), access, cancelled)?;
        let path = found.ok_or_else(|| ModelLoadError::NoFolder { advice: no_folder(&model.path) })?;
        Ok(Self { config: ModelConfig { path, ..model.clone() }, repo: hub::repo(&model.path) })
    }

    /// Reads the folder's configuration.
    pub(super) fn open(&self) -> Result<OpenFolder, ModelLoadError> {
        let (started, path) = (Instant::now(), &self.config.path);
        if !path.is_dir() {
            return Err(ModelLoadError::NoFolder { advice: no_folder(path) });
        }
        let folder = ModelFolder::open_with_graph(path, self.config.onnx_file.as_deref());
        let folder = folder.map_err(|error| self.in_cache(ModelLoadError::Folder(error)))?;
        Ok(OpenFolder { folder, elapsed: started.elapsed() })
    }

    /// Starts and checks the model.
    pub(super) fn load(
        &self,
        folder: OpenFolder,
        context: &LoadContext,
        metrics: &Metrics,
    ) -> Result<LoadedModel, ModelLoadError> {
        load_model(&self.config, folder, context, metrics).map_err(|error| self.in_cache(error))
    }

    /// Gives the model its name on the hub.
    pub(super) fn name(&self, description: ModelDescription) -> ModelDescription {
        match &self.repo {
            Some(repo) => ModelDescription {
                hub_id: Some(repo.id().to_owned()),
                license: description.license.or_else(|| license(repo.id())),
                ..description
            },
            None => description,
        }
    }

    /// Adds the model's name on the hub to an error of its folder.
    pub(super) fn in_cache(&self, error: ModelLoadError) -> ModelLoadError {
        match (error, &self.repo) {
            (ModelLoadError::Folder(source), Some(repo)) => {
                let (repo, folder) = (repo.to_string(), self.config.path.clone());
                ModelLoadError::Cached { repo, folder, source: Box::new(source) }
            }
            (error, _) => error,
        }
    }
}

/// A model's folder, whose configuration has been read.
pub(super) struct OpenFolder {
    pub(super) folder: ModelFolder,
    /// Time that this took.
    pub(super) elapsed: Duration,
}
