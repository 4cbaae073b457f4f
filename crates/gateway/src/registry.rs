//! The models in service, and every name that they answer to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use inference::{Engine, Provider, TruncationPolicy};
use model_import::Precision;
use thiserror::Error;

use crate::{
    config::TokenIds,
    load::{Choice, PER_TEXT},
};

/// One model in service.
pub struct Served {
    /// The name that its settings give it.
    pub id: Arc<str>,
    /// Its name at the hub where it was published, if that is known; an alias.
    pub hub_id: Option<String>,
    /// What embeds.
    pub engine: Engine,
    /// Most tokens of one text that the model reads, special tokens included.
    pub window: usize,
    /// Length of its vectors.
    pub dimensions: usize,
    /// True if its vectors have norm 1.
    pub normalized: bool,
    /// Texts that clients may know by name, to be put in front of inputs; the engine applies none.
    pub prompts: BTreeMap<String, String>,
    /// Sizes to which its vectors may be cut.
    pub matryoshka: Vec<usize>,
    /// What becomes of a text longer than the window.
    pub overlong: TruncationPolicy,
    /// What token ids in a request mean.
    pub token_ids: TokenIds,
    /// When its files were written, in seconds since 1970.
    pub created: u32,
    /// Hash of everything that its vectors depend on, in hexadecimal.
    pub fingerprint: String,
    /// Where it runs.
    pub provider: Provider,
    /// What it is computed in.
    pub precision: Precision,
    /// Each text is run alone, since its graph quantises activations with one scale for a whole batch.
    pub per_text: bool,
    /// What computes it, and why.
    pub choice: Choice,
    /// From opening its folder until its vectors were checked.
    pub load_time: Duration,
}

impl Served {
    /// The subject of a sentence for a client that asked for this model as `name`: "`a`", or
    /// "`text-embedding-3-small` stands for `a` here, which".
    pub(crate) fn subject(&self, name: &str) -> String {
        let id = &self.id;
        if *name == **id {
            return format!("`{id}`");
        }
        format!("`{}` stands for `{id}` here, which", echo(name))
    }

    /// One line for the log at start-up.
    pub fn describe(&self) -> String {
        let Self { id, dimensions, provider, precision, per_text, choice, .. } = self;
        let (precision, Choice { kernels, why }) = (precision.name(), choice);
        let batching = if *per_text { format!(" · {PER_TEXT}") } else { String::new() };
        let why = why.words();
        format!("{id} · {dimensions} dimensions · {provider} {precision} {kernels} ({why}){batching}")
    }
}

/// The start of a value from the client, for an error message: the whole could be as long as a body.
pub(crate) fn echo(value: &str) -> String {
    /// Maximum number of characters of an echoed value.
    const MAX_ECHO: usize = 128;
    value.chars().take(MAX_ECHO).collect()
}

/// The models in service.
pub struct Registry {
    models: Vec<Arc<Served>>,
    /// Names other than ids; each value is an index into `models`.
    aliases: BTreeMap<String, usize>,
}

/// An alias stands for a model that is not served.
#[derive(Debug, Error)]
#[error("the alias `{alias}` stands for `{model}`, which is not served; served are: {served}")]
pub struct UnknownModel {
    /// The alias.
    pub alias: String,
    /// What it stands for.
    pub model: String,
    /// The ids that there are.
    pub served: String,
}

impl Registry {
    /// A registry of models that run already. `aliases` maps names to ids; a model's hub id becomes an
    /// alias too, unless something else has that name.
    ///
    /// # Errors
    /// When an alias stands for no model.
    pub fn from_parts(models: Vec<Served>, aliases: &BTreeMap<String, String>) -> Result<Self, UnknownModel> {
        let index = |id: &str| models.iter().position(|served| &*served.id == id);
        let mut names = BTreeMap::new();
        for (number, served) in models.iter().enumerate() {
            if let Some(hub_id) = served.hub_id.as_ref().filter(|hub_id| index(hub_id).is_none()) {
                names.insert(hub_id.clone(), number);
            }
        }
        for (alias, model) in aliases {
            let number = index(model).ok_or_else(|| UnknownModel {
                alias: alias.clone(),
                model: model.clone(),
                served: models.iter().map(|served| &*served.id).collect::<Vec<_>>().join(", "),
            })?;
            names.insert(alias.clone(), number);
        }
        Ok(Self { models: models.into_iter().map(Arc::new).collect(), aliases: names })
    }

    /// The model with the id or alias `name`: exactly, or else in any case of ASCII letters if only one model has such
    /// a name. If none has it, looks it up again without a leading `openai/`, which LiteLLM and other routers put in
    /// front of OpenAI's names.
    pub fn find(&self, name: &str) -> Option<&Arc<Served>> {
        let found = self.find_in_any_case(name).or_else(|| {
            let (prefix, rest) = name.split_once('/')?;
            prefix.eq_ignore_ascii_case("openai").then(|| self.find_in_any_case(rest)).flatten()
        });
        found.map(|number| &self.models[number])
    }

    fn find_in_any_case(&self, name: &str) -> Option<usize> {
        if let Some((_, number)) = self.numbered().find(|(known, _)| *known == name) {
            return Some(number);
        }
        let mut matches = self.numbered().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, number) = matches.next()?;
        matches.all(|(_, other)| other == number).then_some(number)
    }

    /// Every name with the number of its model: first the ids, then the aliases.
    fn numbered(&self) -> impl Iterator<Item = (&str, usize)> {
        let ids = self.models.iter().enumerate().map(|(number, served)| (&*served.id, number));
        ids.chain(self.aliases.iter().map(|(alias, &number)| (alias.as_str(), number)))
    }

    /// A sentence that lists the first ten names, for a client that asked for another.
    pub(crate) fn names(&self) -> String {
        const MAX_NAMES: usize = 10;
        let names: Vec<_> = self.numbered().map(|(name, _)| format!("`{name}`")).collect();
        match names.split_at_checked(MAX_NAMES) {
            Some((first, rest)) if !rest.is_empty() => {
                format!("Models here: {} and {} more (GET /v1/models).", first.join(", "), rest.len())
            }
            _ => format!("Models here: {}.", names.join(", ")),
        }
    }

    /// The models, in the order of the settings.
    pub fn models(&self) -> impl Iterator<Item = &Served> {
        self.models.iter().map(|served| &**served)
    }

    /// Every other name, with its model.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &Served)> {
        self.aliases.iter().map(|(alias, &number)| (alias.as_str(), &*self.models[number]))
    }

    /// Stops every engine and joins its threads. Blocks while a batch runs. By now the listener has closed and
    /// whoever still waited was answered, so nothing is left that would be worth more time.
    pub(crate) fn stop(&self) {
        for served in &self.models {
            served.engine.stop(Duration::ZERO);
        }
    }
}
