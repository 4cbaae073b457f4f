//! Cohere's embedding API: `POST /v2/embed` and `POST /v1/embed`.
//!
//! Texts only: requests with `images` or `inputs` are rejected. The response does not repeat the texts.

use actix_web::HttpResponse;
use openai_schema::{EmbeddingRequest, EncodingFormat, ExtraValue, ModelField, RequestFormat};
use serde_json::json;

use super::{
    inference_call::{Embedded, InferenceCall},
    vector_lists::{VectorList, VectorLists},
};
use crate::{body::Body, error::ApiError, registry::echo};

/// Name of the parameter that lists the formats of the response.
const TYPES: &str = "embedding_types";

/// The formats of vectors, under Cohere's names.
const FORMATS: [EncodingFormat; 6] = [
    EncodingFormat::Float,
    EncodingFormat::Int8,
    EncodingFormat::Uint8,
    EncodingFormat::Binary,
    EncodingFormat::Ubinary,
    EncodingFormat::Base64,
];

/// Version of Cohere's API.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ApiVersion {
    V1,
    V2,
}

/// `POST /v1/embed`.
pub(super) async fn embed_v1(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    embed(call, body, ApiVersion::V1).await
}

/// `POST /v2/embed`.
pub(super) async fn embed_v2(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    embed(call, body, ApiVersion::V2).await
}

async fn embed(call: InferenceCall, body: Body, version: ApiVersion) -> Result<HttpResponse, ApiError> {
    let format = RequestFormat { input: "texts", model: ModelField::Required, extra_name };
    let ((request, types), arrival) = call.parse(body, move |body| parse(body, format)).await?;
    let Embedded { vectors, tokens, head, .. } = call.embed(request, arrival).await?;
    let units = json!({ "input_tokens": tokens });
    let meta = |version: &str| json!({ "api_version": { "version": version }, "billed_units": units });
    let id = &call.context.id;
    let response = match types {
        None if version == ApiVersion::V1 => VectorLists::floats(
            vectors,
            format!(r#"{{"response_type":"embeddings_floats","id":"{id}","texts":[],"embeddings":["#),
            format!(r#"],"meta":{}}}"#, meta("1")),
        ),
        types => {
            let formats = types.unwrap_or_else(|| vec![EncodingFormat::Float]);
            let beginning = match version {
                ApiVersion::V1 => r#","texts":[]"#,
                ApiVersion::V2 => "",
            };
            let meta = meta(if version == ApiVersion::V1 { "1" } else { "2" });
            let last = formats.len().saturating_sub(1);
            let list = |(index, format): (usize, EncodingFormat)| {
                let key = format!(r#""{}":["#, format.name());
                let head = if index == 0 {
                    format!(
                        r#"{{"response_type":"embeddings_by_type","id":"{id}"{beginning},"embeddings":{{{key}"#
                    )
                } else {
                    format!(",{key}")
                };
                let tail = if index == last { format!(r#"]}},"meta":{meta}}}"#) } else { "]".to_owned() };
                VectorList { head, format, tail }
            };
            VectorLists::new(vectors, formats.into_iter().enumerate().map(list).collect())
        }
    };
    Ok(head.send(response))
}

/// Keeps Cohere's parameters, and `normalize`, an extension without which some models have no integers of 8 bits.
fn extra_name(key: &str) -> Option<&'static str> {
    const KEPT: [&str; 9] = [
        TYPES,
        "truncate",
        "max_tokens",
        "output_dimension",
        "input_type",
        "priority",
        "images",
        "inputs",
        "normalize",
    ];
    KEPT.into_iter().find(|kept| *kept == key)
}

/// Parses a body, and the formats of the response if it names any.
fn parse(
    body: &[u8],
    format: RequestFormat,
) -> Result<(EmbeddingRequest, Option<Vec<EncodingFormat>>), ApiError> {
    let mut request = EmbeddingRequest::from_json_in(body, format).map_err(ApiError::in_vendor_format)?;
    let is_given = |value: &ExtraValue| !matches!(value, ExtraValue::Null);
    for name in ["images", "inputs"] {
        if take(&mut request, name).is_some_and(|value| is_given(&value)) {
            let message = format!("'{name}' is not supported: send text in 'texts'.");
            return Err(ApiError::invalid(message).about(name));
        }
    }
    // Cohere's API has neither; a client that sends them is another vendor's.
    (request.dimensions, request.encoding_format) = (None, None);
    let types = match take(&mut request, TYPES).filter(is_given) {
        None => return Ok((request, None)),
        Some(value) => types(&value)?,
    };
    // The rules of the parameter decide for which models a format has a meaning; 8 bits need more than one.
    let strictest = |format: &&EncodingFormat| matches!(format, EncodingFormat::Int8 | EncodingFormat::Uint8);
    if let Some(format) = types.iter().find(strictest) {
        request.extra.push((TYPES, ExtraValue::Text(format.name().to_owned())));
    }
    Ok((request, Some(types)))
}

/// Removes a parameter from a request.
fn take(request: &mut EmbeddingRequest, name: &str) -> Option<ExtraValue> {
    let at = request.extra.iter().position(|(known, _)| *known == name)?;
    Some(request.extra.swap_remove(at).1)
}

fn types(value: &ExtraValue) -> Result<Vec<EncodingFormat>, ApiError> {
    let names = FORMATS.map(EncodingFormat::name).join(", ");
    let invalid = |reason: String| Err(ApiError::invalid(reason).about(TYPES));
    let ExtraValue::Texts(texts) = value else {
        return invalid(format!("Invalid type for '{TYPES}': expected an array of some of {names}."));
    };
    if texts.is_empty() {
        return invalid(format!("Invalid '{TYPES}': it is empty, expected some of {names}."));
    }
    let mut formats = Vec::with_capacity(texts.len());
    for text in texts {
        match FORMATS.into_iter().find(|format| format.name() == text) {
            Some(format) => formats.push(format),
            None => {
                return invalid(format!(
                    "Invalid value for '{TYPES}' = {}. Supported values: {names}.",
                    echo(text)
                ));
            }
        }
    }
    Ok(formats)
}
