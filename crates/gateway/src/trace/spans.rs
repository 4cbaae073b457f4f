//! The spans of a request, by OpenTelemetry's conventions for HTTP servers and for generative AI.
//!
//! ```text
//! POST /v1/embeddings                 SERVER    http.*, server.*, url.*, embedgate.request.id
//! └─ embeddings all-MiniLM-L6-v2      INTERNAL  gen_ai.*
//!    ├─ tokenize                                measured by the engine, as in `server-timing`
//!    ├─ queue
//!    └─ inference
//! ```
//!
//! Spans never contain input text, keys or other free text of the client: a path is recorded only if it equals its
//! route, a model name only if the model is served. A request that is not sampled costs two ids.

use std::{
    cell::RefCell,
    time::{Instant, SystemTime},
};

use actix_web::{
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, Version, header::HOST, uri::Authority},
};
use inference::Embeddings;
use model_import::Task;
use opentelemetry::{
    Array, Context, KeyValue, Value,
    trace::{Span as _, SpanKind, Status, TraceContextExt, TraceId, Tracer},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::{
    error::{ApiError, Code},
    request::ValidatedRequest,
    tls::IsTls,
};

use super::parent::Parent;

/// The trace of one request.
#[derive(Default)]
pub(crate) struct Trace {
    id: Option<TraceId>,
    request: RefCell<Option<ActiveSpan>>,
}

impl Trace {
    /// The trace of a request that is not recorded: only the caller's trace id, if there is one.
    pub(super) fn untraced(parent: Option<Parent>) -> Self {
        Self { id: parent.map(|parent| parent.trace), request: RefCell::default() }
    }

    pub(super) fn begin(tracer: &SdkTracer, request: &ServiceRequest, parent: Option<Parent>) -> Self {
        let clock = SpanClock::start();
        let method = method(request.method());
        let caller = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent.context(request.headers())),
            None => Context::new(),
        };
        let builder = tracer.span_builder(method).with_kind(SpanKind::Server).with_start_time(clock.wall);
        let mut span = tracer.build_with_context(builder, &caller);
        let id = Some(span.span_context().trace_id()).filter(|id| *id != TraceId::INVALID);
        if !span.is_recording() {
            return Self { id: id.or(parent.map(|parent| parent.trace)), request: RefCell::default() };
        }
        span.set_attribute(KeyValue::new("http.request.method", method));
        span.set_attribute(KeyValue::new(
            "url.scheme",
            if request.app_data::<IsTls>().is_some() { "https" } else { "http" },
        ));
        span.set_attribute(KeyValue::new("network.protocol.version", version(request.version())));
        let server = server(request);
        span.set_attributes(server.clone());
        let span = ActiveSpan { span, tracer: tracer.clone(), clock, server };
        Self { id, request: RefCell::new(Some(span)) }
    }

    /// The trace id, which is also logged.
    pub(crate) fn id(&self) -> Option<TraceId> {
        self.id
    }

    /// Begins the span of the embedding itself.
    pub(crate) fn embeddings(&self, validated: &ValidatedRequest) -> EmbeddingsSpan {
        let request = self.request.borrow();
        EmbeddingsSpan(request.as_ref().map(|request| {
            // The conventions have no operation for reranking.
            let operation = if validated.served.task == Task::Rerank { "rerank" } else { "embeddings" };
            let mut active = request.child(format!("{operation} {}", validated.model), request.clock.now());
            let format = validated.format.name();
            active.span.set_attributes([
                KeyValue::new("gen_ai.operation.name", operation),
                KeyValue::new("gen_ai.provider.name", "embedgate"),
                KeyValue::new("gen_ai.request.model", validated.model.clone()),
                KeyValue::new("gen_ai.response.model", validated.served.id.to_string()),
                KeyValue::new(
                    "gen_ai.request.encoding_formats",
                    Value::Array(Array::String(vec![format.into()])),
                ),
                KeyValue::new("embedgate.request.inputs", count(validated.inputs() as u64)),
            ]);
            active.span.set_attributes(active.server.clone());
            (active, request.clock.now())
        }))
    }

    /// Ends the trace with a response.
    pub(crate) fn end_with_response(
        &self,
        id: &str,
        route: Option<&str>,
        response: &ServiceResponse<impl MessageBody>,
        code: Option<Code>,
    ) {
        let Some(mut active) = self.request.take() else { return };
        let (request, status) = (response.request(), response.status().as_u16());
        if let Some(route) = route {
            active.span.update_name(format!("{} {route}", method(request.method())));
            if route == request.path() {
                active.span.set_attribute(KeyValue::new("url.path", route.to_owned()));
            }
            active.span.set_attribute(KeyValue::new("http.route", route.to_owned()));
        }
        active.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        active.span.set_attribute(KeyValue::new("embedgate.request.id", id.to_owned()));
        // By the conventions, a 4xx is not an error of a server span.
        if status >= 500 {
            active.fail(code.map_or("_OTHER", error_type));
        }
        active.end();
    }

    /// Ends the trace without a response: the client disconnected, or the handler panicked.
    pub(crate) fn end_without_response(&self, id: &str, reason: &'static str) {
        let Some(mut active) = self.request.take() else { return };
        active.span.set_attribute(KeyValue::new("embedgate.request.id", id.to_owned()));
        active.fail(reason);
        active.end();
    }
}

