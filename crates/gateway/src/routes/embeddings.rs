//! `POST /v1/embeddings`.

use actix_web::HttpResponse;
use openai_schema::{EmbeddingRequest, EmbeddingResponse, Usage};

use super::inference_call::{Embedded, InferenceCall};
use crate::{body::Body, error::ApiError, parameters};

/// Embeds the inputs of one request.
pub(super) async fn create(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    let parse = |body: &[u8]| EmbeddingRequest::from_json_keeping(body, parameters::known);
    let (request, arrival) = call.parse(body, parse).await?;
    let Embedded { model, vectors, format, tokens, head, .. } = call.embed(request, arrival).await?;
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(head.send(EmbeddingResponse { model, vectors, format, usage }))
}
