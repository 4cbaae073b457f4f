//! Status and headers of a successful response of a model: the model, its precision, the prompt, the truncated inputs
//! and the time of each stage.

use std::{fmt::Display, time::Duration};

use actix_web::{
    HttpResponse,
    body::{BodySize, MessageBody},
    http::{
        ConnectionType, Version,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use inference::{Embeddings, Timings};

use crate::{
    budget::ReservedBytes,
    request::ValidatedRequest,
    response::{JsonParts, PartialJson},
    response_coding::ResponseCoding,
};

// Constants, so that the names are checked at compile time.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const IGNORED: HeaderName = HeaderName::from_static("x-embedgate-ignored");
const MODEL: HeaderName = HeaderName::from_static("x-embedgate-model");
const PRECISION: HeaderName = HeaderName::from_static("x-embedgate-precision");
const PROMPT: HeaderName = HeaderName::from_static("x-embedgate-prompt");
const PROMPT_MISSING: HeaderName = HeaderName::from_static("x-embedgate-prompt-missing");
const TRUNCATED: HeaderName = HeaderName::from_static("x-embedgate-truncated");

/// Minimum size of a body that is compressed: a smaller one fits a packet with its headers.
const MIN_COMPRESSED_BYTES: usize = 1024;

/// Status and headers of a response, before its body is known.
pub(super) struct ResponseHead {
    response: HttpResponse,
    version: Version,
    /// Memory that is reserved for a large response.
    memory: Option<ReservedBytes>,
    /// Coding of a body of numbers, if it is compressed.
    coding: Option<ResponseCoding>,
}

impl ResponseHead {
    /// The head of a response to a request of `version`, with the memory that is reserved for its body if it is large.
    /// `coding` is the one that the client accepts; the outer `None` means that the server does not offer any.
    pub(super) fn new(
        version: Version,
        memory: Option<ReservedBytes>,
        coding: Option<Option<ResponseCoding>>,
    ) -> Self {
        let mut response = HttpResponse::Ok().finish();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if coding.is_some() {
            let name = HeaderValue::from_static("accept-encoding");
            response.headers_mut().insert(header::VARY, name);
        }
        Self { response, version, memory, coding: coding.flatten() }
    }

    /// Adds the headers about a computation: the model and its precision, the time of each stage, the prompt, and what
    /// was truncated, ignored or missed.
    pub(super) fn embedded(mut self, request: &ValidatedRequest, embeddings: &Embeddings) -> Self {
        self.insert(MODEL, &*request.served.id);
        self.insert(PRECISION, request.served.precision_note());
        self.insert(SERVER_TIMING, server_timing(&embeddings.timings));
        if embeddings.truncated > 0 {
            self.insert(TRUNCATED, embeddings.truncated);
        }
        if !request.ignored.is_empty() {
            self.insert(IGNORED, request.ignored.join(", "));
        }
        if let Some(prompt) = &request.prompt {
            self.insert(PROMPT, prompt);
        }
        if !request.missing_prompts.is_empty() {
            self.insert(PROMPT_MISSING, request.missing_prompts.join(", "));
        }
        self
    }

    /// A name with a control character cannot be in a header; the response is complete without it.
    fn insert(&mut self, name: HeaderName, value: impl Display) {
        if let Ok(value) = HeaderValue::from_bytes(value.to_string().as_bytes()) {
            self.headers().insert(name, value);
        }
    }

    fn headers(&mut self) -> &mut HeaderMap {
        self.response.headers_mut()
    }

    /// Builds the response with the body `json`: at once, or part by part if memory is reserved for it.
    pub(super) fn send(self, json: impl PartialJson) -> HttpResponse {
        let Self { mut response, version, memory, coding } = self;
        // Base64, whose length is known, has no redundancy that would be worth the time.
        let mut coding = coding.filter(|_| json.json_len().is_none());
        let mut name_coding = |coding: ResponseCoding| {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        };
        let Some(memory) = memory else {
            let mut body = Vec::new();
            json.write_part(0, usize::MAX, &mut body);
            coding = coding.filter(|_| body.len() >= MIN_COMPRESSED_BYTES);
            if let Some(coding) = coding {
                name_coding(coding);
                body = coding.encoded(&body);
            }
            return response.set_body(body).map_into_boxed_body();
        };
        if let Some(coding) = coding {
            name_coding(coding);
        }
        let parts = JsonParts::new(json, memory, coding);
        // HTTP/1.0 has no chunked encoding: a response of unknown length ends with its connection.
        let ends_connection = version < Version::HTTP_11 && parts.size() == BodySize::Stream;
        let mut response = response.set_body(parts).map_into_boxed_body();
        if ends_connection {
            response.head_mut().no_chunking(true);
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        response
    }
}

/// Value of the `server-timing` header (W3C Server Timing): the engine's stages in milliseconds.
fn server_timing(timings: &Timings) -> String {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    format!(
        "tokenize;dur={:.2}, queue;dur={:.2}, inference;dur={:.2}",
        milliseconds(timings.tokenize),
        milliseconds(timings.queue),
        milliseconds(timings.inference)
    )
}
