//! What Prometheus sees: every family declared once (`families.rs`), in a registry of our own.
//!
//! Labels come from closed sets (configured models, matched routes, enums), never from what a client sends,
//! and what can be known beforehand is there from the start at zero, so that a rate is right from the first
//! event on. `docs/METRICS.md` is generated from the declarations by a test.

mod families;

use std::sync::Arc;
use std::time::Duration;

use inference::{BatchReport, CacheReport, EngineStats, Observer, Provider};
use prometheus::{Histogram, IntCounter, IntGauge, Registry, TextEncoder};

use crate::{connection::Phase, load::Choice};

use families::{Families, register};

/// The label of requests that name no model of ours.
const UNKNOWN: &str = "unknown";

/// Routes, methods and statuses that are there from the start; others appear when they first occur.
const HTTP_FROM_START: [(&str, &str, &[u16]); 5] = [
    ("/v1/embeddings", "POST", &[200, 400, 401, 404, 429, 500, 503]),
    ("/v1/models", "GET", &[200]),
    ("/readyz", "GET", &[200, 503]),
    ("/livez", "GET", &[200, 503]),
    ("/metrics", "GET", &[200]),
];

/// How a request for embeddings ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With vectors.
    Success,
    /// With a 4xx.
    ClientError,
    /// Refused for lack of room or time.
    Rejected,
    /// With a 500.
    Error,
    /// The client hung up.
    Cancelled,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Success, Self::ClientError, Self::Rejected, Self::Error, Self::Cancelled];

    fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::Rejected => "rejected",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The queue had no room for its tokens.
    QueueFull,
    /// The memory for bodies had no room for its own.
    BodyMemoryExhausted,
    /// The memory for answers had no room for the answer.
    ResponseMemoryExhausted,
    /// More tokens than the limit or the window allows.
    TooLong,
    /// No key, or a wrong one.
    Auth,
    /// The server was shutting down.
    Draining,
    /// Its deadline passed or could not be met.
    Timeout,
    /// Its key's limits did not allow it.
    RateLimit,
    /// Nobody could say whether its key's limits allow it.
    RateLimiterUnavailable,
}

impl Rejection {
    /// Those that can come before it is known which model is asked for.
    const EARLY: [Self; 3] = [Self::Auth, Self::BodyMemoryExhausted, Self::Draining];
    /// Those that can come afterwards.
    const LATE: [Self; 7] = [
        Self::QueueFull,
        Self::ResponseMemoryExhausted,
        Self::TooLong,
        Self::Draining,
        Self::Timeout,
        Self::RateLimit,
        Self::RateLimiterUnavailable,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::BodyMemoryExhausted => "body_memory_exhausted",
            Self::ResponseMemoryExhausted => "response_memory_exhausted",
            Self::TooLong => "too_long",
            Self::Auth => "auth",
            Self::Draining => "draining",
            Self::Timeout => "timeout",
            Self::RateLimit => "rate_limit",
            Self::RateLimiterUnavailable => "rate_limiter_unavailable",
        }
    }
}

/// Outcome of a parameter that OpenAI's API does not have and that was not honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterOutcome {
    /// The request was answered without it.
    Ignored,
    /// The request was answered with 400 because of it.
    Rejected,
}

impl ParameterOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Rejected => "rejected",
        }
    }
}

/// What is said once about a model that was loaded.
#[derive(Clone, Debug)]
pub struct ModelInfo<'a> {
    /// Its id.
    pub model: &'a str,
    /// Which weights: the fingerprint of its files.
    pub revision: &'a str,
    /// Arithmetic, such as `fp32`.
    pub dtype: &'a str,
    /// Where it runs.
    pub provider: Provider,
    /// What computes it, and why.
    pub choice: Choice,
    /// Each text is run alone.
    pub per_text: bool,
    /// Length of its vectors.
    pub dimensions: usize,
    /// Its window.
    pub max_tokens: usize,
    /// Time from opening its folder until its vectors were checked.
    pub load_time: Duration,
}

/// All metrics of one server.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
    models: Arc<Vec<ModelMetrics>>,
    unknown: ModelMetrics,
}

/// The metrics of one configured model, or of all requests that name none.
#[derive(Clone)]
pub struct ModelMetrics {
    label: Arc<str>,
    families: Arc<Families>,
    engine: Option<Arc<EngineMetrics>>,
}

/// Bytes that the server holds for its clients.
#[derive(Clone)]
pub struct BufferMetrics {
    /// Bytes reserved at present.
    pub bytes: IntGauge,
    /// Maximum number of them.
    pub limit: IntGauge,
}

/// What the cache's second tier reports.
#[derive(Clone)]
pub struct TierMetrics {
    /// Whether it answers.
    pub up: IntGauge,
    /// Answers that came too late.
    pub timeouts: IntCounter,
    /// Connections that could not be opened, or broke.
    pub connections: IntCounter,
    /// Other errors, such as a wrong password.
    pub others: IntCounter,
    /// Vectors that were not written.
    pub dropped: IntCounter,
}

