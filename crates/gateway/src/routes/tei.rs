//! The part of text-embeddings-inference's API that embeds texts: `POST /embed` and `GET /info`. The default model
//! answers, unless a request has `model`, an extension. `POST /embed_all` only says that it is not supported.

use actix_web::{HttpResponse, web};
use inference::TruncationPolicy;
use model_import::Task;
use openai_schema::{ExtraValue, ModelField, RequestFormat};
use serde_json::json;

use super::{
    inference_call::{Embedded, InferenceCall},
    models::find,
    vector_lists::VectorLists,
};
use crate::{
    auth::Caller,
    body::Body,
    error::{ApiError, Code},
    lifecycle::Lifecycle,
    request::{DefaultModel, RequestLimits},
};

/// Name of the parameter for vectors of norm 1, which is on unless a request says otherwise.
const NORMALIZE: &str = "normalize";

/// `POST /embed`.
pub(super) async fn embed(
    call: InferenceCall,
    model: web::Data<DefaultModel>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    const KEPT: [&str; 4] = [NORMALIZE, "truncate", "truncation_direction", "prompt_name"];
    let format = RequestFormat {
        input: "inputs",
        model: ModelField::Optional(model.id.clone()),
        extra_name: |key| KEPT.into_iter().find(|kept| *kept == key),
    };
    let (mut request, arrival) = call.parse_in(body, format).await?;
    request.encoding_format = None;
    let embedded = call.embed_with(Task::Embed, request, arrival, |served, request| {
        let is_given = request.extra.iter().any(|(name, _)| *name == NORMALIZE);
        if !served.normalized && !is_given {
            request.extra.push((NORMALIZE, ExtraValue::Bool(true)));
        }
    });
    let Embedded { vectors, head, .. } = embedded.await?;
    Ok(head.send(VectorLists::floats(vectors, "[", "]")))
}

/// `POST /embed_all`, the vectors of tokens. The engine only has vectors of texts: backends pool inside.
///
/// # Errors
/// Always 404.
pub(super) async fn embed_all(_: Caller) -> Result<HttpResponse, ApiError> {
    let message = "POST /embed_all is not supported: the server computes one vector for each text, and none for single \
                   tokens. Use POST /embed.";
    Err(ApiError::new(Code::UnknownUrl, message))
}

/// `GET /info`: the default model and the limits.
pub(super) async fn info(
    _: Caller,
    model: web::Data<DefaultModel>,
    limits: web::Data<RequestLimits>,
    lifecycle: web::Data<Lifecycle>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let slot = find(&registry, &model.id)?;
    let (description, loaded) = (slot.description(), slot.loaded());
    let truncates = loaded.as_ref().map(|loaded| loaded.truncation == TruncationPolicy::Truncate);
    Ok(HttpResponse::Ok().json(json!({
        "model_id": description.hub_id.as_deref().unwrap_or(slot.id()),
        "model_sha": null,
        "model_dtype": loaded.as_ref().map(|loaded| loaded.precision.name()),
        "model_type": { "embedding": {} },
        "max_input_length": description.max_input_tokens,
        "max_client_batch_size": limits.limits.max_inputs,
        "auto_truncate": truncates,
        "version": env!("CARGO_PKG_VERSION"),
    })))
}
