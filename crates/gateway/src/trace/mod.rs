//! Traces of sampled requests, exported by OTLP over HTTP. Without a collector nothing is traced.
//!
//! ```text
//! headers ─▶ parent ─▶ spans ─▶ the SDK's queue and thread ─▶ collector ─▶ network
//! ```
//!
//! `parent` reads the caller's trace context, `spans` records, `collector` exports. The SDK's queue between the last
//! two is bounded and drops what does not fit, so a slow or unavailable collector delays no request. The id of the
//! caller's trace is logged even if the request is not sampled.

mod collector;
mod parent;
mod spans;

use std::{rc::Rc, time::Duration};

use actix_web::{HttpMessage, HttpRequest, dev::ServiceRequest};
use opentelemetry::{InstrumentationScope, Key, KeyValue, trace::TracerProvider};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, SdkProvidedResourceDetector, TelemetryResourceDetector},
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use uuid::Uuid;

use crate::config::TraceConfig;

use collector::Collector;
use parent::Parent;
pub(crate) use spans::Trace;

/// Maximum time to export the remaining spans at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The exporter of traces, if a collector is configured.
pub(crate) struct Tracing(Option<Pipeline>);

struct Pipeline {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Tracing {
    /// Starts the thread that exports spans, if a collector is configured.
    ///
    /// # Errors
    /// If one of the SDK's own environment variables requires a feature that is not compiled in.
    pub(crate) fn new(config: &TraceConfig) -> Result<Self, ExporterBuildError> {
        let Some(url) = &config.otlp_endpoint else { return Ok(Self(None)) };
        let root = Sampler::TraceIdRatioBased(config.sample_ratio.get());
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Collector::new(url.traces())?)
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .with_resource(resource())
            .build();
        let scope = InstrumentationScope::builder("embedgate").with_version(env!("CARGO_PKG_VERSION"));
        let tracer = provider.tracer_with_scope(scope.build());
        Ok(Self(Some(Pipeline { provider, tracer })))
    }

    /// Begins the trace of a request and attaches it. If `is_traced` is false, nothing is recorded.
    pub(crate) fn attach(&self, request: &ServiceRequest, is_traced: bool) -> Rc<Trace> {
        let parent = Parent::of(request.headers());
        let trace = Rc::new(match &self.0 {
            Some(pipeline) if is_traced => Trace::begin(&pipeline.tracer, request, parent),
            _ => Trace::untraced(parent),
        });
        request.extensions_mut().insert(Rc::clone(&trace));
        trace
    }

    /// Exports the remaining spans and ends the thread, within [`FLUSH_TIMEOUT`]. Must not be called on an async
    /// thread.
    pub(crate) fn shutdown(&self) {
        if let Some(pipeline) = &self.0 {
            // The SDK logs the error.
            let _ = pipeline.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl Trace {
    /// The trace that was attached to `request`.
    pub(crate) fn of(request: &HttpRequest) -> Rc<Self> {
        request.extensions().get::<Rc<Self>>().cloned().unwrap_or_default()
    }
}

/// The resource attributes of this process. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` take precedence.
fn resource() -> Resource {
    let name = Key::from_static_str("service.name");
    let defaults = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", Uuid::now_v7().to_string()),
    ];
    let environment = Resource::builder_empty()
        .with_detectors(&[Box::new(EnvResourceDetector::new()), Box::new(SdkProvidedResourceDetector)])
        .build();
    let service = environment.get(&name).filter(|found| !found.as_str().starts_with("unknown_service"));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(defaults)
        .with_attributes(environment.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())))
        .with_attribute(KeyValue::new(name, service.unwrap_or_else(|| "embedgate".into())))
        .build()
}
