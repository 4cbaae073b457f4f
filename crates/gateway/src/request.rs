//! Validation of a parsed body, which becomes a job of the engine. Everything that can be rejected without the
//! tokenizer is rejected here, before the queue. Errors of the engine are mapped to OpenAI's messages here, too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{http::header::HeaderMap, web};
use inference::{
    CallerId, EmbedError, Embeddings, EncodeError, Input, Job, SubmitError, TruncationPolicy,
    truncate_dimensions,
};
use model_import::Task;
use openai_schema::{EmbeddingInput, EmbeddingRequest, EncodingFormat, ExtraValue};
use tokio::time::timeout_at;

use crate::{
    budget::ReservedBytes,
    config::{LimitsConfig, TokenIds},
    error::{ApiError, Code},
    parameters::{self, TRUNCATION_HEADER},
    registry::{LoadedModel, ModelLease, NamedModel, Registry, RequestedModel, echo, list_names},
    response::ResponseMemory,
    tiktoken::{CL100K_BASE, O200K_BASE, TiktokenDecoder},
    tokenize_queue::TokenizeQueue,
};

/// Minimum size of a body that is parsed on another thread. 256 KiB take about 0.5 ms: a larger body would delay the
/// other connections of the HTTP thread, and for a smaller one the handover costs more.
pub(crate) const OFFLOAD_BYTES: usize = 256 * 1024;

/// Limits of every request.
pub(crate) struct RequestLimits {
    pub(crate) limits: LimitsConfig,
    /// Maximum time from the last byte of the body to the response.
    pub(crate) timeout: Duration,
    /// Compresses numbers in text for clients that accept it.
    pub(crate) compress: bool,
    /// Memory of large responses.
    pub(crate) responses: ResponseMemory,
    /// Large requests to tokenize.
    pub(crate) tokenize: TokenizeQueue,
}

/// Id of the model for requests that cannot name one.
pub(crate) struct DefaultModel {
    pub(crate) id: String,
}

impl RequestLimits {
    /// Maximum number of tokens of a request. The rate limit would never admit one with more than its tokens per
    /// minute.
    pub(crate) fn max_tokens(&self) -> usize {
        let LimitsConfig { max_request_tokens, key_tokens_per_minute, .. } = self.limits;
        if key_tokens_per_minute == 0 {
            max_request_tokens
        } else {
            max_request_tokens.min(key_tokens_per_minute)
        }
    }
}

/// A request that is valid as far as this is known without the tokenizer.
pub(crate) struct ValidatedRequest {
    /// The requested model.
    pub(crate) served: ModelLease,
    /// The name by which it was requested.
    pub(crate) model: String,
    /// Encoding of the vectors in the response.
    pub(crate) format: EncodingFormat,
    /// Parameters of other vendors that are ignored.
    pub(crate) ignored: Vec<&'static str>,
    /// Name of the prompt that is put before the inputs, if it has a text.
    pub(crate) prompt: Option<Arc<str>>,
    /// Names of the prompts of which the model expects one, if the inputs get none.
    pub(crate) missing_prompts: Vec<String>,
    /// Length to which vectors are truncated and then normalized.
    output_dimensions: Option<usize>,
    /// Name of the field with the inputs.
    input_name: &'static str,
    /// True if it holds one input and not an array of them.
    is_single: bool,
    job: Job,
}

