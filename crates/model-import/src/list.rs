//! The models in a folder of model folders, and their states.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{ImportError, ModelFolder, ModelManifest, import::up_to_date_graph};

/// One model folder.
#[derive(Debug)]
pub struct ModelEntry {
    /// The folder's name.
    pub id: String,
    /// The folder.
    pub path: PathBuf,
    /// Its manifest, if it has a readable one.
    pub manifest: Option<ModelManifest>,
    /// Its state.
    pub state: ModelState,
}

/// The readiness of a model folder.
#[derive(Debug)]
pub enum ModelState {
    /// It has an up-to-date graph.
    Ready {
        /// True if each text has to be run alone ([`Graph::dynamic_quantization`](crate::Graph::dynamic_quantization)).
        is_per_text: bool,
    },
    /// It is complete, but has no up-to-date graph. Native kernels read its weights; ONNX Runtime needs
    /// [`import`](crate::import()) first.
    NotImported,
    /// It cannot be used.
    Incomplete(ImportError),
}

/// Lists the folders directly in `models`, sorted by name.
///
/// # Errors
/// [`ImportError::Missing`] or [`ImportError::Read`] for `models` itself. An error in one model is its [`ModelState`].
pub fn list_models(models: &Path) -> Result<Vec<ModelEntry>, ImportError> {
    let unreadable = || ImportError::read(models, "expected a folder of models");
    let mut listed = Vec::new();
    for entry in fs::read_dir(models).map_err(unreadable())? {
        let entry = entry.map_err(unreadable())?;
        let (id, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if id.starts_with('.') || !path.is_dir() {
            continue;
        }
        let manifest = ModelManifest::load(&path.join(ModelManifest::FILE)).ok();
        let state = match ModelFolder::open(&path).and_then(|folder| up_to_date_graph(&folder, &mut |_| {})) {
            Ok(Some(graph)) => ModelState::Ready { is_per_text: !graph.dynamic_quantization.is_empty() },
            Ok(None) => ModelState::NotImported,
            Err(error) => ModelState::Incomplete(error),
        };
        listed.push(ModelEntry { id, path, manifest, state });
    }
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(listed)
}
