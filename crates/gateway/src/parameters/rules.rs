//! The meanings of parameters. Each is a [`Rule`] with a function that applies a value.

use inference::TruncationPolicy;
use openai_schema::{EncodingFormat, ExtraValue};

use super::{RequestOptions, Rule, TRUNCATION_HEADER};
use crate::{
    error::ApiError,
    prompts::NamedPrompt,
    registry::{LoadedModel, RequestedModel},
};

/// Effect of an accepted value.
pub(super) enum Effect {
    /// The vectors are as it requires.
    Honored,
    /// It changes nothing for the requested model.
    Ignored,
}

/// A value that cannot be honored.
#[derive(Debug)]
pub(super) enum ParameterError {
    /// Its type is not this one.
    Type(&'static str),
    /// It is invalid or not supported, for this reason in complete sentences.
    Value(String),
    /// A complete message, which does not repeat the value.
    Message(String),
}

impl ParameterError {
    fn supported(values: &str) -> Self {
        Self::Value(format!("Supported values: [{values}]."))
    }

    /// The message for the client.
    pub(super) fn message(&self, name: &str, value: &str) -> String {
        match self {
            Self::Type(expected) => format!("Invalid type for '{name}': expected {expected}."),
            Self::Value(reason) => format!("Invalid value for '{name}' = {value}. {reason}"),
            Self::Message(message) => message.clone(),
        }
    }
}

/// An option that several parameters can set to one value, and the parameter that set it.
pub(super) struct SingleChoice<T>(Option<(T, &'static str)>);

impl<T: Copy + PartialEq> SingleChoice<T> {
    /// The option as the parameter `name` sets it.
    pub(super) fn new(value: Option<T>, name: &'static str) -> Self {
        Self(value.map(|value| (value, name)))
    }

    pub(super) fn get(&self) -> Option<T> {
        self.0.map(|(value, _)| value)
    }

    /// Sets the option by the parameter `name`.
    ///
    /// # Errors
    /// If another parameter has set another value.
    fn set(&mut self, value: T, name: &'static str) -> Result<Effect, ParameterError> {
        match self.0 {
            Some((chosen, by)) if chosen != value => {
                Err(ParameterError::Value(format!("It contradicts '{by}': send one of them.")))
            }
            _ => {
                self.0.get_or_insert((value, name));
                Ok(Effect::Honored)
            }
        }
    }
}

/// The prompt that a parameter selects; `None` for no prompt. Two are equal if they put the same text before inputs.
#[derive(Clone, Copy)]
struct SelectedPrompt<'a>(Option<&'a NamedPrompt>);

impl PartialEq for SelectedPrompt<'_> {
    fn eq(&self, other: &Self) -> bool {
        let text =
            |selected: &Self| selected.0.and_then(|named| Some(named.prompt.as_ref()?.text().to_owned()));
        text(self) == text(other)
    }
}

/// Options of one request while its parameters are applied.
pub(super) struct OptionsBuilder<'a> {
    served: &'a LoadedModel,
    /// The prompt of the requested name.
    alias_prompt: Option<&'a NamedPrompt>,
    /// Value of `dimensions` that means the model's own length.
    native_dimensions: Option<usize>,
    /// True if the inputs are ids of the model's vocabulary, to which no text can be prepended.
    has_token_ids: bool,
    /// The requested name of the model.
    model: &'a str,
    /// Name of the field with the inputs.
    input_name: &'static str,
    dimensions: SingleChoice<usize>,
    pub(super) format: SingleChoice<EncodingFormat>,
    /// Integers that the vectors are quantized to.
    quantized: SingleChoice<EncodingFormat>,
    pub(super) truncation: SingleChoice<TruncationPolicy>,
    max_input_tokens: Option<usize>,
    normalize: SingleChoice<bool>,
    prompt: SingleChoice<SelectedPrompt<'a>>,
}

impl<'a> OptionsBuilder<'a> {
    pub(super) fn new(
        requested: &'a RequestedModel,
        model: &'a str,
        input_name: &'static str,
        has_token_ids: bool,
    ) -> Self {
        let RequestedModel { served, prompt: alias_prompt, native_dimensions } = requested;
        Self {
            served,
            alias_prompt: alias_prompt.as_ref(),
            native_dimensions: *native_dimensions,
            has_token_ids,
            model,
            input_name,
            dimensions: SingleChoice(None),
            format: SingleChoice(None),
            quantized: SingleChoice(None),
            truncation: SingleChoice(None),
            max_input_tokens: None,
            normalize: SingleChoice(None),
            prompt: SingleChoice(None),
        }
    }

