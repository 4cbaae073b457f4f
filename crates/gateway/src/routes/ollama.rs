//! The part of Ollama's API that embeds and describes models: `/api/embed`, `/api/embeddings`, `/api/tags`, `/api/show`
//! and `/api/version`.
//!
//! Ollama puts the tag `:latest` after names without a tag. It is accepted after every name.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use openai_schema::{EmbeddingRequest, ModelField, RequestFormat};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    inference_call::{Arrival, Embedded, InferenceCall},
    models::find,
    vector_lists::VectorLists,
};
use crate::{
    auth::Caller,
    body::Body,
    error::ApiError,
    lifecycle::Lifecycle,
    registry::{ModelSlot, Registry},
};

/// Tag that Ollama appends to a name.
const LATEST: &str = ":latest";

/// `POST /api/embed`.
pub(super) async fn embed(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    let (request, arrival) = parse(&call, body, "input").await?;
    let (model, started) = (request.model.clone(), arrival.received);
    let Embedded { vectors, tokens, head, .. } = call.embed(untagged(&call, request)?, arrival).await?;
    let tail = format!(
        r#"],"total_duration":{},"load_duration":0,"prompt_eval_count":{tokens}}}"#,
        started.elapsed().as_nanos()
    );
    let model = Value::from(model);
    Ok(head.send(VectorLists::floats(vectors, format!(r#"{{"model":{model},"embeddings":["#), tail)))
}

/// `POST /api/embeddings`, the older route for one text.
pub(super) async fn embed_one(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    let (request, arrival) = parse(&call, body, "prompt").await?;
    if !request.input.is_single() {
        return Err(ApiError::invalid("Invalid type for 'prompt': expected a string."));
    }
    let Embedded { vectors, head, .. } = call.embed(untagged(&call, request)?, arrival).await?;
    Ok(head.send(VectorLists::floats(vectors, r#"{"embedding":"#, "}")))
}

async fn parse(
    call: &InferenceCall,
    body: Body,
    input: &'static str,
) -> Result<(EmbeddingRequest, Arrival), ApiError> {
    const KEPT: [&str; 3] = ["truncate", "options", "keep_alive"];
    let format = RequestFormat {
        input,
        model: ModelField::Required,
        extra_name: |key| KEPT.into_iter().find(|kept| *kept == key),
    };
    let (mut request, arrival) = call.parse_in(body, format).await?;
    // Ollama's API has numbers alone.
    request.encoding_format = None;
    Ok((request, arrival))
}

/// Removes Ollama's tag from the model's name, unless a model has this name.
fn untagged(call: &InferenceCall, mut request: EmbeddingRequest) -> Result<EmbeddingRequest, ApiError> {
    request.model = name_of(&*call.registry()?, &request.model).to_owned();
    Ok(request)
}

fn name_of<'a>(registry: &Registry, name: &'a str) -> &'a str {
    match name.strip_suffix(LATEST) {
        Some(rest) if registry.find(name).is_none() => rest,
        _ => name,
    }
}

/// `GET /api/tags`: all names that a request may use.
pub(super) async fn tags(_: Caller, lifecycle: web::Data<Lifecycle>) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let models = registry.models().map(|model| (&**model.id(), model));
    let model = |(name, slot): (&str, &Arc<ModelSlot>)| {
        let description = slot.description();
        let name = if name.contains(':') { name.to_owned() } else { format!("{name}{LATEST}") };
        json!({
            "name": name,
            "model": name,
            "modified_at": rfc3339(description.created),
            "size": description.memory,
            "digest": slot.loaded().map(|loaded| loaded.fingerprint.clone()).unwrap_or_default(),
            "details": details(slot),
        })
    };
    let models: Vec<_> = models.chain(registry.aliases()).map(model).collect();
    Ok(HttpResponse::Ok().json(json!({ "models": models })))
}

/// Body of `POST /api/show`. Older clients send `name`.
#[derive(Deserialize)]
struct ShowRequest {
    #[serde(alias = "name")]
    model: String,
}

/// `POST /api/show`: one model.
pub(super) async fn show(
    _: Caller,
    body: Body,
    lifecycle: web::Data<Lifecycle>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let ShowRequest { model } = serde_json::from_slice(&body.bytes)
        .map_err(|error| ApiError::invalid(format!("The body must be {{\"model\": NAME}}: {error}.")))?;
    let slot = find(&registry, name_of(&registry, &model))?;
    let description = slot.description();
    Ok(HttpResponse::Ok().json(json!({
        "modelfile": "",
        "parameters": "",
        "template": "",
        "modified_at": rfc3339(description.created),
        "details": details(slot),
        "model_info": {
            "general.architecture": "embedgate",
            "general.basename": description.hub_id.as_deref().unwrap_or(slot.id()),
            "embedgate.context_length": description.max_input_tokens,
            "embedgate.embedding_length": description.dimensions,
        },
        "capabilities": ["embedding"],
    })))
}

/// `GET /api/version`.
pub(super) async fn version(_: Caller) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

fn details(slot: &ModelSlot) -> Value {
    let precision = slot.loaded().map(|loaded| loaded.precision.name()).unwrap_or_default();
    json!({
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": precision,
    })
}

/// A time in seconds since 1970, as RFC 3339 writes it. The date is computed as in Howard Hinnant's `civil_from_days`,
/// which counts the days of 400 years from the first of March.
fn rfc3339(seconds: u32) -> String {
    const DAY: u32 = 86_400;
    /// Days from 0000-03-01 to 1970-01-01.
    const EPOCH: u32 = 719_468;
    let (days, time) = (seconds / DAY + EPOCH, seconds % DAY);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u32::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (u32::MAX, "2106-02-07T06:28:15Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