/// A query and the documents to score, as a route has parsed them.
pub(crate) struct RerankInputs {
    /// The model's name as in the request.
    pub(crate) model: String,
    pub(crate) query: String,
    pub(crate) documents: Vec<String>,
    /// Name of the documents in the request's JSON.
    pub(crate) input_name: &'static str,
    /// Parameters about pairs that are longer than the model's maximum, each name once.
    pub(crate) extra: Vec<(&'static str, ExtraValue)>,
}

/// Checks that a model computes what a route serves.
///
/// # Errors
/// 400 with the route for this model, and the models for this route.
pub(crate) fn check_task(registry: &Registry, named: &NamedModel, task: Task) -> Result<(), ApiError> {
    let found = named.slot.description().task;
    if found == task {
        return Ok(());
    }
    let route = match found {
        Task::Embed => "POST /v1/embeddings",
        Task::Rerank => "POST /v1/rerank",
        Task::EmbedSparse => "POST /embed_sparse",
    };
    let suited = registry.models().filter(|model| model.description().task == task);
    let names = list_names(suited.map(|model| &**model.id()));
    let (id, verb, needed) = (named.slot.id(), found.verb(), task.verb());
    let way_out = match names.is_empty() {
        true => format!("no model here {needed}"),
        false => format!("here {needed}: {names}"),
    };
    let message = format!("The model `{id}` {verb}: use it with {route}; {way_out}.");
    Err(ApiError::invalid(message).about("model"))
}

/// The policy for long inputs in the request's headers, if there is one.
///
/// # Errors
/// 400 if the header has another value.
pub(crate) fn truncation(headers: &HeaderMap) -> Result<Option<TruncationPolicy>, ApiError> {
    let Some(value) = headers.get(TRUNCATION_HEADER) else { return Ok(None) };
    let value = echo(String::from_utf8_lossy(value.as_bytes()).trim());
    value.parse().map(Some).map_err(|_| {
        ApiError::invalid(format!(
            "Invalid value for header '{TRUNCATION_HEADER}' = {value}. Supported values: ['truncate', 'average', \
             'error']."
        ))
    })
}

/// The model with this id or alias.
///
/// # Errors
/// 404 if there is none.
pub(crate) fn resolve(registry: &Registry, name: &str) -> Result<NamedModel, ApiError> {
    registry.resolve(name).ok_or_else(|| {
        let message = format!(
            "The model `{}` does not exist or you do not have access to it. {}",
            echo(name),
            registry.names()
        );
        ApiError::new(Code::ModelNotFound, message)
    })
}

impl ValidatedRequest {
    /// Validates a request against its model and the limits. Its deadline counts from `received`.
    ///
    /// # Errors
    /// 400 for too many inputs, dimensions that the model does not support, a parameter of another vendor that cannot
    /// be applied, or token ids that the model does not accept.
    pub(crate) async fn new(
        requested: RequestedModel,
        request: EmbeddingRequest,
        limits: &RequestLimits,
        truncation: Option<TruncationPolicy>,
        received: Instant,
    ) -> Result<Self, ApiError> {
        let maximum = limits.limits.max_inputs;
        if request.input.len() > maximum {
            let name = request.input_name;
            return Err(ApiError::invalid(format!(
                "Invalid '{name}': array length must be {maximum} or less."
            )));
        }
        let unsupported = limits.limits.unsupported_parameters;
        let options = parameters::resolve(&request, &requested, truncation, unsupported)?;
        let served = requested.served;
        let is_single = request.input.is_single();
        let (name, prompt) = options.prompt.map(|named| (named.name, named.prompt)).unzip();
        let prompt = prompt.flatten();
        let job = Job {
            inputs: inputs(
                request.input,
                request.input_name,
                &served,
                &request.model,
                limits.limits.max_request_tokens,
            )
            .await?,
            prompt,
            truncation: options.truncation,
            max_input_tokens: options.max_input_tokens,
            deadline: received + limits.timeout,
            max_tokens: limits.max_tokens(),
            caller: None,
        };
        Ok(Self {
            served,
            model: request.model,
            format: options.format,
            ignored: options.ignored,
            prompt: name.filter(|_| job.prompt.is_some()),
            missing_prompts: options.missing_prompts,
            output_dimensions: options.output_dimensions,
            input_name: request.input_name,
            is_single,
            job,
        })
    }

    /// Validates a request to rerank documents against its model and the limits. Its deadline counts from `received`.
    /// `truncation` is the policy in the request's header.
    ///
    /// # Errors
    /// 400 for no documents, too many of them, a parameter that cannot be applied, or a policy for long documents that
    /// rerankers do not have.
    pub(crate) fn rerank(
        requested: RequestedModel,
        request: RerankInputs,
        limits: &RequestLimits,
        truncation: Option<TruncationPolicy>,
        received: Instant,
    ) -> Result<Self, ApiError> {
        let RerankInputs { model, query, documents, input_name, extra } = request;
        let maximum = limits.limits.max_inputs;
        if documents.is_empty() || documents.len() > maximum {
            return Err(ApiError::invalid(format!(
                "Invalid '{input_name}': array length must be from 1 to {maximum}."
            ))
            .about(input_name));
        }
        let (names, unsupported) = ((model.as_str(), input_name), limits.limits.unsupported_parameters);
        let (truncation, ignored) =
            parameters::resolve_truncation(&requested, names, &extra, truncation, unsupported)?;
        let served = requested.served;
        if truncation == TruncationPolicy::Average {
            return Err(ApiError::invalid(format!(
                "Invalid value for header '{TRUNCATION_HEADER}' = average. {} reranks, and scores are not averaged. \
                 Supported values: ['truncate', 'error'].",
                served.subject(&model)
            )));
        }
        let query: Arc<str> = query.into();
        let pair = |document| Input::Pair { query: Arc::clone(&query), document };
        let job = Job {
            inputs: documents.into_iter().map(pair).collect(),
            prompt: None,
            truncation,
            max_input_tokens: None,
            deadline: received + limits.timeout,
            max_tokens: limits.max_tokens(),
            caller: None,
        };
        Ok(Self {
            served,
            model,
            format: EncodingFormat::Float,
            ignored,
            prompt: None,
            missing_prompts: Vec::new(),
            output_dimensions: None,
            input_name,
            is_single: false,
            job,
        })
    }

