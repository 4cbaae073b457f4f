//! Parameters of other vendors' embedding APIs, which clients send to this one.
//!
//! [`PARAMETERS`] defines how each is treated (docs/adr/0018): it is honored, it is ignored because it changes nothing
//! for the requested model, or the request is rejected because the client would get other vectors than it requested. A
//! name that is not in the table is ignored, like `user`. A new parameter is one row here; a new meaning is one
//! [`Rule`]. A test generates `docs/PARAMETERS.md` from both.

mod rules;

use inference::TruncationPolicy;
use openai_schema::{EmbeddingInput, EmbeddingRequest, EncodingFormat, ExtraValue};

use crate::{
    config::{TokenIds, UnsupportedParameters},
    error::ApiError,
    prompts::NamedPrompt,
    registry::{RequestedModel, echo},
};

use rules::{Effect, OptionsBuilder, ParameterError, SingleChoice};

/// Header with a request's policy for inputs that are longer than the model's maximum.
pub(crate) const TRUNCATION_HEADER: &str = "x-embedgate-truncation";

/// A parameter of another vendor's API.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in the body.
    pub name: &'static str,
    /// The APIs and libraries that have it.
    pub vendors: &'static str,
    /// Its meaning.
    pub rule: &'static Rule,
    /// True if only the vendor's own route reads it. OpenAI's route ignores it, as any name that it does not know.
    pub own_route: bool,
}

/// The meaning of one or more parameters.
#[derive(Debug)]
pub struct Rule {
    /// The accepted values, in Markdown.
    pub accepted: &'static str,
    /// The effect of an accepted value, in Markdown.
    pub effect: &'static str,
    apply: fn(&mut OptionsBuilder<'_>, &'static str, &ExtraValue) -> Result<Effect, ParameterError>,
}

const fn row(name: &'static str, vendors: &'static str, rule: &'static Rule) -> Parameter {
    Parameter { name, vendors, rule, own_route: false }
}

/// All known parameters, in the order in which they are applied: the dimensions come before the normalization, which
/// depends on them.
pub const PARAMETERS: &[Parameter] = &[
    row("output_dimension", "Voyage, Mistral, Cohere", &rules::DIMENSIONS),
    row("output_dimensionality", "Gemini", &rules::DIMENSIONS),
    row("truncate_dim", "sentence-transformers", &rules::DIMENSIONS),
    row("output_dtype", "Voyage, Mistral", &rules::DATA_TYPE),
    row("embed_dtype", "vLLM", &rules::DATA_TYPE),
    row("embedding_type", "Jina, NIM", &rules::ENCODING),
    row("embedding_types", "Cohere", &rules::ENCODING),
    row("encoding_type", "Jina, through LlamaIndex", &rules::ENCODING),
    row("endianness", "vLLM", &rules::BYTE_ORDER),
    row("truncate", "TEI, NIM, Jina, Cohere, Ollama", &rules::TRUNCATE),
    row("truncation", "Voyage", &rules::TRUNCATE),
    row("auto_truncate", "Vertex AI", &rules::TRUNCATE),
    row("truncate_prompt_tokens", "vLLM", &rules::MAX_TOKENS),
    Parameter { own_route: true, ..row("max_tokens", "Cohere, on its own routes only", &rules::MAX_TOKENS) },
    row("truncation_direction", "TEI", &rules::TRUNCATION_SIDE),
    row("truncation_side", "vLLM", &rules::TRUNCATION_SIDE),
    row("normalize", "TEI, vLLM, Ollama", &rules::NORMALIZE),
    row("normalized", "Jina", &rules::NORMALIZE),
    row("normalize_embeddings", "sentence-transformers", &rules::NORMALIZE),
    row("use_activation", "vLLM", &rules::NORMALIZE),
    row("embd_normalize", "llama.cpp", &rules::NORM),
    row("input_type", "Voyage, NIM, Cohere", &rules::INPUT_TYPE),
    row("task", "Jina", &rules::INPUT_TYPE),
    row("task_type", "Nomic, Gemini", &rules::INPUT_TYPE),
    row("text_type", "DashScope", &rules::INPUT_TYPE),
    row("prompt_name", "TEI, sentence-transformers", &rules::PROMPT_NAME),
    row("prompt", "sentence-transformers", &rules::PROMPT),
    row("instruction", "Instructor", &rules::PROMPT),
    row("late_chunking", "Jina", &rules::OFF),
    row("return_multivector", "Jina", &rules::OFF),
    row("add_special_tokens", "vLLM", &rules::ON),
    row("keep_alive", "Ollama", &rules::ANY),
    row("options", "Ollama", &rules::ANY),
    row("modality", "infinity, NIM", &rules::MODALITY),
    row("padding", "vLLM", &rules::PADDING),
    row("priority", "vLLM", &rules::PRIORITY),
];

/// The name in the table that equals `key`, if there is one.
pub(crate) fn known(key: &str) -> Option<&'static str> {
    PARAMETERS.iter().map(|parameter| parameter.name).find(|name| *name == key)
}

