//! The steps that every route with a model takes: parse, find and lease the model, validate, debit the rate limit,
//! compute, settle the debit.
//!
//! A route parses its own wire format into an [`EmbeddingRequest`] and writes its own response. Parameters that the
//! schema does not have are passed in `extra`, under their names in [`parameters`](crate::parameters).

use std::{
    any::type_name,
    future::{Ready, ready},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::HeaderMap, web};
use inference::Embeddings;
use model_import::{DenseActivation, Task};
use openai_schema::{EmbeddingRequest, EncodingFormat, RequestFormat, Vectors};

use super::{rate_limit_response, response_head::ResponseHead};
use crate::{
    auth::Caller,
    body::Body,
    budget::ReservedBytes,
    error::ApiError,
    lifecycle::Lifecycle,
    rate_limit::{RateLimitError, RateLimitPermit, RateLimiter},
    registry::{LoadedModel, NamedModel, Registry, RequestedModel},
    request::{self, RequestLimits, RerankInputs, ValidatedRequest},
    request_context::RequestContext,
    response_coding::ResponseCoding,
    trace::Trace,
};

/// An authenticated request to a route with a model, with the state that its steps share.
pub(super) struct InferenceCall {
    caller: Caller,
    http: HttpRequest,
    pub(super) context: Rc<RequestContext>,
    lifecycle: web::Data<Lifecycle>,
    pub(super) limits: web::Data<RequestLimits>,
    rate_limiter: web::Data<RateLimiter>,
}

/// Arrival of a body, and its memory: the parsed request takes about as much, and holds it until the model is leased.
pub(super) struct Arrival {
    /// Arrival of the body's last byte, from which the deadline counts.
    pub(super) received: Instant,
    pub(super) memory: ReservedBytes,
}

/// The vectors of a request, and all that a response tells about them.
pub(super) struct Embedded {
    /// The model's name as in the request.
    pub(super) model: String,
    /// One vector for each input, in the order of the inputs.
    pub(super) vectors: Vectors,
    /// Requested encoding of the vectors.
    pub(super) format: EncodingFormat,
    /// Tokens of all inputs.
    pub(super) tokens: u64,
    /// Status and headers of the response.
    pub(super) head: ResponseHead,
}

impl FromRequest for InferenceCall {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let new = |caller| {
            Ok(Self {
                caller,
                context: RequestContext::of(request),
                lifecycle: shared(request)?,
                limits: shared(request)?,
                rate_limiter: shared(request)?,
                http: request.clone(),
            })
        };
        ready(Caller::from_request(request, payload).into_inner().and_then(new))
    }
}

/// Shared state of the application.
///
/// # Errors
/// 500 if the application was built without it.
fn shared<T: 'static>(request: &HttpRequest) -> Result<web::Data<T>, ApiError> {
    let missing = || ApiError::internal(format!("the app was built without its {}", type_name::<T>()));
    request.app_data::<web::Data<T>>().cloned().ok_or_else(missing)
}

impl InferenceCall {
    /// Headers of the request.
    pub(super) fn headers(&self) -> &HeaderMap {
        self.http.headers()
    }

    /// The trace of the request.
    pub(super) fn trace(&self) -> Rc<Trace> {
        Trace::of(&self.http)
    }

    /// The head of a response to this request, with the memory that is reserved for its body if it is large.
    pub(super) fn response_head(&self, memory: Option<ReservedBytes>) -> ResponseHead {
        let coding = self.limits.compress.then(|| ResponseCoding::accepted(self.headers()));
        ResponseHead::new(self.http.version(), memory, coding)
    }

    /// The models.
    ///
    /// # Errors
    /// 503 while they are not served.
    pub(super) fn registry(&self) -> Result<Arc<Registry>, ApiError> {
        self.lifecycle.registry()
    }