    /// Estimated number of tokens: one for every four bytes, and two special ones for each input. Only the tokenizer
    /// can count exactly.
    pub(crate) fn estimate_tokens(&self) -> usize {
        let window = self
            .job
            .max_input_tokens
            .map_or(self.served.max_input_tokens, |max| max.min(self.served.max_input_tokens));
        let prompt = self.job.prompt.as_ref().map_or(0, |prompt| prompt.text().len());
        let tokens = |input: &Input| {
            let content = match input {
                Input::Text(text) => (prompt + text.len()).div_ceil(4),
                Input::Tokens(ids) => ids.len(),
                Input::Pair { query, document } => (query.len() + document.len()).div_ceil(4),
            };
            let max = if self.job.truncation == TruncationPolicy::Average { usize::MAX } else { window };
            (content + 2).min(max)
        };
        self.job.inputs.iter().map(tokens).sum::<usize>().min(self.job.max_tokens)
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.job.inputs.len()
    }

    /// Reserves memory for the response, before any work is done for it; `None` if it is small.
    ///
    /// # Errors
    /// 503 if other responses hold the memory.
    pub(crate) fn reserve_response(
        &self,
        memory: &ResponseMemory,
    ) -> Result<Option<ReservedBytes>, ApiError> {
        let dimensions = self.output_dimensions.unwrap_or(self.served.dimensions);
        // The length of numbers as text varies.
        let len = self.format.estimated_len(self.inputs(), dimensions) + self.model.len();
        memory.reserve(len, self.inputs(), self.served.dimensions)
    }

    /// Embeds the inputs for `caller`. Dropping the future cancels the job.
    ///
    /// # Errors
    /// 400 for errors of the tokenizer, 503 for a lack of capacity or time, 500 otherwise.
    pub(crate) async fn embed(&mut self, caller: Option<CallerId>) -> Result<Embeddings, ApiError> {
        let deadline = self.job.deadline;
        let (inputs, prompt) = (std::mem::take(&mut self.job.inputs), self.job.prompt.take());
        let job = Job { inputs, prompt, caller, ..self.job };
        let ticket = self.served.engine.submit(job).map_err(|error| self.submit_error(error))?;
        // The engine enforces the deadline, too, unless its encoder hangs.
        let result = timeout_at(deadline.into(), ticket)
            .await
            .map_err(|_| ApiError::unavailable(Code::Deadline, Duration::from_secs(1)))?;
        let mut embeddings = result.map_err(|error| self.embed_error(error))?;
        if let Some(dimensions) = self.output_dimensions {
            truncate_dimensions(&mut embeddings.vectors, embeddings.dimensions, dimensions);
            embeddings.dimensions = dimensions;
            // A slow client may hold the response for long.
            embeddings.vectors.shrink_to_fit();
        }
        Ok(embeddings)
    }

    /// Path of the input at `index` in the request's JSON.
    fn path(&self, index: usize) -> String {
        let name = self.input_name;
        if self.is_single { name.to_owned() } else { format!("{name}[{index}]") }
    }

    fn submit_error(&self, error: SubmitError) -> ApiError {
        match error {
            SubmitError::Full { retry_after } => ApiError::unavailable(Code::QueueFull, retry_after),
            SubmitError::DeadlineUnmeetable { retry_after } => {
                ApiError::unavailable(Code::Deadline, retry_after)
            }
            SubmitError::TooLarge { limit, .. } => too_many_tokens(self.input_name, limit),
            SubmitError::Draining => ApiError::unavailable(Code::Draining, Duration::from_secs(1)),
        }
    }

