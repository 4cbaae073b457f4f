//! Parameters of other vendors' embedding APIs, which clients send to this one.
//!
//! [`PARAMETERS`] defines how each is treated (decision 0018): it is honoured, it is ignored because it changes nothing
//! for the model that answers, or the request is rejected, because the vectors would not be those that the client asked
//! for. A name that is not in the table is ignored like `user`. A new parameter is one row here; a new meaning is
//! one [`Rule`]. `docs/PARAMETERS.md` is generated from both by a test.

mod rules;

use inference::TruncationPolicy;
use openai_schema::{EmbeddingRequest, EncodingFormat, ExtraValue};

use crate::{
    config::UnsupportedParameters,
    error::ApiError,
    registry::{LoadedModel, echo},
    request::TRUNCATION_HEADER,
};

use rules::{Effect, Fault, Judge, Once};

/// A parameter of another vendor's API.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in the body.
    pub name: &'static str,
    /// The APIs and libraries that have it.
    pub vendors: &'static str,
    /// Its meaning.
    pub rule: &'static Rule,
}

/// The meaning of one or more parameters.
#[derive(Debug)]
pub struct Rule {
    /// The accepted values, in Markdown.
    pub accepted: &'static str,
    /// The effect of an accepted value, in Markdown.
    pub effect: &'static str,
    judge: fn(&mut Judge<'_>, &'static str, &ExtraValue) -> Result<Effect, Fault>,
}

const fn row(name: &'static str, vendors: &'static str, rule: &'static Rule) -> Parameter {
    Parameter { name, vendors, rule }
}

/// All known parameters, in the order in which they are judged: the size of the vectors comes before their
/// normalisation, which depends on it.
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
    row("modality", "infinity, NIM", &rules::MODALITY),
    row("padding", "vLLM", &rules::PADDING),
    row("priority", "vLLM", &rules::PRIORITY),
];

/// `key` as the table holds it, if it does.
pub(crate) fn known(key: &str) -> Option<&'static str> {
    PARAMETERS.iter().map(|parameter| parameter.name).find(|name| *name == key)
}

/// The options of a request, from OpenAI's parameters and from those of other vendors.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) format: EncodingFormat,
    /// The length to which vectors are cut and then normalised. The model's own length only normalises the vectors of a
    /// model that does not.
    pub(crate) cut: Option<usize>,
    pub(crate) overlong: TruncationPolicy,
    pub(crate) max_input_tokens: Option<usize>,
    /// The parameters of other vendors that are ignored.
    pub(crate) ignored: Vec<&'static str>,
}

/// Judges the parameters of `request`, which `served` will answer; `overlong` is the policy that its header names.
///
/// # Errors
/// 400 for `dimensions` that the model does not have, and for a parameter of another vendor that cannot be honoured,
/// unless `unsupported` says to ignore those.
pub(crate) fn judge(
    request: &EmbeddingRequest,
    served: &LoadedModel,
    overlong: Option<TruncationPolicy>,
    unsupported: UnsupportedParameters,
) -> Result<Wanted, ApiError> {
    let mut judge = Judge::new(served, &request.model);
    judge.format = Once::given(request.encoding_format, "encoding_format");
    judge.overlong = Once::given(overlong, TRUNCATION_HEADER);
    if let Some(dimensions) = request.dimensions {
        judge.dimensions(dimensions as usize, "dimensions").map_err(|fault| {
            ApiError::invalid(fault.message("dimensions", &dimensions.to_string())).about("dimensions")
        })?;
    }
    let mut ignored = Vec::new();
    for Parameter { name, rule, .. } in PARAMETERS {
        let Some((_, value)) = request.extra.iter().find(|(known, _)| known == name) else { continue };
        let effect = match value {
            ExtraValue::Null => Ok(Effect::Ignored),
            value => (rule.judge)(&mut judge, name, value),
        };
        match (effect, unsupported) {
            (Ok(Effect::Honoured), _) => {}
            (Ok(Effect::Ignored), _) | (Err(_), UnsupportedParameters::Ignore) => {
                ignored.push(*name);
            }
            (Err(fault), UnsupportedParameters::Reject) => {
                return Err(ApiError::invalid(fault.message(name, &shown(value))).about(name));
            }
        }
    }
    Ok(judge.wanted(ignored))
}

/// A value as an error repeats it.
fn shown(value: &ExtraValue) -> String {
    match value {
        ExtraValue::Null => "null".to_owned(),
        ExtraValue::Bool(value) => value.to_string(),
        ExtraValue::Integer(value) => value.to_string(),
        ExtraValue::Text(text) => echo(text),
        ExtraValue::Texts(texts) => echo(&format!("{texts:?}")),
        ExtraValue::Other => "…".to_owned(),
    }
}
