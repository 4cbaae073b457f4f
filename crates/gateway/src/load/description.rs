//! Description of a model before it is loaded: what its folder states, and an estimate of its memory.

use inference::Provider;
use model_import::ModelFolder;

use super::{
    LoadError, ModelLoadError,
    checks::{check_settings, default_prompt, max_input_tokens},
    modified, plan_backends,
};
use crate::{
    backend::Backend,
    config::{Bytes, LoadTime, ModelConfig},
    prompts::PromptNames,
    registry::ModelDescription,
};

/// Describes a model. `cache` is the memory of its local cache.
///
/// # Errors
/// If the model cannot be served, as far as this is known without its weights.
pub(super) fn describe(
    model: &ModelConfig,
    folder: &ModelFolder,
    cache: usize,
) -> Result<ModelDescription, ModelLoadError> {
    check_settings(model, folder)?;
    let prompts = PromptNames::new(folder.prompts(), default_prompt(model, folder));
    let copies = match plan_backends(model, folder)?.preferred.backend {
        Backend::Native(_) => 1,
        Backend::OnnxRuntime => model.onnx_sessions,
    };
    let weights = folder.estimate_memory().map_err(ModelLoadError::Folder)?;
    // A GPU holds the weights, which the host holds as well while they are copied.
    let copies = if matches!(model.provider, Provider::Cuda { .. }) { 1 } else { copies };
    Ok(ModelDescription {
        id: model.id.as_str().into(),
        hub_id: folder.manifest().and_then(|manifest| manifest.hub_id.clone()),
        task: folder.task(),
        dimensions: folder.dimensions(),
        max_input_tokens: max_input_tokens(model, folder),
        matryoshka: model.matryoshka_dimensions.clone(),
        prompts: prompts.map_err(ModelLoadError::Settings)?,
        license: folder.manifest().and_then(|manifest| manifest.license.clone()),
        file_bytes: Some(folder.file_bytes().map_err(ModelLoadError::Folder)?),
        created: modified(folder),
        provider: model.provider,
        memory: weights.saturating_mul(copies).saturating_add(cache),
        load: model.load,
        keep_alive: model.keep_alive,
    })
}

/// Checks that all models that are loaded at startup, and each other model with them, fit into the budget.
///
/// # Errors
/// The first model that does not.
pub(super) fn check_memory_budget<'a>(
    models: impl Iterator<Item = &'a ModelDescription> + Clone,
    budget: Option<Bytes>,
) -> Result<(), LoadError> {
    let Some(budget) = budget else { return Ok(()) };
    let mut free = budget.0;
    let is_at_startup = |model: &&ModelDescription| model.load == LoadTime::Startup;
    let too_large = |model: &ModelDescription, free| LoadError::Memory {
        id: model.id.to_string(),
        needed: Bytes(model.memory),
        free: Bytes(free),
        budget,
    };
    for model in models.clone().filter(is_at_startup) {
        free = free.checked_sub(model.memory).ok_or_else(|| too_large(model, free))?;
    }
    let on_demand = models.filter(|model| !is_at_startup(model));
    match on_demand.into_iter().find(|model| model.memory > free) {
        Some(model) => Err(too_large(model, free)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use model_import::Task;

    use crate::config::KeepAlive;

    use super::*;

    fn model(id: &str, load: LoadTime, memory: usize) -> ModelDescription {
        ModelDescription {
            id: id.into(),
            hub_id: None,
            task: Task::Embed,
            dimensions: 1,
            max_input_tokens: 1,
            matryoshka: Vec::new(),
            prompts: PromptNames::default(),
            license: None,
            file_bytes: None,
            created: 0,
            provider: Provider::Cpu,
            memory,
            load,
            keep_alive: KeepAlive::Forever,
        }
    }

    #[test]
    fn models_of_startup_and_each_other_model_must_fit_into_the_budget() {
        let models = [
            model("a", LoadTime::Startup, 3 << 20),
            model("b", LoadTime::OnDemand, 4 << 20),
            model("c", LoadTime::OnDemand, 2 << 20),
        ];
        let check = |budget| check_memory_budget(models.iter(), budget);
        check(None).unwrap();
        check(Some(Bytes(7 << 20))).unwrap();
        for (budget, said) in [
            (
                6,
                "the model `b` does not fit into `loading.memory_budget`: it needs about 4MiB, and 3MiB of 6MiB",
            ),
            (
                2,
                "the model `a` does not fit into `loading.memory_budget`: it needs about 3MiB, and 2MiB of 2MiB",
            ),
        ] {
            let error = check(Some(Bytes(budget << 20))).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
