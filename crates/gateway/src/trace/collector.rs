//! Exporter of finished spans to the collector. An unavailable, slow or failing collector is logged and never affects a
//! request.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter as Export},
};

use crate::error_chain::error_chain;

/// Timeout of one batch, from the first byte to the last. Only the SDK's thread waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Number of retries of a batch: enough for a connection that broke, without delaying the shutdown.
const MAX_RETRIES: usize = 1;

/// Interval between warnings about a failing collector.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum size of the collector's response.
const MAX_RESPONSE_BYTES: u64 = 64 * 1024;

/// Exports batches of spans by OTLP over HTTP, and logs dropped ones.
#[derive(Debug)]
pub(super) struct Collector {
    exporter: SpanExporter,
    drops: Mutex<DropStats>,
}

/// Dropped spans that were not logged yet.
#[derive(Debug, Default)]
struct DropStats {
    /// Spans dropped since the last warning.
    spans: usize,
    /// Time of the last warning; `None` while exports succeed.
    warned: Option<Instant>,
}

impl Collector {
    /// Creates an exporter that sends POST requests to `url`.
    ///
    /// # Errors
    /// If one of the SDK's own environment variables requires a feature that is not compiled in.
    pub(super) fn new(url: String) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .with_timeout(TIMEOUT)
            .with_retry_policy(RetryPolicy::recommended().with_max_retries(MAX_RETRIES))
            .build()?;
        Ok(Self { exporter, drops: Mutex::default() })
    }

    fn on_exported(&self) {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        if drops.warned.take().is_some() {
            tracing::info!(dropped = drops.spans, "the trace collector accepts spans again");
            drops.spans = 0;
        }
    }

    fn on_error(&self, spans: usize, error: &str) {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.spans += spans;
        if drops.warned.is_none_or(|last| last.elapsed() >= WARN_INTERVAL) {
            tracing::warn!(dropped = drops.spans, error, "cannot export spans to the trace collector");
            *drops = DropStats { spans: 0, warned: Some(Instant::now()) };
        }
    }
}

impl Export for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        match self.exporter.export(batch).await {
            Ok(()) => self.on_exported(),
            Err(error) => self.on_error(spans, &error.to_string()),
        }
        // An error would make the SDK log each failed batch a second time.
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Blocking HTTP client: the SDK exports on a thread of its own.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            // Only the settings decide where traces go, not the environment's proxy.
            .proxy(None);
        Self(config.build().into())
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let sent = self.0.run(Request::from_parts(head, &body[..]));
        // The SDK's error does not contain this cause.
        let response =
            sent.inspect_err(|error| tracing::debug!(error = error_chain(error), "cannot send spans"))?;
        let (head, mut body) = response.into_parts();
        let body = body.with_config().limit(MAX_RESPONSE_BYTES).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}
