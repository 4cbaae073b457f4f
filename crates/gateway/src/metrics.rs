//! What Prometheus sees: every family declared once, in a registry of our own.
//!
//! Labels come from closed sets (configured models, matched routes, enums), never from what a client sends,
//! and what can be known beforehand is there from the start at zero, so that a rate is right from the first
//! event on. `docs/METRICS.md` is generated from this file by a test.

use std::sync::Arc;
use std::time::Duration;

use inference::{BatchReport, Load, Observer, Provider};
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector, exponential_buckets,
};

/// The label of requests that name no model of ours.
const UNKNOWN: &str = "unknown";

/// The commit that this program was built from, where the build says so.
const REVISION: &str = match option_env!("EMBEDGATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// 1.25 ms to 20.48 s, doubling: every boundary that a service-level objective may name.
const SECONDS: (f64, usize) = (0.00125, 15);
/// 1 to 256.
const BATCH_INPUTS: (f64, usize) = (1.0, 9);
/// 32 to 65,536.
const BATCH_TOKENS: (f64, usize) = (32.0, 12);
/// 4 to 8,192.
const INPUT_TOKENS: (f64, usize) = (4.0, 12);

/// Routes, methods and statuses that are there from the start; others appear when they first occur.
const HTTP_FROM_START: [(&str, &str, &[u16]); 5] = [
    ("/v1/embeddings", "POST", &[200, 400, 401, 404, 500, 503]),
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
    /// More tokens than the limit or the window allows.
    TooLong,
    /// No key, or a wrong one.
    Auth,
    /// The server was shutting down.
    Draining,
    /// Its deadline passed or could not be met.
    Timeout,
}

impl Rejection {
    const ALL: [Self; 5] = [Self::QueueFull, Self::TooLong, Self::Auth, Self::Draining, Self::Timeout];

    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLong => "too_long",
            Self::Auth => "auth",
            Self::Draining => "draining",
            Self::Timeout => "timeout",
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

/// The families, each declared in [`Families::new`] and nowhere else.
struct Families {
    http_requests: IntCounterVec,
    request_duration: HistogramVec,
    rejected: IntCounterVec,
    waiting: IntGaugeVec,
    running: IntGaugeVec,
    queue_tokens: IntGaugeVec,
    in_flight: IntGaugeVec,
    in_flight_limit: IntGaugeVec,
    queue_wait: HistogramVec,
    tokenize: HistogramVec,
    inference: HistogramVec,
    batch_inputs: HistogramVec,
    batch_tokens: HistogramVec,
    input_length: HistogramVec,
    inputs: IntCounterVec,
    input_tokens: IntCounterVec,
    padding_tokens: IntCounterVec,
    truncated: IntCounterVec,
    inference_errors: IntCounterVec,
    ready: IntGauge,
    load_duration: GaugeVec,
    model_info: IntGaugeVec,
    build_info: IntGaugeVec,
}

/// The metrics of one configured model, or of all requests that name none.
#[derive(Clone)]
pub struct ModelMetrics {
    label: Arc<str>,
    families: Arc<Families>,
    engine: Option<Arc<EngineMetrics>>,
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

    /// Counts an answer. `route` is a route's pattern, never the path that a client asked for.
    pub fn http(&self, route: &str, method: &str, status: u16) {
        let method = match method {
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
            _ => "other",
        };
        self.families.http_requests.with_label_values(&[route, method, &status.to_string()]).inc();
    }

    /// Notes the version of ONNX Runtime that was loaded.
    pub fn runtime_loaded(&self, version: &str) {
        self.families.build_info.reset();
        self.families.build(version);
    }

    /// Notes that a model was loaded.
    pub fn model_loaded(&self, info: &ModelInfo<'_>) {
        let (dimensions, window) = (info.dimensions.to_string(), info.max_tokens.to_string());
        let provider = info.provider.to_string();
        let labels = [info.model, info.revision, info.dtype, &provider, &dimensions, &window];
        self.families.model_info.with_label_values(&labels).set(1);
        self.families.load_duration.with_label_values(&[info.model]).set(info.load_time.as_secs_f64());
    }

    /// Everything in Prometheus' text format. Gauges that mirror an engine are read now: from `loads`, by
    /// model id.
    ///
    /// # Errors
    /// When a family cannot be encoded.
    pub fn render(&self, ready: bool, loads: &[(&str, Load)]) -> Result<String, prometheus::Error> {
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
        for reason in Rejection::ALL {
            families.rejected.with_label_values(&[id, reason.label()]);
        }
        for gauges in families.mirrors() {
            gauges.with_label_values(&[id]);
        }
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
        };
        Self { label: id.into(), families: Arc::clone(families), engine: Some(Arc::new(engine)) }
    }

    /// A request without a known model fails before any engine; so these two outcomes can happen to it.
    fn unknown(families: &Arc<Families>) -> Self {
        for outcome in [Outcome::ClientError, Outcome::Rejected] {
            families.request_duration.with_label_values(&[UNKNOWN, outcome.label()]);
        }
        for reason in [Rejection::Auth, Rejection::Draining] {
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

impl Families {
    fn new(registry: &Registry) -> Self {
        let declare = Declare { registry };
        Self {
            http_requests: declare.counters(
                "http_requests_total",
                "Answers, by matched route, method and status.",
                &["route", "method", "code"],
            ),
            request_duration: declare.histograms(
                "request_duration_seconds",
                "Time from a request for embeddings to its answer, by how it ended: success, client_error, \
                 rejected (no room or no time), error, cancelled (the client hung up).",
                &["model", "outcome"],
                SECONDS,
            ),
            rejected: declare.counters(
                "requests_rejected_total",
                "Refused requests for embeddings, by reason: queue_full, too_long, auth, draining, timeout.",
                &["model", "reason"],
            ),
            waiting: declare
                .gauges("requests_waiting", "Admitted requests of which no text has reached the model yet."),
            running: declare.gauges("requests_running", "Requests of which some text has reached the model."),
            queue_tokens: declare.gauges("queue_tokens", "Tokens in the queue, waiting for a worker."),
            in_flight: declare.gauges(
                "tokens_in_flight",
                "Tokens of all admitted requests, queued and executing: the measure to scale by.",
            ),
            in_flight_limit: declare.gauges("tokens_in_flight_limit", "Capacity for tokens in flight."),
            queue_wait: declare
                .durations("queue_wait_seconds", "Time that a tokenized request waited for its first batch."),
            tokenize: declare.durations("tokenize_duration_seconds", "Time to tokenize one request."),
            inference: declare.durations("inference_duration_seconds", "Time of one batch in the model."),
            batch_inputs: declare.histograms("batch_inputs", "Texts of one batch.", &["model"], BATCH_INPUTS),
            batch_tokens: declare.histograms(
                "batch_tokens",
                "Tokens of one batch, padding included.",
                &["model"],
                BATCH_TOKENS,
            ),
            input_length: declare.histograms(
                "input_length_tokens",
                "Tokens of one input as the model read it, special tokens included.",
                &["model"],
                INPUT_TOKENS,
            ),
            inputs: declare.counters("inputs_total", "Inputs tokenized.", &["model"]),
            input_tokens: declare.counters(
                "input_tokens_total",
                "Tokens of all inputs, special tokens included, padding not.",
                &["model"],
            ),
            padding_tokens: declare.counters(
                "padding_tokens_total",
                "Tokens that were computed only to make the texts of a batch equally long.",
                &["model"],
            ),
            truncated: declare.counters(
                "inputs_truncated_total",
                "Inputs cut at the model's window.",
                &["model"],
            ),
            inference_errors: declare.counters("inference_errors_total", "Batches that failed.", &["model"]),
            ready: declare.gauge(
                "ready",
                "Whether requests are taken: 1 when every model is loaded and the server is not draining.",
            ),
            load_duration: declare.load_duration(),
            model_info: declare.infos(
                "model_info",
                "A model in service; always 1.",
                &["model", "revision", "dtype", "provider", "dimensions", "max_tokens"],
            ),
            build_info: declare.infos(
                "build_info",
                "This program; always 1. ort_version is empty until ONNX Runtime is loaded.",
                &["version", "revision", "ort_version"],
            ),
        }
    }

    fn build(&self, ort_version: &str) {
        let labels = [env!("CARGO_PKG_VERSION"), REVISION, ort_version];
        self.build_info.with_label_values(&labels).set(1);
    }

    fn mirrors(&self) -> [&IntGaugeVec; 5] {
        [&self.waiting, &self.running, &self.queue_tokens, &self.in_flight, &self.in_flight_limit]
    }

    fn mirror(&self, id: &str, load: &Load) {
        let values = [
            load.waiting_requests,
            load.running_requests,
            load.queued_tokens,
            load.tokens_in_flight,
            load.tokens_limit,
        ];
        for (gauges, value) in self.mirrors().into_iter().zip(values) {
            gauges.with_label_values(&[id]).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

/// Creates families under our prefix and registers them.
struct Declare<'a> {
    registry: &'a Registry,
}

impl Declare<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(options(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(options(name, help)))
    }

    /// A gauge for each model.
    fn gauges(&self, name: &str, help: &str) -> IntGaugeVec {
        self.infos(name, help, &["model"])
    }

    fn infos(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(options(name, help), labels))
    }

    fn load_duration(&self) -> GaugeVec {
        let help = "Time from opening a model's folder until its vectors were checked.";
        self.add(GaugeVec::new(options("model_load_duration_seconds", help), &["model"]))
    }

    /// A duration for each model.
    fn durations(&self, name: &str, help: &str) -> HistogramVec {
        self.histograms(name, help, &["model"], SECONDS)
    }

    /// Buckets double from the first boundary.
    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        (first, count): (f64, usize),
    ) -> HistogramVec {
        let buckets = exponential_buckets(first, 2.0, count);
        let family = buckets.and_then(|buckets| {
            HistogramVec::new(HistogramOpts::from(options(name, help)).buckets(buckets), labels)
        });
        self.add(family)
    }

    /// # Panics
    /// When a name is malformed or declared twice: every name stands in this file, and every start would fail.
    fn add<C: Collector + Clone + 'static>(&self, family: prometheus::Result<C>) -> C {
        let family = family.expect("a family's name and labels are well formed");
        register(self.registry, family.clone());
        family
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("embedgate")
}

/// # Panics
/// When a name is declared twice.
fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect("each family is declared once");
}
