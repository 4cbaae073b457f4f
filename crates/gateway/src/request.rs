//! From a parsed body to a job that the engine can take: everything that can be refused without work is
//! refused here, before the queue, and what the engine refuses later is put into OpenAI's words here too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{http::header::HeaderMap, web};
use inference::{
    CallerId, EmbedError, Embeddings, EncodeError, Input, Job, SubmitError, TruncationPolicy,
    truncate_dimensions,
};
use openai_schema::{EmbeddingInput, EmbeddingRequest, EncodingFormat};
use tokio::time::timeout_at;

use crate::{
    body::Body,
    config::{LimitsConfig, TokenIds},
    error::{ApiError, Code},
    parameters::{self, Wanted},
    registry::{LoadedModel, Registry, echo},
    response::ResponseMemory,
    vocabulary::{CL100K_BASE, O200K_BASE, Vocabulary},
};

/// Lets one request choose what happens to its overlong inputs.
pub(crate) const TRUNCATION_HEADER: &str = "x-embedgate-truncation";

/// Bodies of at least this size are not parsed on HTTP threads. 256 KiB take about half a millisecond: a larger body
/// would delay the other connections of the thread, and for a smaller one handing it over costs more.
const OFFLOAD_BYTES: usize = 256 * 1024;

/// What applies to every request.
pub(crate) struct RequestLimits {
    pub(crate) limits: LimitsConfig,
    /// From the last byte of the body to the answer.
    pub(crate) time: Duration,
    /// Memory for large answers.
    pub(crate) responses: ResponseMemory,
}

impl RequestLimits {
    /// Most tokens of a request: one with more than a key may have in a minute could never be answered.
    fn most_tokens(&self) -> usize {
        let LimitsConfig { max_request_tokens: most, key_tokens_per_minute: minute, .. } = self.limits;
        if minute == 0 { most } else { most.min(minute) }
    }
}

/// A request in which nothing is left to refuse but what only the tokenizer can know.
pub(crate) struct Plan {
    /// The model that will answer.
    pub(crate) served: Arc<LoadedModel>,
    /// The name that it was asked by.
    pub(crate) model: String,
    /// How the vectors are wanted.
    pub(crate) format: EncodingFormat,
    /// Parameters of other vendors that are ignored.
    pub(crate) ignored: Vec<&'static str>,
    /// Vectors are cut to this length, and normalised.
    cut: Option<usize>,
    bare: bool,
    job: Job,
}

/// Parses a body.
///
/// # Errors
/// 400, as `openai_schema` says.
pub(crate) async fn parse(body: Body) -> Result<EmbeddingRequest, ApiError> {
    offload(body.bytes.len() >= OFFLOAD_BYTES, move || {
        EmbeddingRequest::from_json_keeping(&body.bytes, parameters::known)
    })
    .await?
    .map_err(Into::into)
}

/// The policy for overlong inputs that the request asks for, if it does.
///
/// # Errors
/// 400 when the header names none.
pub(crate) fn overlong(headers: &HeaderMap) -> Result<Option<TruncationPolicy>, ApiError> {
    let Some(value) = headers.get(TRUNCATION_HEADER) else { return Ok(None) };
    let value = echo(String::from_utf8_lossy(value.as_bytes()).trim());
    value.parse().map(Some).map_err(|_| {
        ApiError::invalid(format!(
            "Invalid value for header '{TRUNCATION_HEADER}' = {value}. Supported values: ['truncate', 'average', 'error']."
        ))
    })
}

/// The model that answers to `name`.
///
/// # Errors
/// 404 when none does.
pub(crate) fn resolve(registry: &Registry, name: &str) -> Result<Arc<LoadedModel>, ApiError> {
    registry.find(name).map(Arc::clone).ok_or_else(|| {
        let message = format!(
            "The model `{}` does not exist or you do not have access to it. {}",
            echo(name),
            registry.names()
        );
        ApiError::new(Code::ModelNotFound, message)
    })
}