/// The same, among the parameters that OpenAI's route reads.
pub(crate) fn known_to_openai(key: &str) -> Option<&'static str> {
    let mut read = PARAMETERS.iter().filter(|parameter| !parameter.own_route);
    read.find(|parameter| parameter.name == key).map(|parameter| parameter.name)
}

/// Options of a request, from OpenAI's parameters and those of other vendors.
#[derive(Debug)]
pub(crate) struct RequestOptions {
    pub(crate) format: EncodingFormat,
    /// Length to which vectors are truncated before they are normalized. At the model's own length, they are only
    /// normalized.
    pub(crate) output_dimensions: Option<usize>,
    pub(crate) truncation: TruncationPolicy,
    pub(crate) max_input_tokens: Option<usize>,
    /// The prompt to put before every input.
    pub(crate) prompt: Option<NamedPrompt>,
    /// Names of the prompts of which the model expects one, if the inputs get none.
    pub(crate) missing_prompts: Vec<String>,
    /// Parameters of other vendors that are ignored.
    pub(crate) ignored: Vec<&'static str>,
}

/// Resolves the parameters of a request for the model `requested`. `truncation` is the policy in the request's header.
///
/// # Errors
/// 400 for `dimensions` that the model does not support, for token ids to an alias with a prompt, and for a parameter
/// of another vendor that cannot be honored, unless `unsupported` is to ignore those.
pub(crate) fn resolve(
    request: &EmbeddingRequest,
    requested: &RequestedModel,
    truncation: Option<TruncationPolicy>,
    unsupported: UnsupportedParameters,
) -> Result<RequestOptions, ApiError> {
    let has_token_ids = matches!(request.input, EmbeddingInput::Tokens(_) | EmbeddingInput::TokenArrays(_))
        && requested.served.token_ids == TokenIds::Native;
    let mut builder = OptionsBuilder::new(requested, &request.model, request.input_name, has_token_ids);
    builder.format = SingleChoice::new(request.encoding_format, "encoding_format");
    builder.truncation = SingleChoice::new(truncation, TRUNCATION_HEADER);
    let mut ignored = Vec::new();
    if let Some(dimensions) = request.dimensions {
        let effect = builder.dimensions(dimensions as usize, "dimensions").map_err(|error| {
            ApiError::invalid(error.message("dimensions", &dimensions.to_string())).about("dimensions")
        })?;
        if let Effect::Ignored = effect {
            ignored.push("dimensions");
        }
    }
    apply_extra(&mut builder, &request.extra, unsupported, &mut ignored)?;
    builder.build(ignored)
}

/// Resolves the parameters `extra` of a request to rerank by the model `requested`, of which only those about
/// truncation have a meaning. `truncation` is the policy in the request's header. Returns the policy, and the names of
/// the parameters that are ignored.
///
/// # Errors
/// 400 for a parameter that cannot be honored, unless `unsupported` is to ignore those.
pub(crate) fn resolve_truncation(
    requested: &RequestedModel,
    (model, input_name): (&str, &'static str),
    extra: &[(&'static str, ExtraValue)],
    truncation: Option<TruncationPolicy>,
    unsupported: UnsupportedParameters,
) -> Result<(TruncationPolicy, Vec<&'static str>), ApiError> {
    let mut builder = OptionsBuilder::new(requested, model, input_name, false);
    builder.truncation = SingleChoice::new(truncation, TRUNCATION_HEADER);
    let mut ignored = Vec::new();
    apply_extra(&mut builder, extra, unsupported, &mut ignored)?;
    Ok((builder.truncation.get().unwrap_or(requested.served.truncation), ignored))
}

/// Applies the parameters `extra` in the order of the table, and adds those without effect to `ignored`.
///
/// # Errors
/// 400 for a parameter that cannot be honored, unless `unsupported` is to ignore those.
fn apply_extra(
    builder: &mut OptionsBuilder<'_>,
    extra: &[(&'static str, ExtraValue)],
    unsupported: UnsupportedParameters,
    ignored: &mut Vec<&'static str>,
) -> Result<(), ApiError> {
    for Parameter { name, rule, .. } in PARAMETERS {
        let Some((_, value)) = extra.iter().find(|(known, _)| known == name) else { continue };
        let effect = match value {
            ExtraValue::Null => Ok(Effect::Ignored),
            value => (rule.apply)(builder, name, value),
        };
        match (effect, unsupported) {
            (Ok(Effect::Honored), _) => {}
            (Ok(Effect::Ignored), _) | (Err(_), UnsupportedParameters::Ignore) => {
                ignored.push(*name);
            }
            (Err(error), UnsupportedParameters::Reject) => {
                return Err(ApiError::invalid(error.message(name, &display(value))).about(name));
            }
        }
    }
    Ok(())
}

/// A value for an error message.
fn display(value: &ExtraValue) -> String {
    match value {
        ExtraValue::Null => "null".to_owned(),
        ExtraValue::Bool(value) => value.to_string(),
        ExtraValue::Integer(value) => value.to_string(),
        ExtraValue::Text(text) => echo(text),
        ExtraValue::Texts(texts) => echo(&format!("{texts:?}")),
        ExtraValue::Other => "…".to_owned(),
    }
}
