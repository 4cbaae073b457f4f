//! Registry of the configured models, their ids and aliases.

mod pool;
mod slot;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use inference::{Engine, Provider, TruncationPolicy};
use model_import::{AccuracyMeasure, DenseActivation, Precision, Task};
use thiserror::Error;

use self::pool::ModelPool;
pub use self::slot::{ModelDescription, ModelLoader, ModelSlot};
pub(crate) use self::slot::{ModelLease, ModelStatus};
use crate::{
    backend::{AccuracyProof, Selection},
    background::BackgroundThread,
    config::{Alias, LoadingConfig, TokenIds},
    error::ApiError,
    metrics::{Metrics, ModelInfo},
    prompts::{NamedPrompt, Prompts},
};

/// Time between two checks for models to unload because they are idle.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Note in the startup line and on the command line: a graph runs its inputs one by one.
pub(crate) const PER_TEXT: &str = "one text at a time, since its graph is dynamically quantized";

/// A loaded model.
pub struct LoadedModel {
    /// Its id, from the settings.
    pub id: Arc<str>,
    /// Kind of result that it computes.
    pub task: Task,
    /// Activation that maps the output of a reranker to a score.
    pub score_activation: DenseActivation,
    /// Engine that computes its vectors.
    pub engine: Engine,
    /// Maximum number of tokens of one input, including special tokens.
    pub max_input_tokens: usize,
    /// Length of its vectors.
    pub dimensions: usize,
    /// True if its vectors have norm 1.
    pub normalized: bool,
    /// Texts to put before its inputs.
    pub prompts: Prompts,
    /// Sizes to which its vectors can be shortened.
    pub matryoshka: Vec<usize>,
    /// Treatment of inputs longer than `max_input_tokens`.
    pub truncation: TruncationPolicy,
    /// Vocabulary of token ids in requests.
    pub token_ids: TokenIds,
    /// Time of the last change of its files, in seconds since 1970.
    pub created: u32,
    /// Hash of everything that its vectors depend on, in hexadecimal.
    pub fingerprint: String,
    /// Device that it runs on.
    pub provider: Provider,
    /// Precision of its arithmetic.
    pub precision: Precision,
    /// Each input runs alone, since its graph quantizes activations with one scale for a whole batch.
    pub per_text: bool,
    /// Its backend, and the reason for the selection.
    pub selection: Selection,
    /// Accuracy of each precision below fp32 that was tried.
    pub proofs: Vec<AccuracyProof>,
    /// Time from opening its folder until its golden check passed.
    pub load_time: Duration,
}

impl LoadedModel {
    /// Subject of a sentence for a client that named this model `name`: "`a`", or
    /// "`text-embedding-3-small` stands for `a` here, which".
    pub(crate) fn subject(&self, name: &str) -> String {
        let id = &self.id;
        if *name == **id {
            return format!("`{id}`");
        }
        format!("`{}` stands for `{id}` here, which", echo(name))
    }

    /// Description for the metrics.
    pub(crate) fn info(&self) -> ModelInfo<'_> {
        ModelInfo {
            model: &self.id,
            revision: &self.fingerprint,
            dtype: self.precision.name(),
            provider: self.provider,
            selection: self.selection,
            proofs: &self.proofs,
            per_text: self.per_text,
            dimensions: self.dimensions,
            max_tokens: self.max_input_tokens,
            load_time: self.load_time,
        }
    }

    /// Accuracy proof of its precision; `None` if no proof was needed.
    pub(crate) fn proof(&self) -> Option<&AccuracyProof> {
        self.proofs.iter().find(|proof| proof.precision == self.precision)
    }

    /// Precision of its results, with the values of their accuracy proof if there is one: a header of responses.
    pub(crate) fn precision_note(&self) -> String {
        let name = self.precision.name();
        match self.proof() {
            Some(AccuracyProof { measure, worst, mean, .. }) => {
                let measure = match measure {
                    AccuracyMeasure::Cosine => "cosine",
                    AccuracyMeasure::ScoreDifference => "score-difference",
                };
                format!("{name}; worst-{measure}={worst:.6}; mean-{measure}={mean:.6}")
            }
            None => name.to_owned(),
        }
    }

    /// One line for the log at startup.
    pub fn describe(&self) -> String {
        let Self { id, provider, precision, per_text, selection, prompts, proofs, .. } = self;
        let (precision, Selection { backend, reason }) = (precision.name(), selection);
        let batching = if *per_text { format!(" · {PER_TEXT}") } else { String::new() };
        let prompt = match prompts.default() {
            Some(NamedPrompt { name, prompt: Some(_) }) => format!(" · prompt `{name}` by default"),
            Some(_) => String::new(),
            None if prompts.needed().is_empty() => String::new(),
            None => format!(" · {}, none by default", prompts.describe()),
        };
        let proofs: String = proofs.iter().map(|proof| format!(" · {proof}")).collect();
        let result = match self.task {
            Task::Embed => format!("{} dimensions", self.dimensions),
            Task::Rerank => "reranks".to_owned(),
            Task::EmbedSparse => format!("sparse, {} dimensions", self.dimensions),
        };
        format!("{id} · {result} · {provider} {precision} {backend} ({reason}){batching}{proofs}{prompt}")
    }
}

