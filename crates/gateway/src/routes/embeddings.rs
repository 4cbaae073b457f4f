//! `POST /v1/embeddings`.

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

use crate::{
    auth::Caller,
    body::Body,
    budget::ReservedBytes,
    error::ApiError,
    lifecycle::Lifecycle,
    limits::admit,
    middleware::Record,
    request::{self, Plan, RequestLimits},
    response::JsonParts,
};

// Headers of ours, checked when this is compiled and not at each answer.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const IGNORED: HeaderName = HeaderName::from_static("x-embedgate-ignored");
const MODEL: HeaderName = HeaderName::from_static("x-embedgate-model");
const TRUNCATED: HeaderName = HeaderName::from_static("x-embedgate-truncated");

/// Embeds the inputs of one request.
pub(crate) async fn create(
    caller: Caller,
    http: HttpRequest,
    body: Body,
    lifecycle: web::Data<Lifecycle>,
    limits: web::Data<RequestLimits>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let received = body.received;
    let request = request::parse(body).await?;
    let served = request::resolve(&registry, &request.model)?;
    let record = Record::of(&http);
    record.set_model(&served.id);
    let overlong = request::overlong(http.headers())?;
    let mut plan = Plan::new(served, request, &limits, overlong, received).await?;
    record.set_inputs(plan.inputs());
    record.set_ignored(&plan.ignored);
    // Before the key is charged and anything is computed: a refusal costs nothing.
    let memory = limits.responses.reserve(&plan)?;
    let admission = admit(&http, caller.number, plan.estimate()).await?;
    let span = record.trace().embeddings(&plan);
    // A client that hangs up from here on has caused work, or kept others waiting: its tokens stay taken.
    let embeddings = span.end(plan.embed(caller.number).await);
    admission.settle(embeddings.as_ref().map_or(0, Embeddings::total_tokens));
    let embeddings = embeddings?;
    record.set_tokens(embeddings.total_tokens(), embeddings.truncated);
    answer(http.version(), plan, embeddings, memory)
}

/// The answer, with headers for the model, the truncated inputs and the time of each stage. It is written part by part
/// if memory was reserved for it.
fn answer(
    version: Version,
    plan: Plan,
    embeddings: Embeddings,
    memory: Option<ReservedBytes>,
) -> Result<HttpResponse, ApiError> {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((SERVER_TIMING, server_timing(&embeddings.timings)));
    // An id with a control character, which no header can hold, is only missed in this header.
    if let Ok(id) = header::HeaderValue::from_bytes(plan.served.id.as_bytes()) {
        response.insert_header((MODEL, id));
    }
    if !plan.ignored.is_empty() {
        response.insert_header((IGNORED, plan.ignored.join(", ")));
    }
    if embeddings.truncated > 0 {
        response.insert_header((TRUNCATED, embeddings.truncated));
    }
    let tokens = embeddings.total_tokens();
    let json = EmbeddingResponse {
        model: plan.model,
        vectors: Vectors::new(embeddings.vectors, embeddings.dimensions).map_err(ApiError::permanent)?,
        format: plan.format,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    let Some(memory) = memory else {
        let mut body = Vec::new();
        json.write_json(&mut body);
        return Ok(response.body(body));
    };
    let parts = JsonParts::new(json, memory);
    // HTTP/1.0 has no chunks: an answer of unknown length ends with its connection.
    let ends_connection = version < Version::HTTP_11 && parts.size() == BodySize::Stream;
    let mut response = response.body(parts);
    if ends_connection {
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// The engine's phases in milliseconds, for the header of that name (W3C Server Timing).
fn server_timing(timings: &Timings) -> String {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    format!(
        "tokenize;dur={:.2}, queue;dur={:.2}, inference;dur={:.2}",
        milliseconds(timings.tokenize),
        milliseconds(timings.queue),
        milliseconds(timings.inference)
    )
}