    /// Sets the length of the vectors. A length that only means the model's own one is ignored.
    ///
    /// # Errors
    /// If the model does not support it, or another parameter has set another one.
    pub(super) fn dimensions(
        &mut self,
        requested: usize,
        name: &'static str,
    ) -> Result<Effect, ParameterError> {
        let LoadedModel { dimensions, matryoshka, .. } = self.served;
        let (own, mut sizes) = (*dimensions, matryoshka.clone());
        if !sizes.contains(&own) {
            sizes.push(own);
        }
        if sizes.contains(&requested) {
            return self.dimensions.set(requested, name);
        }
        if self.native_dimensions == Some(requested) {
            return Ok(Effect::Ignored);
        }
        let reason = if requested > own {
            format!("Invalid value for '{name}' = {requested}. Must be less than or equal to {own}.")
        } else if matryoshka.is_empty() {
            "This model does not support specifying dimensions.".to_owned()
        } else {
            format!("Invalid value for '{name}' = {requested}. Supported values: {sizes:?}.")
        };
        let subject = self.served.subject(self.model);
        let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
        let sizes = sizes.join(" or ");
        Err(ParameterError::Message(format!(
            "{reason} {subject} has {own} dimensions: leave '{name}' out, or send {sizes}."
        )))
    }

    /// The integers that the vectors are quantized to, and the parameter that chose them.
    fn quantized(&self) -> Option<(EncodingFormat, &'static str)> {
        self.quantized.0
    }

    /// The prompt for a request without a parameter for it, and true if the requested name selects it.
    fn inherited_prompt(&self) -> Option<(&'a NamedPrompt, bool)> {
        let of_alias = self.alias_prompt.map(|prompt| (prompt, true));
        of_alias.or_else(|| self.served.prompts.default().map(|prompt| (prompt, false)))
    }

    /// Selects a prompt of the model, or none, by the parameter `name`.
    ///
    /// # Errors
    /// If the inputs are token ids, or another parameter selects another prompt.
    fn select_prompt(
        &mut self,
        prompt: Option<&'a NamedPrompt>,
        name: &'static str,
    ) -> Result<Effect, ParameterError> {
        let has_text = |prompt: &NamedPrompt| prompt.prompt.is_some();
        let applies = prompt.is_some_and(has_text);
        if applies && self.has_token_ids {
            let reason = "A prompt cannot be put before token ids: send text.";
            return Err(ParameterError::Value(reason.to_owned()));
        }
        self.prompt.set(SelectedPrompt(prompt), name)?;
        // No prompt is a choice only in place of one.
        let replaces = self.inherited_prompt().is_some_and(|(prompt, _)| has_text(prompt));
        Ok(if applies || replaces { Effect::Honored } else { Effect::Ignored })
    }

    /// The prompt of the request, and the names of the prompts of which the model expects one, if none applies.
    ///
    /// # Errors
    /// 400 if the inputs are token ids and the requested name stands for a prompt.
    fn prompt(&self) -> Result<(Option<NamedPrompt>, Vec<String>), ApiError> {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let (prompt, by_alias) = match (self.prompt.get(), self.inherited_prompt()) {
            (Some(SelectedPrompt(selected)), _) => return Ok((selected.cloned(), Vec::new())),
            (None, Some(inherited)) => inherited,
            (None, None) => return Ok((None, owned(self.served.prompts.needed()))),
        };
        match (&prompt.prompt, self.has_token_ids, by_alias) {
            (Some(_), true, true) => {
                let (subject, name, input) = (self.served.subject(self.model), &prompt.name, self.input_name);
                Err(ApiError::invalid(format!(
                    "Invalid '{input}': {subject} puts the prompt '{name}' before every input, which token ids cannot \
                     have: send text."
                )))
            }
            (Some(_), true, false) => Ok((None, owned(vec![&prompt.name]))),
            _ => Ok((Some(prompt.clone()), Vec::new())),
        }
    }

