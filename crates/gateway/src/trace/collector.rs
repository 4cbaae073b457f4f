//! The way of finished spans to the collector, which may be away, slow or unwilling: it is tried, it is said, and the
//! requests never notice.

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

use crate::middleware::chain;

/// For one batch, from the first byte to the last. Only the thread that sends waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often a batch is tried again: enough for a connection that broke, and little enough not to delay an end.
const RETRIES: usize = 1;

/// How often a collector that takes nothing is spoken of.
const REMINDER: Duration = Duration::from_secs(60);

/// What a collector may have to say about a batch.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Sends batches of spans by OTLP over HTTP, and speaks of those it cannot send.
#[derive(Debug)]
pub(super) struct Collector {
    exporter: SpanExporter,
    losses: Mutex<Losses>,
}

/// What has not been said yet.
#[derive(Debug, Default)]
struct Losses {
    /// Spans lost since the last warning.
    spans: usize,
    /// When the last warning was; `None` while the collector takes spans.
    warned: Option<Instant>,
}

impl Collector {
    /// Sends to `url`, which takes POSTs.
    ///
    /// # Errors
    /// When the SDK's own variables ask for something that is not built in.
    pub(super) fn new(url: String) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .with_timeout(TIMEOUT)
            .with_retry_policy(RetryPolicy::recommended().with_max_retries(RETRIES))
            .build()?;
        Ok(Self { exporter, losses: Mutex::default() })
    }

    fn taken(&self) {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        if losses.warned.take().is_some() {
            tracing::info!(lost = losses.spans, "the collector takes traces again");
            losses.spans = 0;
        }
    }

    fn lost(&self, spans: usize, error: &str) {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.spans += spans;
        if losses.warned.is_none_or(|last| last.elapsed() >= REMINDER) {
            tracing::warn!(
                lost = losses.spans,
                error,
                "the collector takes no traces; going on without them"
            );
            *losses = Losses { spans: 0, warned: Some(Instant::now()) };
        }
    }
}

impl Export for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        match self.exporter.export(batch).await {
            Ok(()) => self.taken(),
            Err(error) => self.lost(spans, &error.to_string()),
        }
        // The SDK would log each failure as an error. It has been spoken of above, and nobody else can do anything.
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Plain HTTP that blocks, for the SDK's own thread has nothing else to do.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            // A collector is named by the settings, not by the environment.
            .proxy(None);
        Self(config.build().into())
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let sent = self.0.run(Request::from_parts(head, &body[..]));
        // The SDK only says that there was an error, not which.
        let answer =
            sent.inspect_err(|error| tracing::debug!(error = chain(error), "no traces were sent"))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(LONGEST_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}