/// The span of the embedding itself. If it is dropped instead of ended, its error is `cancelled`.
pub(crate) struct EmbeddingsSpan(Option<(ActiveSpan, SystemTime)>);

impl EmbeddingsSpan {
    /// Ends the span with one child for each stage of the engine, or with the error.
    pub(crate) fn end(mut self, result: Result<Embeddings, ApiError>) -> Result<Embeddings, ApiError> {
        let Some((mut active, submitted)) = self.0.take() else { return result };
        match &result {
            Ok(embeddings) => {
                let timings = &embeddings.timings;
                let stages = [
                    ("tokenize", timings.tokenize),
                    ("queue", timings.queue),
                    ("inference", timings.inference),
                ];
                let mut at = submitted;
                for (name, duration) in stages {
                    let mut stage = active.child(name.to_owned(), at);
                    at += duration;
                    stage.span.end_with_timestamp(at);
                }
                active.span.set_attributes([
                    KeyValue::new("gen_ai.usage.input_tokens", count(embeddings.total_tokens())),
                    KeyValue::new("gen_ai.embeddings.dimension.count", count(embeddings.dimensions as u64)),
                ]);
            }
            Err(error) => active.fail(error_type(error.code())),
        }
        active.end();
        result
    }
}

impl Drop for EmbeddingsSpan {
    fn drop(&mut self) {
        if let Some((mut active, _)) = self.0.take() {
            active.fail("cancelled");
            active.end();
        }
    }
}

/// A span that is being recorded, and the properties that its children share.
struct ActiveSpan {
    span: Span,
    tracer: SdkTracer,
    clock: SpanClock,
    server: Vec<KeyValue>,
}

impl ActiveSpan {
    fn child(&self, name: String, start: SystemTime) -> Self {
        let parent = Context::new().with_remote_span_context(self.span.span_context().clone());
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Internal).with_start_time(start);
        let span = self.tracer.build_with_context(builder, &parent);
        Self { span, tracer: self.tracer.clone(), clock: self.clock, server: self.server.clone() }
    }

    fn fail(&mut self, error: &'static str) {
        self.span.set_attribute(KeyValue::new("error.type", error));
        self.span.set_status(Status::error(""));
    }

    fn end(&mut self) {
        self.span.end_with_timestamp(self.clock.now());
    }
}

/// Clock of all spans of a request. It reads the wall clock once and then a monotonic clock, so that spans stay nested
/// if the wall clock is set.
#[derive(Clone, Copy)]
struct SpanClock {
    wall: SystemTime,
    monotonic: Instant,
}

impl SpanClock {
    fn start() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }

    fn now(self) -> SystemTime {
        self.wall + self.monotonic.elapsed()
    }
}

/// The host and port by which the client reached this server. A `host` header that is not a valid authority is not
/// recorded, nor is a user in it.
fn server(request: &ServiceRequest) -> Vec<KeyValue> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else { return Vec::new() };
    let address = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().map(|port| KeyValue::new("server.port", i64::from(port)));
    [KeyValue::new("server.address", address)].into_iter().chain(port).collect()
}

/// The method, or `_OTHER` for an unknown one, as the conventions require.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// `error.code` of the response, or its `error.type`.
fn error_type(code: Code) -> &'static str {
    let spec = code.spec();
    spec.code.unwrap_or(spec.kind)
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