    /// The options, once all parameters are applied.
    ///
    /// # Errors
    /// 400 if the inputs are token ids and the requested name stands for a prompt.
    pub(super) fn build(&self, mut ignored: Vec<&'static str>) -> Result<RequestOptions, ApiError> {
        let (prompt, missing_prompts) = self.prompt()?;
        let own = self.served.dimensions;
        let truncated = self.dimensions.get().filter(|&dimensions| dimensions != own);
        let normalize = self.normalize.get() == Some(true) && !self.served.normalized;
        let quantized = self.quantized();
        let needs_norm = matches!(quantized, Some((EncodingFormat::Int8 | EncodingFormat::Uint8, _)));
        if let Some((format, name)) = quantized
            && needs_norm
            && !(self.served.normalized || normalize || truncated.is_some())
        {
            let (subject, format) = (self.served.subject(self.model), format.name());
            return Err(ApiError::invalid(format!(
                "Invalid value for '{name}' = {format}. {subject} has vectors without norm 1, for whose numbers there \
                 is no fixed range: send 'normalize': true, or 'binary' or 'ubinary'."
            ))
            .about(name));
        }
        // OpenAI's SDKs ask for base64 unasked and read floats of 32 bits from it, but take arrays as they are.
        if let (Some(_), Some((EncodingFormat::Base64, name))) = (quantized, self.format.0) {
            ignored.push(name);
        }
        Ok(RequestOptions {
            format: quantized.map(|(format, _)| format).or(self.format.get()).unwrap_or_default(),
            output_dimensions: truncated.or(normalize.then_some(own)),
            truncation: self.truncation.get().unwrap_or(self.served.truncation),
            max_input_tokens: self.max_input_tokens,
            prompt,
            missing_prompts,
            ignored,
        })
    }
}

fn boolean(value: &ExtraValue) -> Result<bool, ParameterError> {
    match value {
        ExtraValue::Bool(value) => Ok(*value),
        _ => Err(ParameterError::Type("a boolean")),
    }
}

fn integer(value: &ExtraValue) -> Result<i128, ParameterError> {
    match value {
        ExtraValue::Integer(value) => Ok(*value),
        _ => Err(ParameterError::Type("an integer")),
    }
}

fn text(value: &ExtraValue) -> Result<&str, ParameterError> {
    match value {
        ExtraValue::Text(text) => Ok(text),
        _ => Err(ParameterError::Type("a string")),
    }
}

/// The strings of an array, or a single string.
fn texts(value: &ExtraValue) -> Result<&[String], ParameterError> {
    match value {
        ExtraValue::Text(text) => Ok(std::slice::from_ref(text)),
        ExtraValue::Texts(texts) => Ok(texts),
        _ => Err(ParameterError::Type("a string or an array of at most 16 different strings")),
    }
}

/// Accepts a value that is one of `supported`, in any letter case.
fn one_of(value: &ExtraValue, supported: &[&str]) -> Result<Effect, ParameterError> {
    let value = text(value)?;
    if supported.iter().any(|supported| value.eq_ignore_ascii_case(supported)) {
        return Ok(Effect::Honored);
    }
    let supported: Vec<_> = supported.iter().map(|value| format!("'{value}'")).collect();
    Err(ParameterError::supported(&supported.join(", ")))
}

pub(super) static DIMENSIONS: Rule = Rule {
    accepted: "the sizes that `dimensions` takes",
    effect: "the same as `dimensions`",
    apply: |builder, name, value| match usize::try_from(integer(value)?) {
        Ok(dimensions @ 1..) => builder.dimensions(dimensions, name),
        _ => Err(ParameterError::Value("Must be greater than or equal to 1.".to_owned())),
    },
};

pub(super) static DATA_TYPE: Rule = Rule {
    accepted: "`\"float\"`, `\"float32\"`, `\"int8\"`, `\"uint8\"`, `\"binary\"`, `\"ubinary\"`",
    effect: "the type of the numbers, by the formulas below; integers are always sent in arrays",
    apply: |builder, name, value| {
        let kind = text(value)?;
        match quantized_format(kind) {
            Some(format) => builder.quantized.set(format, name),
            None if ["float", "float32"].iter().any(|float| kind.eq_ignore_ascii_case(float)) => {
                Ok(Effect::Honored)
            }
            None => Err(ParameterError::supported("'float', 'int8', 'uint8', 'binary', 'ubinary'")),
        }
    },
};