impl Plan {
    /// Checks a request, whose body was there at `received`, against the model that will answer it and the limits.
    ///
    /// # Errors
    /// 400 for too many inputs, a size that the model does not have, a parameter of another vendor that cannot be
    /// honoured, or token ids that the model does not take.
    pub(crate) async fn new(
        served: Arc<LoadedModel>,
        request: EmbeddingRequest,
        limits: &RequestLimits,
        overlong: Option<TruncationPolicy>,
        received: Instant,
    ) -> Result<Self, ApiError> {
        let maximum = limits.limits.max_inputs;
        if request.input.len() > maximum {
            return Err(ApiError::invalid(format!(
                "Invalid 'input': array length must be {maximum} or less."
            )));
        }
        let unsupported = limits.limits.unsupported_parameters;
        let wanted = parameters::judge(&request, &served, overlong, unsupported)?;
        let bare = request.input.is_single();
        let job = Job {
            inputs: inputs(request.input, &served, &request.model, limits.limits.max_request_tokens).await?,
            truncation: wanted.overlong,
            max_input_tokens: wanted.max_input_tokens,
            deadline: received + limits.time,
            max_tokens: limits.most_tokens(),
            caller: None,
        };
        let Wanted { format, cut, ignored, .. } = wanted;
        Ok(Self { served, model: request.model, format, ignored, cut, bare, job })
    }

    /// About how many tokens the engine will count: four bytes each, and two that every model adds. The tokenizer
    /// alone knows better.
    pub(crate) fn estimate(&self) -> usize {
        let window = self
            .job
            .max_input_tokens
            .map_or(self.served.max_input_tokens, |most| most.min(self.served.max_input_tokens));
        let tokens = |input: &Input| {
            let content = match input {
                Input::Text(text) => text.len().div_ceil(4),
                Input::Tokens(ids) => ids.len(),
            };
            let read = if self.job.truncation == TruncationPolicy::Average { usize::MAX } else { window };
            (content + 2).min(read)
        };
        self.job.inputs.iter().map(tokens).sum::<usize>().min(self.job.max_tokens)
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.job.inputs.len()
    }

    /// Approximate length of the answer in bytes: the text of numbers varies.
    pub(crate) fn estimated_answer_bytes(&self) -> usize {
        let dimensions = self.cut.unwrap_or(self.served.dimensions);
        self.format.estimated_len(self.inputs(), dimensions) + self.model.len()
    }

    /// Has the engine embed the inputs for `caller`. Dropping the future gives the place in the queue back.
    ///
    /// # Errors
    /// 400 for what only the tokenizer can know, 503 when there is no room or no time, 500 otherwise.
    pub(crate) async fn embed(&mut self, caller: u64) -> Result<Embeddings, ApiError> {
        let deadline = self.job.deadline;
        let caller = (caller != 0).then_some(CallerId(caller));
        let job = Job { inputs: std::mem::take(&mut self.job.inputs), caller, ..self.job };
        let ticket = self.served.engine.submit(job).map_err(refusal)?;
        // The engine keeps the deadline too, but a wedged encoder could not.
        let result = timeout_at(deadline.into(), ticket)
            .await
            .map_err(|_| ApiError::unavailable(Code::Deadline, Duration::from_secs(1)))?;
        let mut embeddings = result.map_err(|error| self.failure(error))?;
        if let Some(to) = self.cut {
            truncate_dimensions(&mut embeddings.vectors, embeddings.dimensions, to);
            embeddings.dimensions = to;
            // The answer may wait long for its client.
            embeddings.vectors.shrink_to_fit();
        }
        Ok(embeddings)
    }

    /// The input at `index` as the request's JSON names it.
    fn place(&self, index: usize) -> String {
        if self.bare { "input".to_owned() } else { format!("input[{index}]") }
    }

