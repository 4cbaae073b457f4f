//! `POST /v1/embeddings`.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    http::{
        ConnectionType, Version,
        header::{self, HeaderName},
    },
    web,
};
use inference::{Embeddings, Timings};
use openai_schema::{EmbeddingResponse, Usage, Vectors};

use super::rate_limit_response;
use crate::{
    auth::Caller,
    body::Body,
    budget::ReservedBytes,
    error::ApiError,
    lifecycle::Lifecycle,
    rate_limit::{RateLimitStatus, RateLimiter},
    request::{self, RequestLimits, ValidatedRequest},
    request_context::RequestContext,
    response::JsonParts,
    trace::Trace,
};

// Constants, so that the names are checked at compile time.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const IGNORED: HeaderName = HeaderName::from_static("x-embedgate-ignored");
const MODEL: HeaderName = HeaderName::from_static("x-embedgate-model");
const PRECISION: HeaderName = HeaderName::from_static("x-embedgate-precision");
const PROMPT: HeaderName = HeaderName::from_static("x-embedgate-prompt");
const PROMPT_MISSING: HeaderName = HeaderName::from_static("x-embedgate-prompt-missing");
const TRUNCATED: HeaderName = HeaderName::from_static("x-embedgate-truncated");

/// Shared state of the handler.
type State = (web::Data<Lifecycle>, web::Data<RequestLimits>, web::Data<RateLimiter>);

/// Embeds the inputs of one request. Its response, also an error, tells the state of the caller's rate limit.
pub(super) async fn create(caller: Caller, http: HttpRequest, body: Body, state: State) -> HttpResponse {
    let mut status = None;
    let result = embed(&caller, &http, body, &state, &mut status).await;
    let mut response = result.unwrap_or_else(HttpResponse::from_error);
    if let Some(status) = status {
        rate_limit_response::write_headers(&status, response.headers_mut());
    }
    response
}

async fn embed(
    caller: &Caller,
    http: &HttpRequest,
    body: Body,
    (lifecycle, limits, rate_limiter): &State,
    status: &mut Option<RateLimitStatus>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let received = body.received;
    let (parsed, body_memory) = request::parse(body).await?;
    let named = request::resolve(&registry, &parsed.model)?;
    let context = RequestContext::of(http);
    context.model.get_or_init(|| Arc::clone(named.slot.id()));
    let truncation = request::truncation(http.headers())?;
    let requested = registry.lease(named, &parsed.model, received + limits.timeout).await?;
    // Held while the request waits for its model: the memory of waiting requests is bounded, too.
    drop(body_memory);
    let mut request = ValidatedRequest::new(requested, parsed, limits, truncation, received).await?;
    context.inputs.set(request.inputs());
    context.ignored.get_or_init(|| request.ignored.clone());
    context.misses_prompt.set(!request.missing_prompts.is_empty());
    // Before the rate limit and any computation: a request rejected here costs nothing.
    let memory = request.reserve_response(&limits.responses)?;
    let permit = match rate_limiter.acquire(caller.id, request.estimate_tokens()).await {
        Ok(permit) => permit,
        Err(error) => {
            *status = error.status();
            return Err(rate_limit_response::rejection(&error, &request.served.id));
        }
    };
    *status = permit.status();
    let span = Trace::of(http).embeddings(&request);
    // If the client disconnects from here on, the permit is dropped and keeps its debit: otherwise a client could have
    // embeddings computed at no cost.
    let embeddings = span.end(request.embed(caller.id).await);
    *status = permit.settle(embeddings.as_ref().map_or(0, Embeddings::total_tokens));
    let embeddings = embeddings?;
    context.tokens.set(embeddings.total_tokens());
    context.truncated.set(embeddings.truncated);
    respond(http.version(), request, embeddings, memory)
}

/// Builds the response, with headers for the model, the prompt, the truncated inputs and the time of each stage. A
/// response with reserved memory is written part by part.
fn respond(
    version: Version,
    request: ValidatedRequest,
    embeddings: Embeddings,
    memory: Option<ReservedBytes>,
) -> Result<HttpResponse, ApiError> {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((SERVER_TIMING, server_timing(&embeddings.timings)));
    let missing = (!request.missing_prompts.is_empty()).then(|| request.missing_prompts.join(", "));
    for (name, value) in [
        (MODEL, Some(&*request.served.id)),
        (PRECISION, Some(&*request.served.precision_note())),
        (PROMPT, request.prompt.as_deref()),
        (PROMPT_MISSING, missing.as_deref()),
    ] {
        // A name with a control character cannot be in a header; the response is complete without it.
        if let Some(Ok(value)) = value.map(|value| header::HeaderValue::from_bytes(value.as_bytes())) {
            response.insert_header((name, value));
        }
    }
    if !request.ignored.is_empty() {
        response.insert_header((IGNORED, request.ignored.join(", ")));
    }
    if embeddings.truncated > 0 {
        response.insert_header((TRUNCATED, embeddings.truncated));
    }
    let tokens = embeddings.total_tokens();
    let json = EmbeddingResponse {
        model: request.model,
        vectors: Vectors::new(embeddings.vectors, embeddings.dimensions).map_err(ApiError::permanent)?,
        format: request.format,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    let Some(memory) = memory else {
        let mut body = Vec::new();
        json.write_json(&mut body);
        return Ok(response.body(body));
    };
    let parts = JsonParts::new(json, memory);
    // HTTP/1.0 has no chunked encoding: a response of unknown length ends with its connection.
    let ends_connection = version < Version::HTTP_11 && parts.size() == BodySize::Stream;
    let mut response = response.body(parts);
    if ends_connection {
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Value of the `server-timing` header (W3C Server Timing): the engine's stages in milliseconds.
fn server_timing(timings: &Timings) -> String {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    format!(
        "tokenize;dur={:.2}, queue;dur={:.2}, inference;dur={:.2}",
        milliseconds(timings.tokenize),
        milliseconds(timings.queue),
        milliseconds(timings.inference)
    )
}