/// The format of this name, if it is of integers.
fn quantized_format(name: &str) -> Option<EncodingFormat> {
    use EncodingFormat::{Binary, Int8, Ubinary, Uint8};
    [Int8, Uint8, Binary, Ubinary].into_iter().find(|format| name.eq_ignore_ascii_case(format.name()))
}

pub(super) static ENCODING: Rule = Rule {
    accepted: "`\"float\"`, `\"base64\"`, `\"int8\"`, `\"uint8\"`, `\"binary\"`, `\"ubinary\"`, or an array of one of \
               them",
    effect: "`\"base64\"` is the same as in `encoding_format`; the others name the type of the numbers, as in \
             `output_dtype`",
    apply: |builder, name, value| match texts(value)? {
        [] => Ok(Effect::Ignored),
        [kind] if kind == "float" => Ok(Effect::Honored),
        [kind] if kind == "base64" => builder.format.set(EncodingFormat::Base64, name),
        [kind] => match quantized_format(kind) {
            Some(format) => builder.quantized.set(format, name),
            None => Err(ParameterError::supported("'float', 'base64', 'int8', 'uint8', 'binary', 'ubinary'")),
        },
        _ => Err(ParameterError::Value("A response has one encoding: send one of them.".to_owned())),
    },
};

pub(super) static BYTE_ORDER: Rule = Rule {
    accepted: "`\"little\"`, `\"native\"`",
    effect: "embedgate always sends this",
    apply: |_, _, value| one_of(value, &["little", "native"]),
};

pub(super) static TRUNCATE: Rule = Rule {
    accepted: "`true`, `\"END\"`, `\"RIGHT\"`, `false`, `\"NONE\"`",
    effect: "inputs that are too long are truncated at their end, or (`false`, `\"NONE\"`) rejected with 400; \
             ignored if the header `x-embedgate-truncation` sets another policy",
    apply: |builder, name, value| {
        let is = |value: &str, names: [&str; 2]| names.iter().any(|name| value.eq_ignore_ascii_case(name));
        let policy = match value {
            ExtraValue::Bool(true) => TruncationPolicy::Truncate,
            ExtraValue::Bool(false) => TruncationPolicy::Error,
            ExtraValue::Text(end) if is(end, ["END", "RIGHT"]) => TruncationPolicy::Truncate,
            ExtraValue::Text(none) if none.eq_ignore_ascii_case("NONE") => TruncationPolicy::Error,
            ExtraValue::Text(_) => return Err(ParameterError::supported("true, false, 'END', 'NONE'")),
            _ => return Err(ParameterError::Type("a boolean or a string")),
        };
        set_truncation(builder, name, policy)
    },
};

pub(super) static MAX_TOKENS: Rule = Rule {
    accepted: "a number of tokens, special ones included; `-1` for the model's maximum",
    effect: "inputs are truncated to this number of tokens, or to the model's maximum if that is smaller",
    apply: |builder, name, value| {
        let min = builder.served.engine.num_special_tokens() + 1;
        let max = match integer(value)? {
            -1 => None,
            tokens => match usize::try_from(tokens) {
                Ok(tokens) if tokens >= min => Some(tokens),
                _ => {
                    return Err(ParameterError::Value(format!(
                        "Must be -1, or greater than or equal to {min}."
                    )));
                }
            },
        };
        if max.is_none() {
            return set_truncation(builder, name, TruncationPolicy::Truncate);
        }
        // Another policy cannot be combined with a smaller maximum.
        let effect = builder.truncation.set(TruncationPolicy::Truncate, name)?;
        builder.max_input_tokens = max;
        Ok(effect)
    },
};

pub(super) static TRUNCATION_SIDE: Rule = Rule {
    accepted: "`\"right\"`",
    effect: "embedgate always does this: a truncated input keeps its beginning",
    apply: |_, _, value| one_of(value, &["right"]),
};

/// Sets the policy for long inputs. embedgate's own header takes precedence over parameters of other vendors.
fn set_truncation(
    builder: &mut OptionsBuilder<'_>,
    name: &'static str,
    policy: TruncationPolicy,
) -> Result<Effect, ParameterError> {
    match builder.truncation.0 {
        Some((chosen, TRUNCATION_HEADER)) if chosen != policy => Ok(Effect::Ignored),
        _ => builder.truncation.set(policy, name),
    }
}

