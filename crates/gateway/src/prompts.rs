//! The prompts of a model, which it was trained to read before a text: by name, by the kind of input, and the one for a
//! request that names none.

use std::{collections::BTreeMap, sync::Arc};

use inference::{Prompt, Tokenizer};

/// A prompt of a model.
#[derive(Debug, Clone)]
pub(crate) struct NamedPrompt {
    /// Its name; empty if no prompt was chosen on purpose.
    pub(crate) name: Arc<str>,
    /// The text that is put before each text; `None` if it is empty.
    pub(crate) prompt: Option<Prompt>,
}

impl NamedPrompt {
    /// The choice of no prompt.
    pub(crate) fn none() -> Self {
        Self { name: "".into(), prompt: None }
    }
}

/// A kind of input, such as the query of a search.
#[derive(Debug)]
pub struct InputKind {
    /// Words of which one is in a parameter's value that means this kind.
    pub words: &'static [&'static str],
    /// Names of prompts for it, the preferred one first.
    pub prompts: &'static [&'static str],
}

const fn kind(words: &'static [&'static str], prompts: &'static [&'static str]) -> InputKind {
    InputKind { words, prompts }
}

/// The kinds of input that values of `input_type` and similar parameters mean, and the prompts for them. The first kind
/// with a word of the value applies, after a prompt with the value's own name. The prompts of the first two begin with
/// those that `encode_query` and `encode_document` of sentence-transformers take. All are in the form of [`folded`].
pub const INPUT_KINDS: &[InputKind] = &[
    kind(
        &["query", "question_answering", "fact_verification"],
        &["query", "search_query", "retrieval_query", "s2p_query"],
    ),
    kind(
        &["document", "passage", "corpus"],
        &["document", "passage", "corpus", "search_document", "retrieval_document", "retrieval_passage"],
    ),
    kind(&["clustering", "separation"], &["clustering", "separation"]),
    kind(&["similarity", "text_matching"], &["sts", "text_matching", "semantic_similarity", "similarity"]),
];

/// A name in lower case, with `_` for other separators: vendors and models write `retrieval.query`, `RETRIEVAL_QUERY`
/// and `Retrieval-query`.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace(['.', '-', ' '], "_")
}

/// Names of a model's prompts, which are known before the model is loaded.
#[derive(Clone, Debug, Default)]
pub struct PromptNames {
    names: Vec<String>,
    default: Option<String>,
}

impl PromptNames {
    /// Creates the names of the prompts `texts`, by name. `default` is the name of the one for a request that names
    /// none, or empty for no prompt.
    ///
    /// # Errors
    /// The reason, if there is no prompt `default`.
    pub fn new(texts: &BTreeMap<String, String>, default: Option<&str>) -> Result<Self, String> {
        let names = Self { names: texts.keys().cloned().collect(), default: default.map(str::to_owned) };
        match default.filter(|name| !names.contains(name)) {
            Some(name) => Err(format!("default_prompt = {name:?}, but the model has {}", names.describe())),
            None => Ok(names),
        }
    }

    /// Returns true if `name` is the name of a prompt, or empty, which stands for no prompt.
    pub(crate) fn contains(&self, name: &str) -> bool {
        name.is_empty() || self.names.iter().any(|known| known == name)
    }

    /// Object of a sentence about the model: "no prompts", or "the prompts 'document', 'query'".
    pub(crate) fn describe(&self) -> String {
        describe_names(self.names.iter().map(String::as_str))
    }

    /// The names, in their order.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Name of the prompt for a request that names none; `None` if it gets no prompt.
    pub(crate) fn default_name(&self) -> Option<&str> {
        self.default.as_deref().filter(|name| !name.is_empty())
    }
}

fn describe_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("'{name}'")).collect();
    if names.is_empty() { "no prompts".to_owned() } else { format!("the prompts {}", names.join(", ")) }
}

/// The prompts of a loaded model.
#[derive(Debug, Default)]
pub struct Prompts {
    /// In the order of their names.
    list: Vec<NamedPrompt>,
    /// The prompt for a request that names none; `None` if neither the settings nor the model's files name one.
    default: Option<NamedPrompt>,
}

impl Prompts {
    /// Measures the prompts `texts`, by name, with the model's tokenizer. `default` is the name of the one for a
    /// request that names none, or empty for no prompt; `include_prompt` is the setting of the model's pooling.
    ///
    /// # Errors
    /// The reason, if the model has no prompt `default` or its tokenizer cannot read a prompt.
    pub fn new(
        texts: &BTreeMap<String, String>,
        default: Option<&str>,
        include_prompt: bool,
        tokenizer: &Tokenizer,
    ) -> Result<Self, String> {
        PromptNames::new(texts, default)?;
        let prompt = |(name, text): (&String, &String)| {
            let prompt = (!text.is_empty()).then(|| Prompt::new(text, tokenizer, include_prompt)).transpose();
            let prompt =
                prompt.map_err(|error| format!("its tokenizer cannot read the prompt `{name}`: {error}"));
            Ok(NamedPrompt { name: name.as_str().into(), prompt: prompt? })
        };
        let mut prompts =
            Self { list: texts.iter().map(prompt).collect::<Result<_, String>>()?, default: None };
        prompts.default = default.and_then(|name| prompts.choose(name));
        Ok(prompts)
    }

