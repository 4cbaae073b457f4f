//! Metrics in Prometheus' format, in a registry of our own.
//!
//! A family is declared once, in `families.rs`; `docs/METRICS.md` is generated from the declarations by a test. Label
//! values come from closed sets (configured models, matched routes, enums). Series whose labels are known at startup
//! exist from then on at zero, so that a rate is right from the first event.

mod declare;
mod families;
mod labels;
mod snapshot;

use std::{sync::Arc, time::Duration};

use inference::{BatchReport, CacheReport, EngineStats, Observer, Provider};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};
use redis::RedisError;

use crate::{
    backend::{AccuracyProof, Selection},
    error::Code,
};

use declare::register;
use families::{EngineGauges, EngineMetrics, Families};
use labels::CacheResult;
pub(crate) use labels::ConnectionPhase;
pub use labels::{LoadOutcome, Outcome, ParameterOutcome, RedisErrorKind, Rejection, UnloadReason};

/// Commit that this program was built from, if the build sets it.
pub(crate) const REVISION: &str = match option_env!("EMBEDGATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Value of the label `model` for requests that name no configured model.
const UNKNOWN: &str = "unknown";

/// Routes, methods and statuses whose series exist from startup. Others appear when they first occur.
const PREREGISTERED_HTTP: [(&str, &str, &[u16]); 5] = [
    ("/v1/embeddings", "POST", &[200, 400, 401, 404, 429, 500, 503]),
    ("/v1/models", "GET", &[200]),
    ("/readyz", "GET", &[200, 503]),
    ("/livez", "GET", &[200, 503]),
    ("/metrics", "GET", &[200]),
];

/// Description of a loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo<'a> {
    /// Its id.
    pub model: &'a str,
    /// Fingerprint of its files.
    pub revision: &'a str,
    /// Precision of its arithmetic, such as `fp32`.
    pub dtype: &'a str,
    /// Device that it runs on.
    pub provider: Provider,
    /// Its backend, and the reason for the selection.
    pub selection: Selection,
    /// Accuracy of each precision below fp32 that was tried.
    pub proofs: &'a [AccuracyProof],
    /// Each input runs alone.
    pub per_text: bool,
    /// Length of its vectors.
    pub dimensions: usize,
    /// Maximum number of tokens of one input.
    pub max_tokens: usize,
    /// Time from opening its folder until its golden check passed.
    pub load_time: Duration,
}

impl ModelInfo<'_> {
    /// Calls `use_labels` with the values of the labels of `model_info`.
    fn with_labels<R>(&self, use_labels: impl FnOnce(&[&str]) -> R) -> R {
        let Selection { backend, reason } = self.selection;
        use_labels(&[
            self.model,
            self.revision,
            self.dtype,
            &self.provider.to_string(),
            backend.label(),
            &backend.isa().map_or_else(String::new, |isa| isa.to_string()),
            reason.label(),
            if self.per_text { "per_text" } else { "batched" },
            &self.dimensions.to_string(),
            &self.max_tokens.to_string(),
        ])
    }
}

/// All metrics of one server.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
    engine_gauges: Arc<EngineGauges>,
    models: Arc<Vec<ModelMetrics>>,
    unknown: ModelMetrics,
}

/// Metrics of one configured model, or of all requests that name none.
#[derive(Clone)]
pub struct ModelMetrics {
    label: Arc<str>,
    families: Arc<Families>,
    engine: Option<Arc<EngineMetrics>>,
}

/// Memory that the server holds for its clients.
#[derive(Clone)]
pub struct BufferMetrics {
    /// Reserved bytes.
    pub bytes: IntGauge,
    /// Maximum number of reserved bytes.
    pub limit: IntGauge,
}

/// Metrics of a Redis server.
#[derive(Clone)]
pub struct RedisMetrics {
    /// 1 while the server answers, else 0.
    pub up: IntGauge,
    errors: IntCounterVec,
}

