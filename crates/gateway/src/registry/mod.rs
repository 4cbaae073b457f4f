//! Registry of the configured models, their ids and aliases.

mod pool;
mod slot;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use inference::{Engine, Provider, TruncationPolicy};
use model_import::Precision;
use thiserror::Error;

use self::pool::ModelPool;
pub use self::slot::{ModelDescription, ModelLoader, ModelSlot};
pub(crate) use self::slot::{ModelLease, ModelStatus};
use crate::{
    backend::Selection,
    background::BackgroundThread,
    config::{LoadingConfig, TokenIds},
    metrics::{Metrics, ModelInfo},
};

/// Time between two checks for models to unload because they are idle.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Note in the startup line and on the command line: a graph runs its inputs one by one.
pub(crate) const PER_TEXT: &str = "one text at a time, since its graph is dynamically quantised";

/// A loaded model.
pub struct LoadedModel {
    /// Its id, from the settings.
    pub id: Arc<str>,
    /// Its name at the hub where it was published, if known; an alias.
    pub hub_id: Option<String>,
    /// Engine that computes its vectors.
    pub engine: Engine,
    /// Maximum number of tokens of one input, including special tokens.
    pub max_input_tokens: usize,
    /// Length of its vectors.
    pub dimensions: usize,
    /// True if its vectors have norm 1.
    pub normalized: bool,
    /// Prefixes for inputs, by name. The engine applies none.
    pub prompts: BTreeMap<String, String>,
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
    /// Each input runs alone, since its graph quantises activations with one scale for a whole batch.
    pub per_text: bool,
    /// Its backend, and the reason for the selection.
    pub selection: Selection,
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
            per_text: self.per_text,
            dimensions: self.dimensions,
            max_tokens: self.max_input_tokens,
            load_time: self.load_time,
        }
    }

    /// One line for the log at startup.
    pub fn describe(&self) -> String {
        let Self { id, dimensions, provider, precision, per_text, selection, .. } = self;
        let (precision, Selection { backend, reason }) = (precision.name(), selection);
        let batching = if *per_text { format!(" · {PER_TEXT}") } else { String::new() };
        format!("{id} · {dimensions} dimensions · {provider} {precision} {backend} ({reason}){batching}")
    }
}

/// Start of a client's value for an error message: the whole value can be as long as a request body.
pub(crate) fn echo(value: &str) -> String {
    /// Maximum number of characters of an echoed value.
    const MAX_ECHO: usize = 128;
    value.chars().take(MAX_ECHO).collect()
}

/// The configured models.
pub struct Registry {
    pool: Arc<ModelPool>,
    /// Indices of models, by names other than ids.
    aliases: BTreeMap<String, usize>,
    /// Unloads idle models.
    idle_unloader: Mutex<Option<BackgroundThread>>,
}

/// An alias stands for a model that is not configured.
#[derive(Debug, Error)]
#[error("the alias `{alias}` stands for `{model}`, which is not configured; the models are: {known}")]
pub struct UnknownModel {
    /// The alias.
    pub alias: String,
    /// The model that it stands for.
    pub model: String,
    /// Ids of the configured models.
    pub known: String,
}

impl Registry {
    /// Creates a registry of models, of which some may be loaded. `aliases` maps names to ids; the hub id of a model
    /// becomes an alias too, unless another model has that id.
    ///
    /// # Errors
    /// When an alias stands for no model.
    pub fn new(
        models: Vec<ModelSlot>,
        aliases: &BTreeMap<String, String>,
        loading: &LoadingConfig,
        metrics: &Metrics,
    ) -> Result<Self, UnknownModel> {
        let index = |id: &str| models.iter().position(|model| &**model.id() == id);
        let mut names = BTreeMap::new();
        for (number, model) in models.iter().enumerate() {
            if let Some(hub_id) = model.description().hub_id.as_ref().filter(|id| index(id).is_none()) {
                names.insert(hub_id.clone(), number);
            }
        }
        for (alias, model) in aliases {
            let number = index(model).ok_or_else(|| UnknownModel {
                alias: alias.clone(),
                model: model.clone(),
                known: models.iter().map(|model| &**model.id()).collect::<Vec<_>>().join(", "),
            })?;
            names.insert(alias.clone(), number);
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
        let found = self.find_in_any_case(name).or_else(|| {
            let (prefix, rest) = name.split_once('/')?;
            prefix.eq_ignore_ascii_case("openai").then(|| self.find_in_any_case(rest)).flatten()
        });
        found.map(|number| &self.pool.slots()[number])
    }

    fn find_in_any_case(&self, name: &str) -> Option<usize> {
        if let Some((_, number)) = self.indexed_names().find(|(known, _)| *known == name) {
            return Some(number);
        }
        let mut matches = self.indexed_names().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, number) = matches.next()?;
        matches.all(|(_, other)| other == number).then_some(number)
    }

    /// Every name with the index of its model: ids first, then aliases.
    fn indexed_names(&self) -> impl Iterator<Item = (&str, usize)> {
        let ids = self.pool.slots().iter().enumerate().map(|(number, model)| (&**model.id(), number));
        ids.chain(self.aliases.iter().map(|(alias, &number)| (alias.as_str(), number)))
    }

    /// Sentence that lists the first ten names, for a client that named an unknown model.
    pub(crate) fn names(&self) -> String {
        const MAX_NAMES: usize = 10;
        let names: Vec<_> = self.indexed_names().map(|(name, _)| format!("`{name}`")).collect();
        match names.split_at_checked(MAX_NAMES) {
            Some((first, rest)) if !rest.is_empty() => {
                format!("Models here: {} and {} more (GET /v1/models).", first.join(", "), rest.len())
            }
            _ => format!("Models here: {}.", names.join(", ")),
        }
    }

    /// The models, in the order of the settings.
    pub fn models(&self) -> impl Iterator<Item = &Arc<ModelSlot>> {
        self.pool.slots().iter()
    }

    /// The aliases with their models.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &Arc<ModelSlot>)> {
        self.aliases.iter().map(|(alias, &number)| (alias.as_str(), &self.pool.slots()[number]))
    }

    /// Stops every engine and joins its threads. Blocks while a batch runs, and up to `grace` for a model that is being
    /// loaded or unloaded. Returns true if no thread is left. There is no grace period for requests: when the server
    /// calls this, the listener is closed and every admitted request has been answered.
    pub(crate) fn stop(&self, grace: Duration) -> bool {
        drop(self.idle_unloader.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.pool.stop(grace)
    }
}
