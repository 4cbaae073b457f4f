//! Traces: of each sampled request one, sent by OTLP to a collector; without a collector, nothing.
//!
//! ```text
//! headers ─▶ parent ─▶ spans ─▶ the SDK's queue and thread ─▶ collector ─▶ the network
//! ```
//!
//! `parent` reads whose trace a request continues, `spans` decides what is said of it, `collector` sends it. Between
//! the last two stands the SDK's queue, which is bounded and never waited for: whatever becomes of the collector, a
//! request takes as long as it took before. The id of the caller's trace stands in the log, traced or not.

mod collector;
mod parent;
mod spans;

use std::time::Duration;

use actix_web::dev::ServiceRequest;
use opentelemetry::{InstrumentationScope, Key, KeyValue, trace::TracerProvider};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, SdkProvidedResourceDetector, TelemetryResourceDetector},
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use uuid::Uuid;

use crate::{config::TraceConfig, middleware::is_probe};

use collector::Collector;
use parent::Parent;
pub(crate) use spans::Trace;

/// For the spans that are left when the server ends.
const FLUSH: Duration = Duration::from_secs(3);

/// Whether requests are traced, and how.
pub(crate) struct Tracing(Option<On>);

struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Tracing {
    /// Starts the thread that sends spans, where there is a collector to send them to.
    ///
    /// # Errors
    /// When one of the SDK's own variables asks for what is not built in.
    pub(crate) fn new(config: &TraceConfig) -> Result<Self, ExporterBuildError> {
        let Some(url) = &config.otlp_endpoint else { return Ok(Self(None)) };
        let rest = Sampler::TraceIdRatioBased(config.sample_ratio.get());
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Collector::new(url.traces())?)
            .with_sampler(Sampler::ParentBased(Box::new(rest)))
            .with_resource(resource())
            .build();
        let scope = InstrumentationScope::builder("embedgate").with_version(env!("CARGO_PKG_VERSION"));
        let tracer = provider.tracer_with_scope(scope.build());
        Ok(Self(Some(On { provider, tracer })))
    }

    /// Begins the trace of a request. Probes and scrapes are not traced.
    pub(crate) fn begin(&self, request: &ServiceRequest) -> Trace {
        let parent = Parent::of(request.headers());
        match &self.0 {
            Some(on) if !is_probe(request.path()) => Trace::begin(&on.tracer, request, parent),
            _ => Trace::untraced(parent),
        }
    }

    /// Sends what is left and ends the thread, for at most [`FLUSH`]; must not be called on an async thread.
    pub(crate) fn shutdown(&self) {
        if let Some(on) = &self.0 {
            // The SDK logs what went wrong.
            let _ = on.provider.shutdown_with_timeout(FLUSH);
        }
    }
}

/// Who sends: this program, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
fn resource() -> Resource {
    let name = Key::from_static_str("service.name");
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", Uuid::now_v7().to_string()),
    ];
    let environment = Resource::builder_empty()
        .with_detectors(&[Box::new(EnvResourceDetector::new()), Box::new(SdkProvidedResourceDetector)])
        .build();
    let named = environment.get(&name).filter(|found| !found.as_str().starts_with("unknown_service"));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_attributes(environment.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())))
        .with_attribute(KeyValue::new(name, named.unwrap_or_else(|| "embedgate".into())))
        .build()
}