/// Start of a client's value for an error message: the whole value can be as long as a request body.
pub(crate) fn echo(value: &str) -> String {
    /// Maximum number of characters of an echoed value.
    const MAX_ECHO: usize = 128;
    value.chars().take(MAX_ECHO).collect()
}

/// List of the first ten of `names`, with the number of the others, for an error message.
pub(crate) fn list_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MAX_NAMES: usize = 10;
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    match names.split_at_checked(MAX_NAMES) {
        Some((first, rest)) if !rest.is_empty() => {
            format!("{} and {} more (GET /v1/models)", first.join(", "), rest.len())
        }
        _ => names.join(", "),
    }
}

/// The configured models.
pub struct Registry {
    pool: Arc<ModelPool>,
    /// Names other than ids.
    aliases: BTreeMap<String, Target>,
    /// Unloads idle models.
    idle_unloader: Mutex<Option<BackgroundThread>>,
}

/// The model that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// Index into the models.
    index: usize,
    /// Name of the prompt for a request that names none, in place of the model's default; empty for no prompt.
    prompt: Option<String>,
    /// Value of `dimensions` that means the model's own length.
    native_dimensions: Option<usize>,
}

impl Target {
    /// The model itself.
    fn model(index: usize) -> Self {
        Self { index, prompt: None, native_dimensions: None }
    }
}

/// The model that a name stands for, loaded or not.
pub(crate) struct NamedModel {
    pub(crate) slot: Arc<ModelSlot>,
    /// Name of the prompt that belongs to the name.
    prompt: Option<String>,
    /// Value of `dimensions` that means the model's own length.
    native_dimensions: Option<usize>,
}

/// The model that a request named, in use by it.
pub(crate) struct RequestedModel {
    pub(crate) served: ModelLease,
    /// The prompt that belongs to the name.
    pub(crate) prompt: Option<NamedPrompt>,
    /// Value of `dimensions` that means the model's own length.
    pub(crate) native_dimensions: Option<usize>,
}

/// An alias that cannot be served.
#[derive(Debug, Error)]
pub enum AliasError {
    /// It stands for a model that is not configured.
    #[error("the alias `{alias}` stands for `{model}`, which is not configured; the models are: {known}")]
    UnknownModel {
        /// The alias.
        alias: String,
        /// The model that it stands for.
        model: String,
        /// Ids of the configured models.
        known: String,
    },
    /// The model has no such prompt.
    #[error("the alias `{alias}` has the prompt `{prompt}`, but the model `{model}` has {known}")]
    UnknownPrompt {
        /// The alias.
        alias: String,
        /// The name of the prompt.
        prompt: String,
        /// The model that the alias stands for.
        model: String,
        /// Description of the model's prompts.
        known: String,
    },
}

impl AliasError {
    fn unknown_prompt(alias: &str, model: &str, prompt: &str, known: String) -> Self {
        Self::UnknownPrompt {
            alias: alias.to_owned(),
            prompt: prompt.to_owned(),
            model: model.to_owned(),
            known,
        }
    }
}

impl Registry {
    /// Creates a registry of models, of which some may be loaded. The hub id of a model becomes an alias too, unless
    /// another model has that id.
    ///
    /// # Errors
    /// When an alias stands for no model, or for a prompt that its model does not have.
    pub fn new(
        models: Vec<ModelSlot>,
        aliases: &BTreeMap<String, Alias>,
        loading: &LoadingConfig,
        metrics: &Metrics,
    ) -> Result<Self, AliasError> {
        let index = |id: &str| models.iter().position(|model| &**model.id() == id);
        let mut names = BTreeMap::new();
        for (number, model) in models.iter().enumerate() {
            if let Some(hub_id) = model.description().hub_id.as_ref().filter(|id| index(id).is_none()) {
                names.insert(hub_id.clone(), Target::model(number));
            }
        }
        for (alias, Alias { model, prompt, native_dimensions }) in aliases {
            let number = index(model).ok_or_else(|| AliasError::UnknownModel {
                alias: alias.clone(),
                model: model.clone(),
                known: models.iter().map(|model| &**model.id()).collect::<Vec<_>>().join(", "),
            })?;
            let prompts = &models[number].description().prompts;
            if let Some(prompt) = prompt.as_ref().filter(|prompt| !prompts.contains(prompt)) {
                return Err(AliasError::unknown_prompt(alias, model, prompt, prompts.describe()));
            }
            let (prompt, native_dimensions) = (prompt.clone(), *native_dimensions);
            names.insert(alias.clone(), Target { index: number, prompt, native_dimensions });
        }
        let pool = Arc::new(ModelPool::new(models, loading.clone(), metrics.clone()));
        Ok(Self { pool, aliases: names, idle_unloader: Mutex::default() })
    }

