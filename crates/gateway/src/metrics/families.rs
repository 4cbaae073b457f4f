//! The declaration of every family: name, help, labels and buckets, each once.

use inference::EngineStats;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector, exponential_buckets,
};

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

/// The families, each declared in [`Families::new`] and nowhere else.
pub(super) struct Families {
    pub(super) http_requests: IntCounterVec,
    pub(super) connections: IntGauge,
    pub(super) connections_ended: IntCounterVec,
    pub(super) request_duration: HistogramVec,
    pub(super) rejected: IntCounterVec,
    pub(super) extra_parameters: IntCounterVec,
    pub(super) waiting: IntGaugeVec,
    pub(super) running: IntGaugeVec,
    pub(super) queue_tokens: IntGaugeVec,
    pub(super) in_flight: IntGaugeVec,
    pub(super) in_flight_limit: IntGaugeVec,
    pub(super) queue_wait: HistogramVec,
    pub(super) tokenize: HistogramVec,
    pub(super) inference: HistogramVec,
    pub(super) batch_inputs: HistogramVec,
    pub(super) batch_tokens: HistogramVec,
    pub(super) input_length: HistogramVec,
    pub(super) inputs: IntCounterVec,
    pub(super) input_tokens: IntCounterVec,
    pub(super) padding_tokens: IntCounterVec,
    pub(super) truncated: IntCounterVec,
    pub(super) inference_errors: IntCounterVec,
    pub(super) cache_requests: IntCounterVec,
    pub(super) deduplicated: IntCounterVec,
    pub(super) body_bytes: IntGauge,
    pub(super) body_bytes_limit: IntGauge,
    pub(super) response_bytes: IntGauge,
    pub(super) response_bytes_limit: IntGauge,
    cache_bytes: IntGaugeVec,
    cache_entries: IntGaugeVec,
    cache_evictions: IntCounterVec,
    pub(super) tier_up: IntGauge,
    pub(super) tier_errors: IntCounterVec,
    pub(super) tier_dropped: IntCounterVec,
    pub(super) limits_up: IntGauge,
    pub(super) limits_errors: IntCounterVec,
    pub(super) ready: IntGauge,
    pub(super) load_duration: GaugeVec,
    pub(super) model_info: IntGaugeVec,
    pub(super) build_info: IntGaugeVec,
}

