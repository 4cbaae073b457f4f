//! `POST /v1/embeddings`, and Azure's form of it.

use actix_web::{HttpResponse, web};
use openai_schema::{EmbeddingRequest, EmbeddingResponse, ModelField, RequestFormat, Usage};

use super::inference_call::{Embedded, InferenceCall};
use crate::{body::Body, error::ApiError, parameters};

/// Embeds the inputs of one request.
pub(super) async fn create(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    embed(call, body, ModelField::Required).await
}

/// Embeds the inputs of one request to an Azure deployment, which is the model whatever the body names. The query
/// `api-version` has no effect: its versions do not differ for embeddings.
pub(super) async fn create_for_deployment(
    call: InferenceCall,
    deployment: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    embed(call, body, ModelField::Ignored(deployment.into_inner())).await
}

async fn embed(call: InferenceCall, body: Body, model: ModelField) -> Result<HttpResponse, ApiError> {
    let format = RequestFormat { model, ..RequestFormat::openai(parameters::known_to_openai) };
    let (request, arrival) =
        call.parse(body, move |body| EmbeddingRequest::from_json_in(body, format)).await?;
    let Embedded { model, vectors, format, tokens, head, .. } = call.embed(request, arrival).await?;
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(head.send(EmbeddingResponse { model, vectors, format, usage }))
}
