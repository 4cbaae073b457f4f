//! What lies in a folder of models, and what each still lacks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{ImportError, ModelFolder, ModelManifest, import::up_to_date};

/// One model folder.
#[derive(Debug)]
pub struct ModelEntry {
    /// The folder's name.
    pub id: String,
    /// The folder.
    pub path: PathBuf,
    /// Its manifest, if there is one that can be read.
    pub manifest: Option<ModelManifest>,
    /// Whether it can be served.
    pub state: ModelState,
}

/// Whether a model can be served.
#[derive(Debug)]
pub enum ModelState {
    /// Its graph is there.
    Ready {
        /// True if each text has to be run alone ([`Graph::dynamic_quantization`](crate::Graph::dynamic_quantization)).
        is_per_text: bool,
    },
    /// Complete, for those who read the weights themselves; for a graph, [`crate::import`] has to be run on it as it is
    /// now.
    NotImported,
    /// Something is missing or wrong.
    Incomplete(ImportError),
}

/// The folders directly below `models`, by name.
///
/// # Errors
/// [`ImportError::Missing`] or [`ImportError::Read`] for `models` itself; what is wrong with one model is its
/// [`ModelState`].
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
        let state = match ModelFolder::open(&path).and_then(|folder| up_to_date(&folder, &mut |_| {})) {
            Ok(Some(graph)) => ModelState::Ready { is_per_text: !graph.dynamic_quantization.is_empty() },
            Ok(None) => ModelState::NotImported,
            Err(error) => ModelState::Incomplete(error),
        };
        listed.push(ModelEntry { id, path, manifest, state });
    }
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(listed)
}
