//! The meanings of parameters: each a [`Rule`] with the function that judges a value.

use inference::TruncationPolicy;
use openai_schema::{EncodingFormat, ExtraValue};

use super::{Rule, Wanted};
use crate::{registry::LoadedModel, request::TRUNCATION_HEADER};

/// Effect of an accepted value.
pub(super) enum Effect {
    /// The vectors are those that it asks for.
    Honoured,
    /// It changes nothing for this model.
    Ignored,
}

/// Reason why a value cannot be honoured.
#[derive(Debug)]
pub(super) enum Fault {
    /// It does not have this type.
    Type(&'static str),
    /// It is wrong or not supported, for this reason in whole sentences.
    Value(String),
    /// A message of its own, which does not repeat the value.
    Message(String),
}

impl Fault {
    fn supported(values: &str) -> Self {
        Self::Value(format!("Supported values: [{values}]."))
    }

    /// The message to the client about the parameter `name` with this value.
    pub(super) fn message(&self, name: &str, value: &str) -> String {
        match self {
            Self::Type(expected) => format!("Invalid type for '{name}': expected {expected}."),
            Self::Value(reason) => format!("Invalid value for '{name}' = {value}. {reason}"),
            Self::Message(message) => message.clone(),
        }
    }
}

/// A choice that several parameters can make, and the parameter that made it.
pub(super) struct Once<T>(Option<(T, &'static str)>);

impl<T: Copy + PartialEq> Once<T> {
    /// The choice that the parameter `name` made, if it did.
    pub(super) fn given(value: Option<T>, name: &'static str) -> Self {
        Self(value.map(|value| (value, name)))
    }

    fn get(&self) -> Option<T> {
        self.0.map(|(value, _)| value)
    }

    /// Has `name` make the choice too.
    ///
    /// # Errors
    /// If another parameter made a different choice.
    fn set(&mut self, value: T, name: &'static str) -> Result<Effect, Fault> {
        match self.0 {
            Some((chosen, by)) if chosen != value => {
                Err(Fault::Value(format!("It contradicts '{by}': send one of them.")))
            }
            _ => {
                self.0.get_or_insert((value, name));
                Ok(Effect::Honoured)
            }
        }
    }
}

/// One request's parameters while they are judged.
pub(super) struct Judge<'a> {
    served: &'a LoadedModel,
    /// The name by which the request asks for it.
    model: &'a str,
    dimensions: Once<usize>,
    pub(super) format: Once<EncodingFormat>,
    pub(super) overlong: Once<TruncationPolicy>,
    max_input_tokens: Option<usize>,
    normalize: Once<bool>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(served: &'a LoadedModel, model: &'a str) -> Self {
        Self {
            served,
            model,
            dimensions: Once(None),
            format: Once(None),
            overlong: Once(None),
            max_input_tokens: None,
            normalize: Once(None),
        }
    }

    /// Records that the request asks for vectors of the length `asked`.
    ///
    /// # Errors
    /// If the model has no vectors of that length, or another parameter asks for a different one.
    pub(super) fn dimensions(&mut self, asked: usize, name: &'static str) -> Result<Effect, Fault> {
        let LoadedModel { dimensions, matryoshka, .. } = self.served;
        let (own, mut sizes) = (*dimensions, matryoshka.clone());
        if !sizes.contains(&own) {
            sizes.push(own);
        }
        if sizes.contains(&asked) {
            return self.dimensions.set(asked, name);
        }
        let fault = if asked > own {
            format!("Invalid value for '{name}' = {asked}. Must be less than or equal to {own}.")
        } else if matryoshka.is_empty() {
            "This model does not support specifying dimensions.".to_owned()
        } else {
            format!("Invalid value for '{name}' = {asked}. Supported values: {sizes:?}.")
        };
        let subject = self.served.subject(self.model);
        let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
        let sizes = sizes.join(" or ");
        Err(Fault::Message(format!(
            "{fault} {subject} has {own} dimensions: leave '{name}' out, or send {sizes}."
        )))
    }

    /// The options of the request, once all parameters are judged.
    pub(super) fn wanted(&self, ignored: Vec<&'static str>) -> Wanted {
        let own = self.served.dimensions;
        let cut = self.dimensions.get().filter(|&dimensions| dimensions != own);
        let normalize = self.normalize.get() == Some(true) && !self.served.normalized;
        Wanted {
            format: self.format.get().unwrap_or_default(),
            cut: cut.or(normalize.then_some(own)),
            overlong: self.overlong.get().unwrap_or(self.served.truncation),
            max_input_tokens: self.max_input_tokens,
            ignored,
        }
    }

    /// Refuses a prompt that the model has: it would have to be put in front of every text.
    fn refuse_prompt(&self, prompt: &str) -> Fault {
        let subject = self.served.subject(self.model);
        Fault::Value(format!(
            "{subject} has the prompt {prompt:?} for that, which embedgate does not apply: put it in front of each text \
             yourself and leave the parameter out."
        ))
    }
}

fn boolean(value: &ExtraValue) -> Result<bool, Fault> {
    match value {
        ExtraValue::Bool(value) => Ok(*value),
        _ => Err(Fault::Type("a boolean")),
    }
}

fn integer(value: &ExtraValue) -> Result<i128, Fault> {
    match value {
        ExtraValue::Integer(value) => Ok(*value),
        _ => Err(Fault::Type("an integer")),
    }
}

fn text(value: &ExtraValue) -> Result<&str, Fault> {
    match value {
        ExtraValue::Text(text) => Ok(text),
        _ => Err(Fault::Type("a string")),
    }
}

/// The strings of an array, or a single string.
fn texts(value: &ExtraValue) -> Result<&[String], Fault> {
    match value {
        ExtraValue::Text(text) => Ok(std::slice::from_ref(text)),
        ExtraValue::Texts(texts) => Ok(texts),
        _ => Err(Fault::Type("a string or an array of at most 16 different strings")),
    }
}

/// Honours `value` where it is one of `supported`, in any case of letters.
fn one_of(value: &ExtraValue, supported: &[&str]) -> Result<Effect, Fault> {
    let value = text(value)?;
    if supported.iter().any(|supported| value.eq_ignore_ascii_case(supported)) {
        return Ok(Effect::Honoured);
    }
    let supported: Vec<_> = supported.iter().map(|value| format!("'{value}'")).collect();
    Err(Fault::supported(&supported.join(", ")))
}

pub(super) static DIMENSIONS: Rule = Rule {
    accepted: "the sizes that `dimensions` takes",
    effect: "the same as `dimensions`",
    judge: |judge, name, value| match usize::try_from(integer(value)?) {
        Ok(dimensions @ 1..) => judge.dimensions(dimensions, name),
        _ => Err(Fault::Value("Must be greater than or equal to 1.".to_owned())),
    },
};

pub(super) static DATA_TYPE: Rule = Rule {
    accepted: "`\"float\"`, `\"float32\"`",
    effect: "embedgate always sends this",
    judge: |_, _, value| one_of(value, &["float", "float32"]),
};

pub(super) static ENCODING: Rule = Rule {
    accepted: "`\"float\"`, `\"base64\"`, or an array of one of them",
    effect: "`\"base64\"` is the same as in `encoding_format`; `\"float\"` names the type of the numbers, however they \
             are written",
    judge: |judge, name, value| match texts(value)? {
        [] => Ok(Effect::Ignored),
        [kind] if kind == "float" => Ok(Effect::Honoured),
        [kind] if kind == "base64" => judge.format.set(EncodingFormat::Base64, name),
        [_] => Err(Fault::supported("'float', 'base64'")),
        _ => Err(Fault::Value("An answer has one kind of vectors: send 'float' or 'base64'.".to_owned())),
    },
};

pub(super) static BYTE_ORDER: Rule = Rule {
    accepted: "`\"little\"`, `\"native\"`",
    effect: "embedgate always sends this",
    judge: |_, _, value| one_of(value, &["little", "native"]),
};

pub(super) static TRUNCATE: Rule = Rule {
    accepted: "`true`, `\"END\"`, `\"RIGHT\"`, `false`, `\"NONE\"`",
    effect: "texts that are too long are cut at their end, or (`false`, `\"NONE\"`) the answer is 400; ignored where the \
             header `x-embedgate-truncation` says otherwise",
    judge: |judge, name, value| {
        let is = |value: &str, names: [&str; 2]| names.iter().any(|name| value.eq_ignore_ascii_case(name));
        let policy = match value {
            ExtraValue::Bool(true) => TruncationPolicy::Truncate,
            ExtraValue::Bool(false) => TruncationPolicy::Error,
            ExtraValue::Text(end) if is(end, ["END", "RIGHT"]) => TruncationPolicy::Truncate,
            ExtraValue::Text(none) if none.eq_ignore_ascii_case("NONE") => TruncationPolicy::Error,
            ExtraValue::Text(_) => return Err(Fault::supported("true, false, 'END', 'NONE'")),
            _ => return Err(Fault::Type("a boolean or a string")),
        };
        truncation(judge, name, policy)
    },
};

pub(super) static MAX_TOKENS: Rule = Rule {
    accepted: "a number of tokens, special ones included; `-1` for the model's window",
    effect: "texts are cut at this number of tokens, or at the window if it is smaller",
    judge: |judge, name, value| {
        let least = judge.served.engine.num_special_tokens() + 1;
        let most = match integer(value)? {
            -1 => None,
            tokens => match usize::try_from(tokens) {
                Ok(tokens) if tokens >= least => Some(tokens),
                _ => return Err(Fault::Value(format!("Must be -1, or greater than or equal to {least}."))),
            },
        };
        if most.is_none() {
            return truncation(judge, name, TruncationPolicy::Truncate);
        }
        // A smaller window cannot be had together with another policy.
        let effect = judge.overlong.set(TruncationPolicy::Truncate, name)?;
        judge.max_input_tokens = most;
        Ok(effect)
    },
};

pub(super) static TRUNCATION_SIDE: Rule = Rule {
    accepted: "`\"right\"`",
    effect: "embedgate always does this: a text that is cut keeps its beginning",
    judge: |_, _, value| one_of(value, &["right"]),
};

/// Chooses the policy for overlong texts. embedgate's own header wins over the parameters of other vendors.
fn truncation(judge: &mut Judge<'_>, name: &'static str, policy: TruncationPolicy) -> Result<Effect, Fault> {
    match judge.overlong.0 {
        Some((chosen, TRUNCATION_HEADER)) if chosen != policy => Ok(Effect::Ignored),
        _ => judge.overlong.set(policy, name),
    }
}

fn normalize(judge: &mut Judge<'_>, name: &'static str, wanted: bool) -> Result<Effect, Fault> {
    let refuse = |reason: &str| {
        let subject = judge.served.subject(judge.model);
        Err(Fault::Value(format!("{subject} {reason}: leave '{name}' out.")))
    };
    match (wanted, judge.served.normalized) {
        (true, true) => Ok(Effect::Ignored),
        (false, true) => refuse("yields normalised vectors, and no others"),
        (false, false) if judge.dimensions.get().is_some_and(|wanted| wanted != judge.served.dimensions) => {
            refuse("has its vectors normalised when they are cut to fewer dimensions")
        }
        (true, false) => judge.normalize.set(true, name),
        (false, false) => judge.normalize.set(false, name).map(|_| Effect::Ignored),
    }
}

pub(super) static NORMALIZE: Rule = Rule {
    accepted: "`true`; `false` for a model without normalisation, unless its vectors are cut",
    effect: "`true` normalises the vectors of a model without normalisation; otherwise ignored",
    judge: |judge, name, value| normalize(judge, name, boolean(value)?),
};

pub(super) static NORM: Rule = Rule {
    accepted: "`2`; `-1` for a model without normalisation, unless its vectors are cut",
    effect: "`2` normalises the vectors of a model without normalisation; otherwise ignored",
    judge: |judge, name, value| match integer(value)? {
        2 => normalize(judge, name, true),
        -1 => normalize(judge, name, false),
        _ => Err(Fault::supported("2, -1")),
    },
};

/// Maps the names that vendors and models have for the two sides of a search to one name for each side.
fn side(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name.contains("query") {
        "query".to_owned()
    } else if name.contains("document") || name.contains("passage") {
        "document".to_owned()
    } else {
        name
    }
}

pub(super) static INPUT_TYPE: Rule = Rule {
    accepted: "any string, unless the model has a prompt for it that is not empty",
    effect: "ignored: without such a prompt the model reads every text in the same way",
    judge: |judge, _, value| {
        let wanted = side(text(value)?);
        let prompt =
            judge.served.prompts.iter().find(|(name, text)| !text.is_empty() && side(name) == wanted);
        prompt.map_or(Ok(Effect::Ignored), |(_, prompt)| Err(judge.refuse_prompt(prompt)))
    },
};

pub(super) static PROMPT_NAME: Rule = Rule {
    accepted: "the name of an empty prompt of the model",
    effect: "ignored: there is nothing to put in front of the texts",
    judge: |judge, _, value| match judge.served.prompts.get(text(value)?) {
        Some(prompt) if prompt.is_empty() => Ok(Effect::Ignored),
        Some(prompt) => Err(judge.refuse_prompt(prompt)),
        None => {
            let subject = judge.served.subject(judge.model);
            let names: Vec<_> = judge.served.prompts.keys().map(|name| format!("'{name}'")).collect();
            let has = if names.is_empty() {
                "no prompts".to_owned()
            } else {
                format!("the prompts {}", names.join(", "))
            };
            Err(Fault::Value(format!("{subject} has {has}.")))
        }
    },
};

pub(super) static PROMPT: Rule = Rule {
    accepted: "`\"\"`",
    effect: "ignored",
    judge: |_, name, value| match text(value)? {
        "" => Ok(Effect::Ignored),
        _ => Err(Fault::Message(format!(
            "'{name}' is not supported: put its text in front of each input, and do not send '{name}'."
        ))),
    },
};

pub(super) static OFF: Rule = Rule {
    accepted: "`false`",
    effect: "ignored: each input has one vector, of its own text alone",
    judge: |_, _, value| match boolean(value)? {
        false => Ok(Effect::Ignored),
        true => Err(Fault::supported("false")),
    },
};

pub(super) static ON: Rule = Rule {
    accepted: "`true`",
    effect: "ignored: embedgate always does this",
    judge: |_, _, value| match boolean(value)? {
        true => Ok(Effect::Ignored),
        false => Err(Fault::supported("true")),
    },
};

pub(super) static MODALITY: Rule = Rule {
    accepted: "`\"text\"`, or an array of nothing else",
    effect: "ignored: there are only texts",
    judge: |_, _, value| {
        if texts(value)?.iter().all(|modality| modality == "text") {
            Ok(Effect::Ignored)
        } else {
            Err(Fault::supported("'text'"))
        }
    },
};

pub(super) static PADDING: Rule = Rule {
    accepted: "any string",
    effect: "ignored: padding changes no vector",
    judge: |_, _, value| text(value).map(|_| Effect::Ignored),
};

pub(super) static PRIORITY: Rule = Rule {
    accepted: "any integer",
    effect: "ignored: requests have no priorities",
    judge: |_, _, value| integer(value).map(|_| Effect::Ignored),
};
