//! What is said of a request, by OpenTelemetry's conventions for HTTP servers and for generative AI.
//!
//! ```text
//! POST /v1/embeddings                 SERVER    http.*, server.*, url.*, embedgate.request.id
//! └─ embeddings all-MiniLM-L6-v2      INTERNAL  gen_ai.*
//!    ├─ tokenize                                measured by the engine, as in `server-timing`
//!    ├─ queue
//!    └─ inference
//! ```
//!
//! Never a text, a key, or any other words of the client's own: a path is said only where it is a route's, a model's
//! name only where it is one of ours. A request that is not sampled costs two ids.

use std::{
    cell::RefCell,
    time::{Instant, SystemTime},
};

use actix_web::{
    HttpRequest,
    dev::ServiceRequest,
    http::{Method, Version, header::HOST, uri::Authority},
};
use inference::Embeddings;
use openai_schema::EncodingFormat;
use opentelemetry::{
    Array, Context, KeyValue, Value,
    trace::{Span as _, SpanKind, Status, TraceContextExt, TraceId, Tracer},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::{
    error::{ApiError, Code},
    request::Plan,
    tls::Encrypted,
};

use super::parent::Parent;

/// The trace of one request.
#[derive(Default)]
pub(crate) struct Trace {
    id: Option<TraceId>,
    request: RefCell<Option<Live>>,
}

impl Trace {
    /// Of a request that is not traced here: its caller's id, if it has one.
    pub(super) fn untraced(parent: Option<Parent>) -> Self {
        Self { id: parent.map(|parent| parent.trace), request: RefCell::default() }
    }

    pub(super) fn begin(tracer: &SdkTracer, request: &ServiceRequest, parent: Option<Parent>) -> Self {
        let clock = Clock::start();
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
            if request.app_data::<Encrypted>().is_some() { "https" } else { "http" },
        ));
        span.set_attribute(KeyValue::new("network.protocol.version", version(request.version())));
        let server = server(request);
        span.set_attributes(server.clone());
        let live = Live { span, tracer: tracer.clone(), clock, server };
        Self { id, request: RefCell::new(Some(live)) }
    }

    /// What the request's lines in the log are found by.
    pub(crate) fn id(&self) -> Option<TraceId> {
        self.id
    }

    /// Begins the span of the model's part.
    pub(crate) fn embeddings(&self, plan: &Plan) -> EmbeddingsSpan {
        let request = self.request.borrow();
        EmbeddingsSpan(request.as_ref().map(|request| {
            let mut live = request.child(format!("embeddings {}", plan.model), request.clock.now());
            let format = match plan.format {
                EncodingFormat::Float => "float",
                EncodingFormat::Base64 => "base64",
            };
            live.span.set_attributes([
                KeyValue::new("gen_ai.operation.name", "embeddings"),
                KeyValue::new("gen_ai.provider.name", "embedgate"),
                KeyValue::new("gen_ai.request.model", plan.model.clone()),
                KeyValue::new("gen_ai.response.model", plan.served.id.to_string()),
                KeyValue::new(
                    "gen_ai.request.encoding_formats",
                    Value::Array(Array::String(vec![format.into()])),
                ),
                KeyValue::new("embedgate.request.inputs", count(plan.inputs() as u64)),
            ]);
            live.span.set_attributes(live.server.clone());
            (live, request.clock.now())
        }))
    }

    /// The answer is there.
    pub(crate) fn answered(&self, id: &str, request: &HttpRequest, status: u16, code: Option<Code>) {
        let Some(mut live) = self.request.take() else { return };
        if let Some(route) = request.match_pattern() {
            live.span.update_name(format!("{} {route}", method(request.method())));
            if route == request.path() {
                live.span.set_attribute(KeyValue::new("url.path", route.clone()));
            }
            live.span.set_attribute(KeyValue::new("http.route", route));
        }
        live.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        live.span.set_attribute(KeyValue::new("embedgate.request.id", id.to_owned()));
        // To a server, a 4xx is the client's error and none of its own.
        if status >= 500 {
            live.fail(code.map_or("_OTHER", error_type));
        }
        live.end();
    }

    /// No answer will come: the client is gone, or the handler panicked.
    pub(crate) fn abandoned(&self, id: &str, why: &'static str) {
        let Some(mut live) = self.request.take() else { return };
        live.span.set_attribute(KeyValue::new("embedgate.request.id", id.to_owned()));
        live.fail(why);
        live.end();
    }
}

/// The span of the model's part of a request. Dropped before its end, it says that nobody waited for it.
pub(crate) struct EmbeddingsSpan(Option<(Live, SystemTime)>);

impl EmbeddingsSpan {
    /// Ends it with the engine's phases, or with the error.
    pub(crate) fn end(mut self, result: Result<Embeddings, ApiError>) -> Result<Embeddings, ApiError> {
        let Some((mut live, submitted)) = self.0.take() else { return result };
        match &result {
            Ok(embeddings) => {
                let timings = &embeddings.timings;
                let phases = [
                    ("tokenize", timings.tokenize),
                    ("queue", timings.queue),
                    ("inference", timings.inference),
                ];
                let mut at = submitted;
                for (name, duration) in phases {
                    let mut phase = live.child(name.to_owned(), at);
                    at += duration;
                    phase.span.end_with_timestamp(at);
                }
                live.span.set_attributes([
                    KeyValue::new("gen_ai.usage.input_tokens", count(embeddings.total_tokens())),
                    KeyValue::new("gen_ai.embeddings.dimension.count", count(embeddings.dimensions as u64)),
                ]);
            }
            Err(error) => live.fail(error_type(error.code())),
        }
        live.end();
        result
    }
}

impl Drop for EmbeddingsSpan {
    fn drop(&mut self) {
        if let Some((mut live, _)) = self.0.take() {
            live.fail("cancelled");
            live.end();
        }
    }
}

/// A span that is being recorded, with what its children need.
struct Live {
    span: Span,
    tracer: SdkTracer,
    clock: Clock,
    server: Vec<KeyValue>,
}

impl Live {
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

/// One clock for all spans of a request: read once and counted from there, so that they stay nested when the system's
/// is set meanwhile.
#[derive(Clone, Copy)]
struct Clock {
    wall: SystemTime,
    counted: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { wall: SystemTime::now(), counted: Instant::now() }
    }

    fn now(self) -> SystemTime {
        self.wall + self.counted.elapsed()
    }
}

/// The name by which the client reached this server. Only what is an authority is repeated, without a user in it.
fn server(request: &ServiceRequest) -> Vec<KeyValue> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else { return Vec::new() };
    let address = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().map(|port| KeyValue::new("server.port", i64::from(port)));
    [KeyValue::new("server.address", address)].into_iter().chain(port).collect()
}

/// The method, or that it is none of the usual ones, which a client may make up.
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

/// What the client reads as the error's code, else as its type.
fn error_type(code: Code) -> &'static str {
    let wire = code.wire();
    wire.code.unwrap_or(wire.kind)
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