/// What limits that several servers share report.
#[derive(Clone)]
pub struct LimitsMetrics {
    /// Whether their server answers.
    pub up: IntGauge,
    /// Answers that came too late.
    pub timeouts: IntCounter,
    /// Connections that could not be opened, or broke.
    pub connections: IntCounter,
    /// Other errors, such as a wrong password.
    pub others: IntCounter,
}

/// One of the open connections.
pub(crate) struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What one model's engine reports, with the label looked up once: observations come at every batch.
struct EngineMetrics {
    queue_wait: Histogram,
    tokenize: Histogram,
    inference: Histogram,
    batch_inputs: Histogram,
    batch_tokens: Histogram,
    input_length: Histogram,
    inputs: IntCounter,
    input_tokens: IntCounter,
    padding_tokens: IntCounter,
    truncated: IntCounter,
    inference_errors: IntCounter,
    cache_hits: IntCounter,
    cache_tier_hits: IntCounter,
    cache_misses: IntCounter,
    deduplicated: IntCounter,
}

impl Metrics {
    /// Metrics for the models of these ids.
    pub fn new<'a>(models: impl IntoIterator<Item = &'a str>) -> Self {
        let registry = Registry::new();
        let families = Arc::new(Families::new(&registry));
        #[cfg(target_os = "linux")]
        register(&registry, prometheus::process_collector::ProcessCollector::for_self());
        for (route, method, statuses) in HTTP_FROM_START {
            for status in statuses {
                families.http_requests.with_label_values(&[route, method, &status.to_string()]);
            }
        }
        for phase in Phase::ALL {
            families.connections_ended.with_label_values(&[phase.label()]);
        }
        for kind in ["timeout", "connection", "other"] {
            families.tier_errors.with_label_values(&[kind]);
            families.limits_errors.with_label_values(&[kind]);
        }
        families.tier_dropped.with_label_values::<&str>(&[]);
        families.build("");
        let models = models.into_iter().map(|id| ModelMetrics::configured(id, &families)).collect();
        let unknown = ModelMetrics::unknown(&families);
        Self { registry, families, models: Arc::new(models), unknown }
    }

    /// The metrics of the model `id`; of no model when there is no id or no such model.
    pub fn model(&self, id: Option<&str>) -> ModelMetrics {
        let known = self.models.iter().find(|model| Some(&*model.label) == id);
        known.unwrap_or(&self.unknown).clone()
    }

    /// What a second tier of the cache counts in.
    pub fn tier(&self) -> TierMetrics {
        let errors = |kind| self.families.tier_errors.with_label_values(&[kind]);
        TierMetrics {
            up: self.families.tier_up.clone(),
            timeouts: errors("timeout"),
            connections: errors("connection"),
            others: errors("other"),
            dropped: self.families.tier_dropped.with_label_values::<&str>(&[]),
        }
    }

    /// The memory of request bodies.
    pub fn bodies(&self) -> BufferMetrics {
        let families = &self.families;
        BufferMetrics { bytes: families.body_bytes.clone(), limit: families.body_bytes_limit.clone() }
    }

    /// The memory of answers.
    pub fn responses(&self) -> BufferMetrics {
        let families = &self.families;
        BufferMetrics { bytes: families.response_bytes.clone(), limit: families.response_bytes_limit.clone() }
    }

    /// What limits that several servers share count in.
    pub fn limits(&self) -> LimitsMetrics {
        let errors = |kind| self.families.limits_errors.with_label_values(&[kind]);
        LimitsMetrics {
            up: self.families.limits_up.clone(),
            timeouts: errors("timeout"),
            connections: errors("connection"),
            others: errors("other"),
        }
    }

    /// Counts an answer. `route` is a route's pattern, never the path that a client asked for.
    pub fn http(&self, route: &str, method: &str, status: u16) {
        let method = match method {
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
            _ => "other",
        };
        self.families.http_requests.with_label_values(&[route, method, &status.to_string()]).inc();
    }

    /// Counts a parameter of another vendor, by its name in the table of parameters. Its series appears with the first
    /// one: there are dozens of names, and most servers never see most of them.
    pub fn parameter(&self, name: &'static str, outcome: ParameterOutcome) {
        self.families.extra_parameters.with_label_values(&[name, outcome.label()]).inc();
    }

    /// Counts a connection as open until the returned value is dropped.
    pub(crate) fn connection_opened(&self) -> OpenConnection {
        self.families.connections.inc();
        OpenConnection(self.families.connections.clone())
    }

    /// Counts a connection that the server ended because its client exceeded a limit.
    pub(crate) fn connection_ended(&self, phase: Phase) {
        self.families.connections_ended.with_label_values(&[phase.label()]).inc();
    }

    /// Notes the version of ONNX Runtime that was loaded.
    pub fn runtime_loaded(&self, version: &str) {
        self.families.build_info.reset();
        self.families.build(version);
    }

    /// Notes that a model was loaded.
    pub fn model_loaded(&self, info: &ModelInfo<'_>) {
        let (dimensions, window) = (info.dimensions.to_string(), info.max_tokens.to_string());
        let (provider, kernels) = (info.provider.to_string(), info.choice.kernels.to_string());
        let why = info.choice.why.label();
        let batching = if info.per_text { "per_text" } else { "batched" };
        let labels =
            [info.model, info.revision, info.dtype, &provider, &kernels, why, batching, &dimensions, &window];
        self.families.model_info.with_label_values(&labels).set(1);
        self.families.load_duration.with_label_values(&[info.model]).set(info.load_time.as_secs_f64());
    }

    /// Everything in Prometheus' text format. Gauges that mirror an engine are read now: from `loads`, by
    /// model id.
    ///
    /// # Errors
    /// When a family cannot be encoded.
    pub fn render(&self, ready: bool, loads: &[(&str, EngineStats)]) -> Result<String, prometheus::Error> {
        self.families.ready.set(ready.into());
        for (id, load) in loads {
            self.families.mirror(id, load);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl ModelMetrics {
    fn configured(id: &str, families: &Arc<Families>) -> Self {
        for outcome in Outcome::ALL {
            families.request_duration.with_label_values(&[id, outcome.label()]);
        }
        for reason in Rejection::LATE {
            families.rejected.with_label_values(&[id, reason.label()]);
        }
        for gauges in families.mirrors() {
            gauges.with_label_values(&[id]);
        }
        families.evictions(id);
        let cache = |result| families.cache_requests.with_label_values(&[id, result]);
        let engine = EngineMetrics {
            queue_wait: families.queue_wait.with_label_values(&[id]),
            tokenize: families.tokenize.with_label_values(&[id]),
            inference: families.inference.with_label_values(&[id]),
            batch_inputs: families.batch_inputs.with_label_values(&[id]),
            batch_tokens: families.batch_tokens.with_label_values(&[id]),
            input_length: families.input_length.with_label_values(&[id]),
            inputs: families.inputs.with_label_values(&[id]),
            input_tokens: families.input_tokens.with_label_values(&[id]),
            padding_tokens: families.padding_tokens.with_label_values(&[id]),
            truncated: families.truncated.with_label_values(&[id]),
            inference_errors: families.inference_errors.with_label_values(&[id]),
            cache_hits: cache("hit"),
            cache_tier_hits: cache("tier_hit"),
            cache_misses: cache("miss"),
            deduplicated: families.deduplicated.with_label_values(&[id]),
        };
        Self { label: id.into(), families: Arc::clone(families), engine: Some(Arc::new(engine)) }
    }

    /// A request without a known model ends before any engine, by one of these as a rule. A client may also hang up
    /// before its body is there, and a handler could panic; that is too rare to have a histogram from the start.
    fn unknown(families: &Arc<Families>) -> Self {
        for outcome in [Outcome::ClientError, Outcome::Rejected] {
            families.request_duration.with_label_values(&[UNKNOWN, outcome.label()]);
        }
        for reason in Rejection::EARLY {
            families.rejected.with_label_values(&[UNKNOWN, reason.label()]);
        }
        Self { label: UNKNOWN.into(), families: Arc::clone(families), engine: None }
    }

    /// Counts a request for embeddings, which took `elapsed` from its head to its answer.
    pub fn request(&self, outcome: Outcome, elapsed: Duration) {
        let labels = [&*self.label, outcome.label()];
        self.families.request_duration.with_label_values(&labels).observe(elapsed.as_secs_f64());
    }

    /// Counts a refused request.
    pub fn rejected(&self, reason: Rejection) {
        self.families.rejected.with_label_values(&[&*self.label, reason.label()]).inc();
    }
}

impl Observer for ModelMetrics {
    fn tokenized(&self, lengths: &[u32], truncated: usize, elapsed: Duration) {
        let Some(engine) = &self.engine else { return };
        engine.tokenize.observe(elapsed.as_secs_f64());
        for &length in lengths {
            engine.input_length.observe(length.into());
        }
        engine.inputs.inc_by(lengths.len() as u64);
        engine.input_tokens.inc_by(lengths.iter().map(|&length| u64::from(length)).sum());
        engine.truncated.inc_by(truncated as u64);
    }

    fn cache(&self, report: &CacheReport) {
        let Some(engine) = &self.engine else { return };
        engine.cache_hits.inc_by(report.hits as u64);
        engine.cache_tier_hits.inc_by(report.remote_hits as u64);
        engine.cache_misses.inc_by(report.misses as u64);
        engine.deduplicated.inc_by(report.deduplicated as u64);
    }

    fn queue_wait(&self, waited: Duration) {
        let Some(engine) = &self.engine else { return };
        engine.queue_wait.observe(waited.as_secs_f64());
    }

    fn batch(&self, report: &BatchReport) {
        let Some(engine) = &self.engine else { return };
        engine.inference.observe(report.elapsed.as_secs_f64());
        engine.batch_inputs.observe(report.inputs as f64);
        engine.batch_tokens.observe((report.tokens + report.padding) as f64);
        engine.padding_tokens.inc_by(report.padding as u64);
    }

    fn encoder_failed(&self) {
        let Some(engine) = &self.engine else { return };
        engine.inference_errors.inc();
    }
}