impl Families {
    pub(super) fn new(registry: &Registry) -> Self {
        let declare = Declare { registry };
        Self {
            http_requests: declare.counters(
                "http_requests_total",
                "Answers, by matched route, method and status.",
                &["route", "method", "code"],
            ),
            connections: declare.gauge("connections", "Open connections, on both listeners."),
            connections_ended: declare.counters(
                "connections_ended_total",
                "Connections that the server ended because the client exceeded a limit, by phase: handshake (TLS), \
                 head (of a request), idle (between requests), send (the client takes an answer too slowly), linger \
                 (the client goes on sending a body that was refused).",
                &["phase"],
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
                "Rejected requests for embeddings, by reason: queue_full, body_memory_exhausted, \
                 response_memory_exhausted, too_long, auth, draining, timeout, rate_limit, rate_limiter_unavailable.",
                &["model", "reason"],
            ),
            extra_parameters: declare.counters(
                "extra_parameters_total",
                "Parameters of other vendors (docs/PARAMETERS.md) in requests for embeddings, by outcome: ignored (they \
                 change nothing, or `limits.unsupported_parameters` is `ignore`), rejected (with 400). One that is \
                 honoured is not counted.",
                &["parameter", "outcome"],
            ),
            waiting: declare
                .gauges("requests_waiting", "Admitted requests of which no text has reached the model yet."),
            running: declare.gauges("requests_running", "Requests of which some text has reached the model."),
            queue_tokens: declare.gauges("queue_tokens", "Tokens in the queue, waiting for a worker."),
            in_flight: declare.gauges(
                "tokens_in_flight",
                "Tokens to compute for the requests in flight, queued and executing: the measure to scale by.",
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
                "Inputs cut at the model's window, or at the smaller one that their request asked for.",
                &["model"],
            ),
            inference_errors: declare.counters("inference_errors_total", "Batches that failed.", &["model"]),
            cache_requests: declare.counters(
                "cache_requests_total",
                "Inputs that the cache was asked for, by result: hit (in memory), tier_hit (in the second tier), miss. \
                 An input that is embedded window by window counts once for each.",
                &["model", "result"],
            ),
            deduplicated: declare.counters(
                "inputs_deduplicated_total",
                "Inputs that shared the vector of an equal one in flight, and so were not asked for.",
                &["model"],
            ),
            body_bytes: declare.gauge(
                "buffered_body_bytes",
                "Memory of request bodies that are being read or parsed, beyond 16 KiB of each.",
            ),
            body_bytes_limit: declare.gauge(
                "buffered_body_bytes_limit",
                "Capacity for request bodies, `limits.max_buffered_body_bytes`.",
            ),
            response_bytes: declare.gauge(
                "buffered_response_bytes",
                "Memory reserved for answers above 32 KiB that are computed or wait for their clients to read them.",
            ),
            response_bytes_limit: declare.gauge(
                "buffered_response_bytes_limit",
                "Capacity for answers above 32 KiB, `limits.max_buffered_response_bytes`.",
            ),
            cache_bytes: declare.gauges(
                "cache_bytes",
                "Memory of the vectors in the cache, with their keys and overhead.",
            ),
            cache_entries: declare.gauges("cache_entries", "Vectors in the cache's memory."),
            cache_evictions: declare.counters(
                "cache_evictions_total",
                "Vectors that had to make room for others in the cache's memory.",
                &["model"],
            ),
            tier_up: declare.gauge(
                "cache_tier_up",
                "Whether the cache's second tier answers; 0 also where there is none.",
            ),
            tier_errors: declare.counters(
                "cache_tier_errors_total",
                "Failed attempts to ask, fill or reach the cache's second tier, by kind: timeout, connection, other. \
                 Requests go on without it.",
                &["kind"],
            ),
            tier_dropped: declare.counters(
                "cache_tier_dropped_total",
                "Vectors that were not written to the cache's second tier: it was away or too slow.",
                &[],
            ),
            limits_up: declare.gauge(
                "limits_redis_up",
                "Whether the Redis server of the shared limits answers; 0 also where there is none.",
            ),
            limits_errors: declare.counters(
                "limits_redis_errors_total",
                "Failed attempts to ask or reach the Redis server of the shared limits, by kind: timeout, connection, \
                 other.",
                &["kind"],
            ),
            ready: declare.gauge(
                "ready",
                "Whether requests are taken: 1 when every model is loaded and the server is not draining.",
            ),
            load_duration: declare.load_duration(),
            model_info: declare.infos(
                "model_info",
                "A model in service; always 1. kernels: neon, avx2, avx512, amx are embedgate's own, \
                 onnxruntime runs a graph; why: asked (by the settings), best (kernels for this \
                 processor), capped (by `isa`), no_bf16 (the processor has no fast bf16), no_golden (no golden \
                 vectors to prove bf16), bf16_missed (bf16 misses the golden vectors), onnx_file (the setting names a \
                 graph), network (no own kernels for it), provider (only ONNX Runtime has it), no_kernels (none for \
                 this processor); batching: batched, or per_text for a dynamically quantised graph.",
                &[
                    "model",
                    "revision",
                    "dtype",
                    "provider",
                    "kernels",
                    "why",
                    "batching",
                    "dimensions",
                    "max_tokens",
                ],
            ),
            build_info: declare.infos(
                "build_info",
                "This program; always 1. ort_version is empty until ONNX Runtime is loaded.",
                &["version", "revision", "ort_version"],
            ),
        }
    }

    /// Says what this program is; once more when the runtime's version is known.
    pub(super) fn build(&self, ort_version: &str) {
        let labels = [env!("CARGO_PKG_VERSION"), REVISION, ort_version];
        self.build_info.with_label_values(&labels).set(1);
    }

    /// The gauges that repeat what an engine says of itself.
    pub(super) fn mirrors(&self) -> [&IntGaugeVec; 7] {
        [
            &self.waiting,
            &self.running,
            &self.queue_tokens,
            &self.in_flight,
            &self.in_flight_limit,
            &self.cache_bytes,
            &self.cache_entries,
        ]
    }

    /// The counter that repeats what a cache says of itself.
    pub(super) fn evictions(&self, id: &str) -> IntCounter {
        self.cache_evictions.with_label_values(&[id])
    }

    pub(super) fn mirror(&self, id: &str, load: &EngineStats) {
        let values = [
            load.waiting_requests,
            load.running_requests,
            load.queued_tokens,
            load.tokens_in_flight,
            load.tokens_limit,
            load.cache_bytes,
            load.cache_entries,
        ];
        for (gauges, value) in self.mirrors().into_iter().zip(values) {
            gauges.with_label_values(&[id]).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let evictions = self.evictions(id);
        evictions.inc_by(load.cache_evictions.saturating_sub(evictions.get()));
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
pub(super) fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect("each family is declared once");
}