fn set_normalize(
    builder: &mut OptionsBuilder<'_>,
    name: &'static str,
    normalize: bool,
) -> Result<Effect, ParameterError> {
    let reject = |reason: &str| {
        let subject = builder.served.subject(builder.model);
        Err(ParameterError::Value(format!("{subject} {reason}: leave '{name}' out.")))
    };
    match (normalize, builder.served.normalized) {
        (true, true) => Ok(Effect::Ignored),
        (false, true) => reject("only has normalized vectors"),
        (false, false)
            if builder.dimensions.get().is_some_and(|requested| requested != builder.served.dimensions) =>
        {
            reject("has normalized vectors when they are truncated to fewer dimensions")
        }
        (true, false) => builder.normalize.set(true, name),
        (false, false) => builder.normalize.set(false, name).map(|_| Effect::Ignored),
    }
}

pub(super) static NORMALIZE: Rule = Rule {
    accepted: "`true`; `false` for a model without normalization, unless its vectors are truncated",
    effect: "`true` normalizes the vectors of a model without normalization; otherwise ignored",
    apply: |builder, name, value| set_normalize(builder, name, boolean(value)?),
};

pub(super) static NORM: Rule = Rule {
    accepted: "`2`; `-1` for a model without normalization, unless its vectors are truncated",
    effect: "`2` normalizes the vectors of a model without normalization; otherwise ignored",
    apply: |builder, name, value| match integer(value)? {
        2 => set_normalize(builder, name, true),
        -1 => set_normalize(builder, name, false),
        _ => Err(ParameterError::supported("2, -1")),
    },
};

pub(super) static INPUT_TYPE: Rule = Rule {
    accepted: "any string",
    effect: "selects the model's prompt for this kind of input, by the table below; ignored if the model has none",
    apply: |builder, name, value| match builder.served.prompts.for_input_type(text(value)?) {
        Some(prompt) => builder.select_prompt(Some(prompt), name),
        None => Ok(Effect::Ignored),
    },
};

pub(super) static PROMPT_NAME: Rule = Rule {
    accepted: "the name of a prompt of the model",
    effect: "selects this prompt; ignored if its text is empty and no other prompt would apply",
    apply: |builder, name, value| match builder.served.prompts.get(text(value)?) {
        Some(prompt) => builder.select_prompt(Some(prompt), name),
        None => {
            let (subject, has) = (builder.served.subject(builder.model), builder.served.prompts.describe());
            Err(ParameterError::Value(format!("{subject} has {has}.")))
        }
    },
};

pub(super) static PROMPT: Rule = Rule {
    accepted: "`\"\"`",
    effect: "no prompt is put before the inputs; ignored if none would be",
    apply: |builder, name, value| match text(value)? {
        "" => builder.select_prompt(None, name),
        _ => Err(ParameterError::Message(format!(
            "'{name}' is not supported: prepend its text to each input, and do not send '{name}'."
        ))),
    },
};

pub(super) static ANY: Rule = Rule {
    accepted: "any value",
    effect: "ignored: the settings of the server decide it",
    apply: |_, _, _| Ok(Effect::Ignored),
};

pub(super) static OFF: Rule = Rule {
    accepted: "`false`",
    effect: "ignored: each input has one vector, computed from it alone",
    apply: |_, _, value| match boolean(value)? {
        false => Ok(Effect::Ignored),
        true => Err(ParameterError::supported("false")),
    },
};

pub(super) static ON: Rule = Rule {
    accepted: "`true`",
    effect: "ignored: embedgate always does this",
    apply: |_, _, value| match boolean(value)? {
        true => Ok(Effect::Ignored),
        false => Err(ParameterError::supported("true")),
    },
};

pub(super) static MODALITY: Rule = Rule {
    accepted: "`\"text\"`, or an array of only this value",
    effect: "ignored: all inputs are text",
    apply: |_, _, value| {
        if texts(value)?.iter().all(|modality| modality == "text") {
            Ok(Effect::Ignored)
        } else {
            Err(ParameterError::supported("'text'"))
        }
    },
};

pub(super) static PADDING: Rule = Rule {
    accepted: "any string",
    effect: "ignored: padding changes no vector",
    apply: |_, _, value| text(value).map(|_| Effect::Ignored),
};

pub(super) static PRIORITY: Rule = Rule {
    accepted: "any integer",
    effect: "ignored: requests have no priorities",
    apply: |_, _, value| integer(value).map(|_| Effect::Ignored),
};