    fn embed_error(&self, error: EmbedError) -> ApiError {
        match error {
            EmbedError::InputTooLong { index, max_input_tokens: window, .. } => {
                let path = self.path(index);
                let length = if self.is_single { "context" } else { "input" };
                let reason = format!("Invalid '{path}': maximum {length} length is {window} tokens.");
                let subject = self.served.subject(&self.model);
                let policies =
                    if self.served.task == Task::Rerank { "truncate" } else { "truncate, average" };
                let message = format!(
                    "{reason} {subject} accepts {window} tokens per input: send shorter inputs, or choose how longer \
                     ones are handled with the header '{TRUNCATION_HEADER}' ({policies})."
                );
                ApiError::new(Code::TooLong, message)
            }
            EmbedError::Rejected(error) => self.submit_error(error),
            // Routes reject a model of another task first.
            EmbedError::UnsupportedInput { .. } => ApiError::permanent(error),
            EmbedError::TooManyTokens { limit, .. } => too_many_tokens(self.input_name, limit),
            EmbedError::UnknownToken { index, id } => {
                let path = self.path(index);
                ApiError::invalid(format!(
                    "Invalid '{path}': token id {id} is not in the vocabulary of the model `{}`, or has no embedding.",
                    self.served.id
                ))
            }
            EmbedError::NoEmbedding { index, id, token } => ApiError::invalid(format!(
                "Invalid '{}': the model `{}` has no embedding for the token `{token}` (id {id}) in this text.",
                self.path(index),
                self.served.id
            )),
            EmbedError::Tokenizer { index, reason } => ApiError::invalid(format!(
                "Invalid '{}': the tokenizer of the model `{}` cannot read this text: {reason}.",
                self.path(index),
                self.served.id
            )),
            EmbedError::NotFinite { index } => ApiError::invalid(format!(
                "Invalid '{}': the model `{}` computes no finite vector for this text.",
                self.path(index),
                self.served.id
            )),
            // The engine has logged the encoder's error.
            EmbedError::Unencodable { index, .. } => ApiError::invalid(format!(
                "Invalid '{}': the model `{}` cannot compute a vector for this text.",
                self.path(index),
                self.served.id
            )),
            EmbedError::DeadlineExceeded { retry_after } => {
                ApiError::unavailable(Code::Deadline, retry_after)
            }
            EmbedError::Stopped => ApiError::unavailable(Code::Draining, Duration::from_secs(1)),
            EmbedError::Encoder(ref source) => match **source {
                // The graph does not match the model's files: a retry would fail, too.
                EncodeError::Shape { .. } => ApiError::permanent(error),
                _ => ApiError::internal(error),
            },
            // Another input of the same batch may be the cause, so a retry may succeed.
            EmbedError::Panicked => ApiError::internal(error),
        }
    }
}

/// Runs `work` on a blocking thread if `is_large`, else on this one.
///
/// # Errors
/// 500 if the blocking thread panicked.
pub(crate) async fn offload<T, F>(is_large: bool, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    if is_large { web::block(work).await.map_err(ApiError::internal) } else { Ok(work()) }
}

/// The inputs for the engine, from the field `name`. Token ids are handled by the model's policy. Ids of OpenAI's
/// vocabularies are decoded to text, which may be thirty times as large as the body, so more than `max_tokens` of them
/// are rejected first.
async fn inputs(
    input: EmbeddingInput,
    name: &'static str,
    served: &LoadedModel,
    model: &str,
    max_tokens: usize,
) -> Result<Vec<Input>, ApiError> {
    let policy = served.token_ids;
    let (arrays, is_single) = match input {
        EmbeddingInput::Text(text) => return Ok(vec![Input::Text(text)]),
        EmbeddingInput::Texts(texts) => return Ok(texts.into_iter().map(Input::Text).collect()),
        EmbeddingInput::Tokens(ids) => (vec![ids], true),
        EmbeddingInput::TokenArrays(arrays) => (arrays, false),
    };
    let is_decoded = matches!(policy, TokenIds::Cl100kBase | TokenIds::O200kBase);
    if is_decoded && arrays.iter().map(Vec::len).sum::<usize>() > max_tokens {
        return Err(too_many_tokens(name, max_tokens));
    }
    // Always on another thread: the first use builds the decoder's table.
    match policy {
        TokenIds::Native => Ok(arrays.into_iter().map(Input::Tokens).collect()),
        TokenIds::Reject => {
            let subject = served.subject(model);
            Err(ApiError::invalid(format!("{subject} does not accept token ids; send text instead.")))
        }
        TokenIds::Cl100kBase => offload(true, move || decode(&CL100K_BASE, &arrays, is_single, name)).await?,
        TokenIds::O200kBase => offload(true, move || decode(&O200K_BASE, &arrays, is_single, name)).await?,
    }
}

fn decode(
    decoder: &TiktokenDecoder,
    arrays: &[Vec<u32>],
    is_single: bool,
    name: &str,
) -> Result<Vec<Input>, ApiError> {
    let decoded = arrays.iter().enumerate().map(|(index, ids)| {
        decoder.decode(ids).map(Input::Text).map_err(|position| {
            let path = if is_single {
                format!("{name}[{position}]")
            } else {
                format!("{name}[{index}][{position}]")
            };
            let (id, vocabulary) = (ids[position], decoder.name());
            ApiError::invalid(format!(
                "Invalid '{path}': token id {id} is not in the vocabulary {vocabulary}."
            ))
        })
    });
    decoded.collect()
}

/// The error of a request with more than `limit` tokens in the field `name`.
pub(crate) fn too_many_tokens(name: &str, limit: usize) -> ApiError {
    ApiError::new(
        Code::TooLong,
        format!("Invalid '{name}': maximum request size is {limit} tokens per request."),
    )
}
