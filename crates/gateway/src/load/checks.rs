//! Checks that a model's settings match its folder.

use inference::TruncationPolicy;
use model_import::{ModelFolder, Task};

use super::ModelLoadError;
use crate::config::ModelConfig;

/// Maximum number of tokens of one input: the model's, or a smaller one of the settings.
pub(crate) fn max_input_tokens(model: &ModelConfig, folder: &ModelFolder) -> usize {
    model.max_input_tokens.unwrap_or_else(|| folder.max_input_tokens())
}

/// Name of the prompt for a request that names none: that of the settings, or else the model's.
pub(super) fn default_prompt<'a>(model: &'a ModelConfig, folder: &'a ModelFolder) -> Option<&'a str> {
    model.default_prompt.as_deref().or_else(|| folder.default_prompt())
}

/// Checks that the settings match the folder.
pub(super) fn check_settings(model: &ModelConfig, folder: &ModelFolder) -> Result<(), ModelLoadError> {
    let (configured, maximum) = (max_input_tokens(model, folder), folder.max_input_tokens());
    let dimensions = folder.dimensions();
    let too_long = model.matryoshka_dimensions.iter().find(|&&size| size > dimensions);
    let reason = if configured > maximum {
        format!("max_input_tokens = {configured}, but the model reads at most {maximum} tokens")
    } else if let Some(setting) = unsupported_for_task(model, folder) {
        format!("{setting} is for models that compute embeddings, but this model {}", folder.task().verb())
    } else if let Some(size) = too_long {
        format!("matryoshka_dimensions has {size}, but the model's vectors have {dimensions} values")
    } else {
        return Ok(());
    };
    Err(ModelLoadError::Settings(reason))
}

/// Returns a setting that does not apply to the task of the model, if there is one.
fn unsupported_for_task(model: &ModelConfig, folder: &ModelFolder) -> Option<&'static str> {
    let is_reranker = folder.task() == Task::Rerank;
    if folder.task() == Task::Embed {
        None
    } else if !model.matryoshka_dimensions.is_empty() {
        Some("`matryoshka_dimensions`")
    } else if model.truncation == TruncationPolicy::Average {
        Some("`truncation = \"average\"`")
    } else if is_reranker && default_prompt(model, folder).is_some_and(|name| !name.is_empty()) {
        Some("a default prompt")
    } else {
        None
    }
}