    fn failure(&self, error: EmbedError) -> ApiError {
        match error {
            EmbedError::InputTooLong { index, max_input_tokens: window, .. } => {
                let fault = if self.bare {
                    format!("Invalid 'input': maximum context length is {window} tokens.")
                } else {
                    format!("Invalid 'input[{index}]': maximum input length is {window} tokens.")
                };
                let subject = self.served.subject(&self.model);
                let message = format!(
                    "{fault} {subject} reads {window} tokens of a text: send shorter texts, or choose what becomes of \
                     longer ones by the header '{TRUNCATION_HEADER}' (truncate, average)."
                );
                ApiError::new(Code::TooLong, message)
            }
            EmbedError::Rejected(rejected) => refusal(rejected),
            EmbedError::TooManyTokens { limit, .. } => too_many_tokens(limit),
            EmbedError::UnknownToken { index, id } => {
                let place = self.place(index);
                ApiError::invalid(format!(
                    "Invalid '{place}': token id {id} is not in the vocabulary of the model `{}`, or has no embedding.",
                    self.served.id
                ))
            }
            EmbedError::NoEmbedding { index, id, token } => ApiError::invalid(format!(
                "Invalid '{}': the model `{}` has no embedding for the token `{token}` (id {id}) in this text.",
                self.place(index),
                self.served.id
            )),
            EmbedError::Tokenizer { index, reason } => ApiError::invalid(format!(
                "Invalid '{}': the tokenizer of the model `{}` cannot read this text: {reason}.",
                self.place(index),
                self.served.id
            )),
            EmbedError::NotFinite { index } => ApiError::invalid(format!(
                "Invalid '{}': the model `{}` computes no finite vector for this text.",
                self.place(index),
                self.served.id
            )),
            // The engine has logged the encoder's error.
            EmbedError::Unencodable { index, .. } => ApiError::invalid(format!(
                "Invalid '{}': the model `{}` cannot compute a vector for this text.",
                self.place(index),
                self.served.id
            )),
            EmbedError::DeadlineExceeded { retry_after } => {
                ApiError::unavailable(Code::Deadline, retry_after)
            }
            EmbedError::Stopped => ApiError::unavailable(Code::Draining, Duration::from_secs(1)),
            EmbedError::Encoder(ref source) => match **source {
                // A graph that does not fit its folder will not do so later.
                EncodeError::Shape { .. } => ApiError::permanent(error),
                _ => ApiError::internal(error),
            },
            // Perhaps a neighbour's text in the same batch was the cause: worth another try.
            EmbedError::Panicked => ApiError::internal(error),
        }
    }
}

/// Runs `work` here, or on a thread that may block when it is `large`.
///
/// # Errors
/// 500 when that thread panicked.
pub(crate) async fn offload<T, F>(large: bool, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    if large { web::block(work).await.map_err(ApiError::internal) } else { Ok(work()) }
}

/// The inputs as the engine takes them, token ids by the model's policy. Ids of OpenAI's are its tokens: more than
/// `most` of them it refuses itself, and their text could be thirty times as large as the body.
async fn inputs(
    input: EmbeddingInput,
    served: &LoadedModel,
    model: &str,
    most: usize,
) -> Result<Vec<Input>, ApiError> {
    let policy = served.token_ids;
    let (arrays, bare) = match input {
        EmbeddingInput::Text(text) => return Ok(vec![Input::Text(text)]),
        EmbeddingInput::Texts(texts) => return Ok(texts.into_iter().map(Input::Text).collect()),
        EmbeddingInput::Tokens(ids) => (vec![ids], true),
        EmbeddingInput::TokenArrays(arrays) => (arrays, false),
    };
    let decoded = matches!(policy, TokenIds::Cl100kBase | TokenIds::O200kBase);
    if decoded && arrays.iter().map(Vec::len).sum::<usize>() > most {
        return Err(too_many_tokens(most));
    }
    // Always off the HTTP threads: the first use builds the table.
    match policy {
        TokenIds::Native => Ok(arrays.into_iter().map(Input::Tokens).collect()),
        TokenIds::Reject => {
            let subject = served.subject(model);
            Err(ApiError::invalid(format!("{subject} does not accept token ids; send text instead.")))
        }
        TokenIds::Cl100kBase => offload(true, move || decode(&CL100K_BASE, &arrays, bare)).await?,
        TokenIds::O200kBase => offload(true, move || decode(&O200K_BASE, &arrays, bare)).await?,
    }
}

fn decode(vocabulary: &Vocabulary, arrays: &[Vec<u32>], bare: bool) -> Result<Vec<Input>, ApiError> {
    let decoded = arrays.iter().enumerate().map(|(index, ids)| {
        vocabulary.decode(ids).map(Input::Text).map_err(|position| {
            let place =
                if bare { format!("input[{position}]") } else { format!("input[{index}][{position}]") };
            let (id, name) = (ids[position], vocabulary.name());
            ApiError::invalid(format!("Invalid '{place}': token id {id} is not in the vocabulary {name}."))
        })
    });
    decoded.collect()
}

fn refusal(error: SubmitError) -> ApiError {
    match error {
        SubmitError::Full { retry_after } => ApiError::unavailable(Code::QueueFull, retry_after),
        SubmitError::DeadlineUnmeetable { retry_after } => ApiError::unavailable(Code::Deadline, retry_after),
        SubmitError::TooLarge { limit, .. } => too_many_tokens(limit),
        SubmitError::Draining => ApiError::unavailable(Code::Draining, Duration::from_secs(1)),
    }
}

fn too_many_tokens(limit: usize) -> ApiError {
    ApiError::new(
        Code::TooLong,
        format!("Invalid 'input': maximum request size is {limit} tokens per request."),
    )
}