    /// Starts the thread that unloads idle models, if the settings ask for it.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(crate) fn start_idle_unloader(&self) -> io::Result<()> {
        if self.pool.has_idle_timeout() {
            let pool = Arc::clone(&self.pool);
            let thread = BackgroundThread::start("idle-models", move |stop| {
                while stop.wait_timeout(IDLE_POLL_INTERVAL) {
                    pool.unload_idle();
                }
            })?;
            *self.idle_unloader.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        }
        Ok(())
    }

    /// The models' common memory, and their loads and unloads.
    pub(crate) fn pool(&self) -> &Arc<ModelPool> {
        &self.pool
    }

    /// Finds the model with the id or alias `name`: an exact match, or else the only match that ignores the case of
    /// ASCII letters. Without a match, tries again without a leading `openai/`, which LiteLLM and other routers put in
    /// front of OpenAI's names.
    pub fn find(&self, name: &str) -> Option<&Arc<ModelSlot>> {
        self.target(name).map(|target| &self.pool.slots()[target.index])
    }

    /// Finds the model as [`find`](Self::find) does, with the prompt that belongs to the name.
    pub(crate) fn resolve(&self, name: &str) -> Option<NamedModel> {
        let Target { index, prompt, native_dimensions } = self.target(name)?;
        Some(NamedModel { slot: Arc::clone(&self.pool.slots()[index]), prompt, native_dimensions })
    }

    /// Leases a model for a request that has named it `name`. If it is not loaded, loads it or waits for its load,
    /// until `deadline` or for the configured time.
    ///
    /// # Errors
    /// Those of [`ModelPool::lease`]; 500 if the loaded model has no longer the prompt that belongs to the name.
    pub(crate) async fn lease(
        &self,
        NamedModel { slot, prompt, native_dimensions }: NamedModel,
        name: &str,
        deadline: Instant,
    ) -> Result<RequestedModel, ApiError> {
        let served = self.pool.lease(&slot, deadline).await?;
        // Its files may have changed since the start, when the names of prompts were checked.
        let find = |prompt: String| {
            let lost = || AliasError::unknown_prompt(name, slot.id(), &prompt, served.prompts.describe());
            served.prompts.choose(&prompt).ok_or_else(lost)
        };
        let prompt = prompt.map(find).transpose().map_err(ApiError::permanent)?;
        Ok(RequestedModel { served, prompt, native_dimensions })
    }

    fn target(&self, name: &str) -> Option<Target> {
        self.target_in_any_case(name).or_else(|| {
            let (prefix, rest) = name.split_once('/')?;
            prefix.eq_ignore_ascii_case("openai").then(|| self.target_in_any_case(rest)).flatten()
        })
    }

    fn target_in_any_case(&self, name: &str) -> Option<Target> {
        if let Some((_, target)) = self.targets().find(|(known, _)| *known == name) {
            return Some(target);
        }
        let mut matches = self.targets().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, target) = matches.next()?;
        matches.all(|(_, other)| other == target).then_some(target)
    }

    /// Every name with what it stands for: ids first, then aliases.
    fn targets(&self) -> impl Iterator<Item = (&str, Target)> {
        let models = self.pool.slots().iter().enumerate();
        let ids = models.map(|(index, model)| (&**model.id(), Target::model(index)));
        ids.chain(self.aliases.iter().map(|(alias, target)| (alias.as_str(), target.clone())))
    }

    /// The first model of the settings with a task, for a request that names no model.
    pub(crate) fn first_of(&self, task: Task) -> Option<&Arc<ModelSlot>> {
        self.models().find(|model| model.description().task == task)
    }

    /// Sentence that lists the first ten names, for a client that named an unknown model.
    pub(crate) fn names(&self) -> String {
        format!("Models here: {}.", list_names(self.targets().map(|(name, _)| name)))
    }

    /// The models, in the order of the settings.
    pub fn models(&self) -> impl Iterator<Item = &Arc<ModelSlot>> {
        self.pool.slots().iter()
    }

    /// The aliases with their models.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &Arc<ModelSlot>)> {
        let slots = self.pool.slots();
        self.aliases.iter().map(|(alias, target)| (alias.as_str(), &slots[target.index]))
    }

    /// Stops every engine and joins its threads. Blocks while a batch runs, and up to `grace` for a model that is being
    /// loaded or unloaded. Returns true if no thread is left. There is no grace period for requests: when the server
    /// calls this, the listener is closed and every admitted request has been answered.
    pub(crate) fn stop(&self, grace: Duration) -> bool {
        drop(self.idle_unloader.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.pool.stop(grace)
    }
}