    /// Finds a prompt by its exact name; the empty name stands for no prompt.
    pub(crate) fn choose(&self, name: &str) -> Option<NamedPrompt> {
        let found = self.get(name).cloned();
        found.or_else(|| name.is_empty().then(NamedPrompt::none))
    }

    /// Finds a prompt by its exact name.
    pub(crate) fn get(&self, name: &str) -> Option<&NamedPrompt> {
        self.list.iter().find(|prompt| &*prompt.name == name)
    }

    /// Finds the prompt for the kind of input that a parameter's value means.
    pub(crate) fn for_input_type(&self, value: &str) -> Option<&NamedPrompt> {
        let value = folded(value);
        let find = |name: &str| self.list.iter().find(|prompt| folded(&prompt.name) == name);
        let kind = || INPUT_KINDS.iter().find(|kind| kind.words.iter().any(|word| value.contains(word)));
        find(&value).or_else(|| kind()?.prompts.iter().find_map(|name| find(name)))
    }

    /// The prompt for a request that names none, if one is set.
    pub(crate) fn default(&self) -> Option<&NamedPrompt> {
        self.default.as_ref()
    }

    /// Names of the prompts for queries and documents that have a text, of which a request has to name one; empty if it
    /// need not name any.
    pub(crate) fn needed(&self) -> Vec<&str> {
        if self.default.is_some() {
            return Vec::new();
        }
        let searches = [&INPUT_KINDS[0], &INPUT_KINDS[1]];
        let is_for_search = |prompt: &&NamedPrompt| {
            let name = folded(&prompt.name);
            prompt.prompt.is_some() && searches.iter().any(|kind| kind.prompts.contains(&name.as_str()))
        };
        self.list.iter().filter(is_for_search).map(|prompt| &*prompt.name).collect()
    }

    /// The same as [`PromptNames::describe`].
    pub(crate) fn describe(&self) -> String {
        describe_names(self.list.iter().map(|prompt| &*prompt.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prompts with these names, each with its name as the text.
    fn prompts(names: &[&str]) -> Prompts {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../model-import/tests/tiny-models/bert-mean/tokenizer.json"
        );
        let tokenizer = Tokenizer::load(path.as_ref()).unwrap();
        let texts = names.iter().map(|name| ((*name).to_owned(), format!("{name}: "))).collect();
        Prompts::new(&texts, None, true, &tokenizer).unwrap()
    }

    #[test]
    fn input_types_of_vendors_select_the_prompts_of_published_models() {
        let e5 = ["passage", "query"];
        let nomic = ["classification", "clustering", "search_document", "search_query"];
        let gemma = ["Clustering", "InstructionRetrieval", "Retrieval-document", "STS", "document", "query"];
        let jina = ["retrieval.passage", "retrieval.query", "separation", "text-matching"];
        for (names, value, found) in [
            (&e5[..], "search_query", Some("query")),
            (&e5, "RETRIEVAL_DOCUMENT", Some("passage")),
            (&e5, "classification", None),
            (&["corpus"], "document", Some("corpus")),
            (&["document", "passage"], "search_document", Some("document")),
            (&["document", "passage"], "passage", Some("passage")),
            (&nomic, "query", Some("search_query")),
            (&nomic, "passage", Some("search_document")),
            (&nomic, "clustering", Some("clustering")),
            (&nomic, "separation", Some("clustering")),
            (&nomic, "CLASSIFICATION", Some("classification")),
            (&gemma, "retrieval.query", Some("query")),
            (&gemma, "RETRIEVAL_DOCUMENT", Some("Retrieval-document")),
            (&gemma, "SEMANTIC_SIMILARITY", Some("STS")),
            (&gemma, "clustering", Some("Clustering")),
            (&jina, "search_query", Some("retrieval.query")),
            (&jina, "document", Some("retrieval.passage")),
            (&jina, "text-matching", Some("text-matching")),
            (&[], "query", None),
        ] {
            let prompts = prompts(names);
            let prompt = prompts.for_input_type(value).map(|prompt| &*prompt.name);
            assert_eq!(prompt, found, "{value} of {names:?}");
        }
    }

    #[test]
    fn the_names_of_the_table_are_folded() {
        for InputKind { words, prompts } in INPUT_KINDS {
            assert!(words.iter().chain(*prompts).all(|name| folded(name) == *name), "{words:?}");
        }
    }
}