impl RedisMetrics {
    /// Counts a failed operation.
    pub fn count_error(&self, error: &RedisError) {
        self.count(if error.is_timeout() {
            RedisErrorKind::Timeout
        } else if error.is_io_error() || error.is_connection_dropped() {
            RedisErrorKind::Connection
        } else {
            RedisErrorKind::Other
        });
    }

    /// Counts a failed operation of a known kind.
    pub fn count(&self, kind: RedisErrorKind) {
        self.errors.with_label_values(&[kind.label()]).inc();
    }

    /// Number of failed operations.
    pub fn errors(&self, kind: RedisErrorKind) -> u64 {
        self.errors.with_label_values(&[kind.label()]).get()
    }
}

/// Metrics of the remote cache.
#[derive(Clone)]
pub struct RemoteCacheMetrics {
    /// Its server.
    pub redis: RedisMetrics,
    /// Vectors that were not written.
    pub dropped: IntCounter,
}

/// Counts an open connection, or a waiting request, until it is dropped.
pub(crate) struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Creates the metrics of a server with the models of these ids.
    pub fn new<'a>(models: impl IntoIterator<Item = &'a str>) -> Self {
        let registry = Registry::new();
        let families = Arc::new(Families::new(&registry));
        let engine_gauges = Arc::new(EngineGauges::new(&registry));
        #[cfg(target_os = "linux")]
        register(&registry, prometheus::process_collector::ProcessCollector::for_self());
        for (route, method, statuses) in PREREGISTERED_HTTP {
            for status in statuses {
                families.http_requests.with_label_values(&[route, method, &status.to_string()]);
            }
        }
        // The error of a wrongly configured client. Others appear when they first occur.
        families.errors.with_label_values(&[Code::InvalidKey.name()]);
        for phase in ConnectionPhase::ALL {
            families.connections_ended.with_label_values(&[phase.label()]);
        }
        for kind in RedisErrorKind::ALL {
            families.remote_cache_errors.with_label_values(&[kind.label()]);
            families.rate_limiter_errors.with_label_values(&[kind.label()]);
        }
        let models = models.into_iter().map(|id| {
            engine_gauges.preregister(id);
            ModelMetrics::configured(id, &families)
        });
        let models = Arc::new(models.collect());
        let unknown = ModelMetrics::unknown(&families);
        let metrics = Self { registry, families, engine_gauges, models, unknown };
        metrics.runtime_loaded("");
        metrics
    }

    /// Metrics of the model `id`; those of unknown models if there is no id or no such model.
    pub fn model(&self, id: Option<&str>) -> ModelMetrics {
        let known = self.models.iter().find(|model| Some(&*model.label) == id);
        known.unwrap_or(&self.unknown).clone()
    }

    /// Metrics of the remote cache.
    pub fn remote_cache(&self) -> RemoteCacheMetrics {
        let families = &self.families;
        RemoteCacheMetrics {
            redis: RedisMetrics {
                up: families.remote_cache_up.clone(),
                errors: families.remote_cache_errors.clone(),
            },
            dropped: families.remote_cache_dropped.clone(),
        }
    }

    /// Metrics of the Redis server of shared rate limits.
    pub fn rate_limiter(&self) -> RedisMetrics {
        let families = &self.families;
        RedisMetrics { up: families.rate_limiter_up.clone(), errors: families.rate_limiter_errors.clone() }
    }

    /// Metrics of the memory for request bodies.
    pub fn bodies(&self) -> BufferMetrics {
        let families = &self.families;
        BufferMetrics { bytes: families.body_bytes.clone(), limit: families.body_bytes_limit.clone() }
    }

    /// Metrics of the memory for answers.
    pub fn responses(&self) -> BufferMetrics {
        let families = &self.families;
        BufferMetrics { bytes: families.response_bytes.clone(), limit: families.response_bytes_limit.clone() }
    }

    /// Counts an answer. `route` is the pattern of a route, never the path of a request.
    pub fn http(&self, route: &str, method: &str, status: u16) {
        let method = match method {
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
            _ => "other",
        };
        self.families.http_requests.with_label_values(&[route, method, &status.to_string()]).inc();
    }

    /// Counts an error that was sent to a client.
    pub fn error(&self, code: Code) {
        self.families.errors.with_label_values(&[code.name()]).inc();
    }

    /// Counts a parameter of another vendor, by its name in the table of parameters. The series appears when it is
    /// first counted, because most servers never see most of the names.
    pub fn parameter(&self, name: &'static str, outcome: ParameterOutcome) {
        self.families.extra_parameters.with_label_values(&[name, outcome.label()]).inc();
    }

    /// Counts a request that was answered with vectors, by the name of its API key. The caller bounds the number of
    /// names. The series appear with the first request of a key.
    pub fn key_usage(&self, key: &str, tokens: u64, truncated: usize) {
        let families = &self.families;
        families.key_requests.with_label_values(&[key]).inc();
        families.key_tokens.with_label_values(&[key]).inc_by(tokens);
        families.key_truncated.with_label_values(&[key]).inc_by(truncated as u64);
    }

    /// Counts a connection as open until the returned value is dropped.
    pub(crate) fn connection_opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.families.connections)
    }

    /// Counts a connection that the server ended because its client exceeded a limit.
    pub(crate) fn connection_ended(&self, phase: ConnectionPhase) {
        self.families.connections_ended.with_label_values(&[phase.label()]).inc();
    }

    /// Records the version of ONNX Runtime.
    pub fn runtime_loaded(&self, version: &str) {
        self.families.build_info.reset();
        let labels = [env!("CARGO_PKG_VERSION"), REVISION, version];
        self.families.build_info.with_label_values(&labels).set(1);
    }

    /// Creates the series of loads and unloads of a model that is loaded on demand, at zero.
    pub(crate) fn preregister_loads(&self, id: &str) {
        for outcome in LoadOutcome::ALL {
            self.families.loads.with_label_values(&[id, outcome.label()]);
        }
        for reason in UnloadReason::ALL {
            self.families.unloads.with_label_values(&[id, reason.label()]);
        }
        for reason in Rejection::OF_LOADS {
            self.families.rejected.with_label_values(&[id, reason.label()]);
        }
    }

    /// Sets the capacity for loaded models.
    pub(crate) fn set_memory_budget(&self, bytes: usize) {
        self.families.memory_budget.set(gauge(bytes));
    }

    /// Counts a request that waits for the model `id` to be loaded, until the returned value is dropped.
    pub(crate) fn waiting_for_load(&self, id: &str) -> Option<GaugeGuard> {
        Some(GaugeGuard::new(&self.model(Some(id)).engine?.waiting_for_load))
    }

    /// Counts a load of the model `id`.
    pub(crate) fn load(&self, id: &str, outcome: LoadOutcome) {
        self.families.loads.with_label_values(&[id, outcome.label()]).inc();
    }

    /// Records that a model is loaded, and takes about `memory` bytes.
    pub fn model_loaded(&self, info: &ModelInfo<'_>, memory: usize) {
        self.load(info.model, LoadOutcome::Success);
        info.with_labels(|labels| self.families.model_info.with_label_values(labels).set(1));
        self.families.load_duration.with_label_values(&[info.model]).set(info.load_time.as_secs_f64());
        for proof in info.proofs {
            let labels = [info.model, proof.precision.name()];
            self.families.worst_cosine.with_label_values(&labels).set(proof.worst_cosine);
            self.families.mean_cosine.with_label_values(&labels).set(proof.mean_cosine);
            self.families.proof_duration.with_label_values(&labels).set(proof.duration.as_secs_f64());
        }
        self.set_loaded(info.model, true, memory);
    }

    /// Records that a model is unloaded.
    pub fn model_unloaded(&self, info: &ModelInfo<'_>, reason: UnloadReason) {
        self.families.unloads.with_label_values(&[info.model, reason.label()]).inc();
        // The next load may use changed files and another precision. An error means that the series does not exist.
        let _ = info.with_labels(|labels| self.families.model_info.remove_label_values(labels));
        for proof in info.proofs {
            let labels = [info.model, proof.precision.name()];
            let _ = self.families.worst_cosine.remove_label_values(&labels);
            let _ = self.families.mean_cosine.remove_label_values(&labels);
            let _ = self.families.proof_duration.remove_label_values(&labels);
        }
        self.set_loaded(info.model, false, 0);
    }

    fn set_loaded(&self, id: &str, is_loaded: bool, memory: usize) {
        let Some(engine) = self.model(Some(id)).engine else { return };
        engine.loaded.set(is_loaded.into());
        engine.memory.set(gauge(memory));
    }

    /// Renders all metrics in Prometheus' text format. The gauges of the engines are set from `stats`, by model id.
    ///
    /// # Errors
    /// When a family cannot be encoded.
    pub fn render(&self, ready: bool, stats: &[(&str, EngineStats)]) -> Result<String, prometheus::Error> {
        self.families.ready.set(ready.into());
        for (id, stats) in stats {
            self.engine_gauges.sync(id, stats);
            let evictions = self.families.cache_evictions.with_label_values(&[*id]);
            evictions.inc_by(stats.cache_evictions.saturating_sub(evictions.get()));
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Value of a gauge.
pub(crate) fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl ModelMetrics {
    fn configured(id: &str, families: &Arc<Families>) -> Self {
        for outcome in Outcome::ALL {
            families.request_duration.with_label_values(&[id, outcome.label()]);
        }
        for reason in Rejection::AFTER_MODEL_KNOWN {
            families.rejected.with_label_values(&[id, reason.label()]);
        }
        for result in CacheResult::ALL {
            families.cache_requests.with_label_values(&[id, result.label()]);
        }
        families.cache_evictions.with_label_values(&[id]);
        families.prompts_missing.with_label_values(&[id]);
        families.loads.with_label_values(&[id, LoadOutcome::Success.label()]);
        // Only the operator unloads a model that is loaded at startup.
        families.unloads.with_label_values(&[id, UnloadReason::Admin.label()]);
        let engine = Some(Arc::new(families.models.of_model(id)));
        Self { label: id.into(), families: Arc::clone(families), engine }
    }

    /// Metrics of requests without a known model. Most end with one of these outcomes; other outcomes (the client
    /// disconnects before its body is complete, a handler panics) are too rare for a histogram from startup.
    fn unknown(families: &Arc<Families>) -> Self {
        for outcome in [Outcome::ClientError, Outcome::Rejected] {
            families.request_duration.with_label_values(&[UNKNOWN, outcome.label()]);
        }
        for reason in Rejection::BEFORE_MODEL_KNOWN {
            families.rejected.with_label_values(&[UNKNOWN, reason.label()]);
        }
        Self { label: UNKNOWN.into(), families: Arc::clone(families), engine: None }
    }

    /// Counts a request for embeddings that took `elapsed` from its head to its answer.
    pub fn request(&self, outcome: Outcome, elapsed: Duration) {
        let labels = [&*self.label, outcome.label()];
        self.families.request_duration.with_label_values(&labels).observe(elapsed.as_secs_f64());
    }

    /// Counts a request whose inputs got no prompt, although the model expects one.
    pub fn prompt_missing(&self) {
        self.families.prompts_missing.with_label_values(&[&*self.label]).inc();
    }

    /// Counts a rejected request.
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
        for (result, count) in [
            (CacheResult::Hit, report.hits),
            (CacheResult::RemoteHit, report.remote_hits),
            (CacheResult::Miss, report.misses),
        ] {
            let labels = [&*self.label, result.label()];
            self.families.cache_requests.with_label_values(&labels).inc_by(count as u64);
        }
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