    /// Parses a body by `parse`, on another thread if it is large.
    ///
    /// # Errors
    /// 503 while the models are not served, and the errors of `parse`.
    pub(super) async fn parse<T, E, F>(&self, body: Body, parse: F) -> Result<(T, Arrival), ApiError>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&[u8]) -> Result<T, E> + Send + 'static,
        ApiError: From<E>,
    {
        // First, so that a client of a server that is loading retries, although its request may be invalid.
        self.registry()?;
        let Body { bytes, received, memory } = body;
        let is_large = bytes.len() >= request::OFFLOAD_BYTES;
        let parsed = request::offload(is_large, move || parse(&bytes)).await??;
        Ok((parsed, Arrival { received, memory }))
    }

    /// Parses a body in another vendor's `format`.
    ///
    /// # Errors
    /// 400 for an invalid body; 503 while the models are not served.
    pub(super) async fn parse_in(
        &self,
        body: Body,
        format: RequestFormat,
    ) -> Result<(EmbeddingRequest, Arrival), ApiError> {
        let parse = move |body: &[u8]| {
            EmbeddingRequest::from_json_in(body, format).map_err(ApiError::in_vendor_format)
        };
        self.parse(body, parse).await
    }

    /// The model with the id or alias `name`, which the log and the metrics of the request then name.
    ///
    /// # Errors
    /// 404 if there is none; 503 while the models are not served.
    pub(super) fn resolve(&self, name: &str) -> Result<NamedModel, ApiError> {
        let named = request::resolve(&*self.registry()?, name)?;
        self.context.model.get_or_init(|| Arc::clone(named.slot.id()));
        Ok(named)
    }

    /// Path of the request.
    pub(super) fn path(&self) -> &str {
        self.http.path()
    }

    /// The id of the first model for `task`, for a request that names none.
    ///
    /// # Errors
    /// 400 if no model is for the task; 503 while the models are not served.
    pub(super) fn first_model(&self, task: Task) -> Result<String, ApiError> {
        let registry = self.registry()?;
        let first = registry.first_of(task).map(|slot| slot.id().to_string());
        first.ok_or_else(|| {
            let message = format!("No model here {}. {}", task.verb(), registry.names());
            ApiError::invalid(message).about("model")
        })
    }

    /// Leases a model that the client named `name`; loads it first if necessary. Releases the memory of the body: the
    /// memory of requests that wait for their model is bounded, too.
    ///
    /// # Errors
    /// 503 if the model cannot be loaded, or not in time.
    pub(super) async fn lease(
        &self,
        named: NamedModel,
        name: &str,
        arrival: Arrival,
    ) -> Result<RequestedModel, ApiError> {
        let Arrival { received, memory: _held } = arrival;
        self.registry()?.lease(named, name, received + self.limits.timeout).await
    }

    /// Debits the caller's rate limit by one request and about `tokens` tokens. The response tells the new levels.
    ///
    /// # Errors
    /// 429 for a request to `model` that exceeds the limit; 503 if the rate limiter is unavailable.
    pub(super) async fn debit(&self, tokens: usize, model: &str) -> Result<RateLimitPermit<'_>, ApiError> {
        let permit = self.rate_limiter.acquire(self.caller.id, tokens).await;
        let status = permit.as_ref().map_or_else(RateLimitError::status, RateLimitPermit::status);
        self.context.rate_limit.set(status);
        permit.map_err(|error| rate_limit_response::rejection(&error, model))
    }

    /// Corrects the debit of a request to its exact number of tokens: 0 for one that failed.
    pub(super) fn settle(&self, permit: RateLimitPermit<'_>, tokens: u64) {
        self.context.rate_limit.set(permit.settle(tokens));
    }

    /// Embeds the inputs of `request`.
    ///
    /// # Errors
    /// Every error of a request: 400, 404, 429, 500 and 503.
    pub(super) async fn embed(
        &self,
        request: EmbeddingRequest,
        arrival: Arrival,
    ) -> Result<Embedded, ApiError> {
        self.embed_with(Task::Embed, request, arrival, |_, _| {}).await
    }

    /// Embeds the inputs of `request` by a model for `task`. Once the model is known, `adjust` may change the request.
    ///
    /// # Errors
    /// Every error of a request: 400, 404, 429, 500 and 503.
    pub(super) async fn embed_with(
        &self,
        task: Task,
        mut request: EmbeddingRequest,
        arrival: Arrival,
        adjust: impl FnOnce(&LoadedModel, &mut EmbeddingRequest),
    ) -> Result<Embedded, ApiError> {
        let received = arrival.received;
        let named = self.resolve(&request.model)?;
        request::check_task(&*self.registry()?, &named, task)?;
        let truncation = request::truncation(self.headers())?;
        let requested = self.lease(named, &request.model, arrival).await?;
        adjust(&requested.served, &mut request);
        let request = ValidatedRequest::new(requested, request, &self.limits, truncation, received).await?;
        self.compute(request).await
    }

    /// Scores the documents of `request` by a reranker: one vector of one value for each, before its activation.
    ///
    /// # Errors
    /// Those of [`embed`](Self::embed).
    pub(super) async fn rerank(
        &self,
        request: RerankInputs,
        arrival: Arrival,
    ) -> Result<(Embedded, DenseActivation), ApiError> {
        let received = arrival.received;
        let named = self.resolve(&request.model)?;
        request::check_task(&*self.registry()?, &named, Task::Rerank)?;
        let truncation = request::truncation(self.headers())?;
        let model = request.model.clone();
        let requested = self.lease(named, &model, arrival).await?;
        let activation = requested.served.score_activation;
        let request = ValidatedRequest::rerank(requested, request, &self.limits, truncation, received)?;
        Ok((self.compute(request).await?, activation))
    }

    /// Computes a valid request, within the limits.
    async fn compute(&self, mut request: ValidatedRequest) -> Result<Embedded, ApiError> {
        let (context, limits) = (&self.context, &self.limits);
        context.inputs.set(request.inputs());
        context.ignored.get_or_init(|| request.ignored.clone());
        context.misses_prompt.set(!request.missing_prompts.is_empty());
        // Before the rate limit and any computation: a request rejected here costs nothing.
        let memory = request.reserve_response(&limits.responses)?;
        let permit = self.debit(request.estimate_tokens(), &request.served.id).await?;
        let span = self.trace().embeddings(&request);
        // If the client disconnects from here on, the permit is dropped and keeps its debit: otherwise a client could
        // have embeddings computed at no cost.
        let embeddings = span.end(request.embed(self.caller.id).await);
        self.settle(permit, embeddings.as_ref().map_or(0, Embeddings::total_tokens));
        let embeddings = embeddings?;
        let tokens = embeddings.total_tokens();
        context.tokens.set(tokens);
        context.truncated.set(embeddings.truncated);
        let head = self.response_head(memory).embedded(&request, &embeddings);
        let Embeddings { vectors, dimensions, .. } = embeddings;
        Ok(Embedded {
            model: request.model,
            vectors: Vectors::new(vectors, dimensions).map_err(ApiError::permanent)?,
            format: request.format,
            tokens,
            head,
        })
    }
}
