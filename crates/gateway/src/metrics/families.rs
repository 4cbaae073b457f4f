//! Declarations of all metric families.

use inference::EngineStats;
use model_import::AccuracyMeasure;
use prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use super::declare::{Buckets, Declaration, Family, ModelSeries, families};

/// 1.25 ms to 20.48 s: every bound that a service-level objective may name.
const SECONDS: Buckets = (0.00125, 15);
const NO_BUCKETS: Buckets = (1.0, 1);

families! {
    server {
        http_requests: IntCounterVec {
            name: "http_requests_total",
            help: "HTTP answers, by matched route, method and status.",
            labels: ["route", "method", "code"],
        }
        connections: IntGauge { name: "connections", help: "Open connections, on both listeners." }
        connections_ended: IntCounterVec {
            name: "connections_ended_total",
            help: "Connections that the server closed because the client exceeded a limit, by phase: handshake \
                   (TLS), head (of a request), idle (between requests), send (the client reads an answer too \
                   slowly), linger (the client keeps sending a rejected body).",
            labels: ["phase"],
        }
        request_duration: HistogramVec {
            name: "request_duration_seconds",
            help: "Time from a request for embeddings to its answer, by outcome: success, client_error, rejected (no \
                   capacity or no time), error, cancelled (the client disconnected).",
            labels: ["model", "outcome"],
            buckets: SECONDS,
        }
        rejected: IntCounterVec {
            name: "requests_rejected_total",
            help: "Rejected requests for embeddings, by reason: queue_full, body_memory_exhausted, \
                   response_memory_exhausted, too_long, auth, draining, timeout, rate_limit, \
                   rate_limiter_unavailable; load_timeout, load_failed, load_queue_full (its model was not loaded).",
            labels: ["model", "reason"],
        }
        errors: IntCounterVec {
            name: "errors_total",
            help: "Errors sent to clients, on all routes, by the name of the error in docs/ERRORS.md. Most codes have \
                   no series before their first error.",
            labels: ["code"],
        }
        extra_parameters: IntCounterVec {
            name: "extra_parameters_total",
            help: "Parameters of other vendors (docs/PARAMETERS.md) in requests for embeddings, and `dimensions` that \
                   means the model's own, by outcome: ignored (no effect, or `limits.unsupported_parameters` is \
                   `ignore`), rejected (with 400). Honored parameters are not counted.",
            labels: ["parameter", "outcome"],
        }
        key_requests: IntCounterVec {
            name: "api_key_requests_total",
            help: "Requests for embeddings that were answered with vectors, by the name of their API key; `other` for \
                   all keys after the first 50 that sent one. A key has no series before its first request.",
            labels: ["api_key"],
        }
        key_tokens: IntCounterVec {
            name: "api_key_input_tokens_total",
            help: "Tokens of the requests in `embedgate_api_key_requests_total`, as `usage` of their responses counts \
                   them.",
            labels: ["api_key"],
        }
        key_truncated: IntCounterVec {
            name: "api_key_inputs_truncated_total",
            help: "Truncated inputs of the requests in `embedgate_api_key_requests_total`.",
            labels: ["api_key"],
        }
        prompts_missing: IntCounterVec {
            name: "prompts_missing_total",
            help: "Requests for embeddings whose inputs got no prompt, although the model expects one: the request \
                   named none and no default is set, or its inputs are token ids.",
            labels: ["model"],
        }
        cache_requests: IntCounterVec {
            name: "cache_requests_total",
            help: "Cache lookups, by result: hit (local memory), remote_hit (remote cache), miss. An input that is \
                   embedded in several windows counts once for each.",
            labels: ["model", "result"],
        }
        body_bytes: IntGauge {
            name: "buffered_body_bytes",
            help: "Memory of request bodies that are being read or parsed, or whose model is being loaded, beyond \
                   16 KiB of each.",
        }
        body_bytes_limit: IntGauge {
            name: "buffered_body_bytes_limit",
            help: "Capacity for request bodies, `limits.max_buffered_body_bytes`.",
        }
        response_bytes: IntGauge {
            name: "buffered_response_bytes",
            help: "Memory reserved for answers above 32 KiB, from admission until their clients have read them.",
        }
        response_bytes_limit: IntGauge {
            name: "buffered_response_bytes_limit",
            help: "Capacity for answers above 32 KiB, `limits.max_buffered_response_bytes`.",
        }
        remote_cache_up: IntGauge {
            name: "cache_remote_up",
            help: "1 if the remote cache answers, otherwise 0. Without a remote cache it is 0.",
        }
        remote_cache_errors: IntCounterVec {
            name: "cache_remote_errors_total",
            help: "Failed lookups, writes and connection attempts of the remote cache, by kind: timeout, connection, \
                   other. Requests are served without it.",
            labels: ["kind"],
        }
        remote_cache_dropped: IntCounter {
            name: "cache_remote_dropped_total",
            help: "Vectors not written to the remote cache because it was unavailable, too slow or full.",
        }
        rate_limiter_up: IntGauge {
            name: "rate_limit_redis_up",
            help: "1 if the Redis server of the shared rate limits answers, otherwise 0. Without one it is 0.",
        }
        rate_limiter_errors: IntCounterVec {
            name: "rate_limit_redis_errors_total",
            help: "Failed requests and connection attempts to the Redis server of the shared rate limits, by kind: \
                   timeout, connection, other.",
            labels: ["kind"],
        }
        ready: IntGauge {
            name: "ready",
            help: "1 if requests are accepted (every model with `load` = `startup` was loaded and the server is not \
                   draining), otherwise 0.",
        }
        load_duration: GaugeVec {
            name: "model_load_duration_seconds",
            help: "Time from opening a model's folder until its golden check passed, of its last load.",
            labels: ["model"],
        }
        worst_cosine: GaugeVec {
            name: "model_accuracy_worst_cosine",
            help: "Accuracy proof of a precision below fp32: smallest cosine between a loaded model's vectors in \
                   this precision and in fp32, over built-in texts. A precision that failed has a series too.",
            labels: ["model", "precision"],
        }
        mean_cosine: GaugeVec {
            name: "model_accuracy_mean_cosine",
            help: "Accuracy proof of a precision below fp32: mean cosine between a loaded model's vectors in this \
                   precision and in fp32, over built-in texts.",
            labels: ["model", "precision"],
        }
        worst_score_difference: GaugeVec {
            name: "model_accuracy_worst_score_difference",
            help: "Accuracy proof of a precision below fp32 for a reranker: largest difference between a score in \
                   this precision and in fp32, over built-in pairs, as a part of the range of the scores in fp32. A \
                   precision that failed has a series too.",
            labels: ["model", "precision"],
        }
        mean_score_difference: GaugeVec {
            name: "model_accuracy_mean_score_difference",
            help: "Accuracy proof of a precision below fp32 for a reranker: mean difference between a score in this \
                   precision and in fp32, over built-in pairs, as a part of the range of the scores in fp32.",
            labels: ["model", "precision"],
        }
        proof_duration: GaugeVec {
            name: "model_accuracy_proof_duration_seconds",
            help: "Time that the accuracy proof of a loaded model took, at this load or at the earlier one that is \
                   remembered.",
            labels: ["model", "precision"],
        }
        loads: IntCounterVec {
            name: "model_loads_total",
            help: "Loads of a model, at startup and later, by result: success, failure.",
            labels: ["model", "result"],
        }
        unloads: IntCounterVec {
            name: "model_unloads_total",
            help: "Unloads of a model, by reason: idle (for `keep_alive`), budget (to make room for another model in \
                   `loading.memory_budget`), admin (by an admin route).",
            labels: ["model", "reason"],
        }
        memory_budget: IntGauge {
            name: "model_memory_budget_bytes",
            help: "Capacity for loaded models, `loading.memory_budget`; 0 without one.",
        }
        cache_evictions: IntCounterVec {
            name: "cache_evictions_total",
            help: "Vectors evicted from the local cache.",
            labels: ["model"],
        }
        model_info: IntGaugeVec {
            name: "model_info",
            help: "A loaded model; always 1. backend: native (embedgate's kernels) or onnxruntime; isa: \
                   instruction set of the native kernels, as in the setting `isa`; reason for the selection: \
                   configured (by the settings), best (the fastest that this CPU supports), capped (by `isa`), \
                   accuracy_failed (a faster precision failed the accuracy proof), golden_failed (a faster precision \
                   failed the golden check), onnx_file (the setting names a graph), unsupported_network (no native \
                   kernels for it), provider (only ONNX Runtime has it), unsupported_cpu (no native kernels for it); \
                   batching: batched, or per_text for a dynamically quantized graph.",
            labels: [
                "model", "revision", "dtype", "provider", "backend", "isa", "reason", "batching", "dimensions",
                "max_tokens"
            ],
        }
        build_info: IntGaugeVec {
            name: "build_info",
            help: "Version of this program; always 1. ort_version is empty until ONNX Runtime is loaded.",
            labels: ["version", "revision", "ort_version"],
        }
    }
    model {
        queue_wait: Histogram {
            name: "queue_wait_seconds",
            help: "Time that a tokenized request waited for its first batch.",
            buckets: SECONDS,
        }
        tokenize: Histogram {
            name: "tokenize_duration_seconds",
            help: "Time to tokenize one request.",
            buckets: SECONDS,
        }
        inference: Histogram {
            name: "inference_duration_seconds",
            help: "Time of one batch in the model.",
            buckets: SECONDS,
        }
        batch_inputs: Histogram { name: "batch_inputs", help: "Inputs of one batch.", buckets: (1.0, 9) }
        batch_tokens: Histogram {
            name: "batch_tokens",
            help: "Tokens of one batch, including padding.",
            buckets: (32.0, 7),
        }
        input_length: Histogram {
            name: "input_length_tokens",
            help: "Tokens of one input as the model reads it, including special tokens.",
            buckets: (4.0, 12),
        }
        inputs: IntCounter { name: "inputs_total", help: "Tokenized inputs." }
        input_tokens: IntCounter {
            name: "input_tokens_total",
            help: "Tokens of all inputs, including special tokens, excluding padding.",
        }
        padding_tokens: IntCounter {
            name: "padding_tokens_total",
            help: "Padding tokens, computed to give the inputs of a batch equal length.",
        }
        truncated: IntCounter {
            name: "inputs_truncated_total",
            help: "Inputs truncated at the model's limit, or at a smaller limit of their request.",
        }
        inference_errors: IntCounter { name: "inference_errors_total", help: "Failed batches." }
        deduplicated: IntCounter {
            name: "inputs_deduplicated_total",
            help: "Inputs that shared the computation of an equal input in flight, without a cache lookup.",
        }
        loaded: IntGauge { name: "model_loaded", help: "1 if the model is loaded, otherwise 0." }
        memory: IntGauge {
            name: "model_memory_bytes",
            help: "Estimated memory of the model, from the size of its files, while it is loaded; otherwise 0.",
        }
        waiting_for_load: IntGauge {
            name: "requests_waiting_for_load",
            help: "Requests that wait for the model to be loaded.",
        }
    }
}

/// Gauge that is set to a figure of each model's engine at every scrape.
struct EngineGauge {
    name: &'static str,
    help: &'static str,
    read: fn(&EngineStats) -> usize,
}

const ENGINE_GAUGES: [EngineGauge; 7] = [
    EngineGauge {
        name: "requests_waiting",
        help: "Admitted requests that wait for their first batch.",
        read: |stats| stats.waiting_requests,
    },
    EngineGauge {
        name: "requests_running",
        help: "Requests of which at least one input has reached the model.",
        read: |stats| stats.running_requests,
    },
    EngineGauge {
        name: "queue_tokens",
        help: "Tokens in the queue, waiting for a worker.",
        read: |stats| stats.queued_tokens,
    },
    EngineGauge {
        name: "tokens_in_flight",
        help: "Tokens to compute for the requests in flight, queued or running: the metric for autoscaling.",
        read: |stats| stats.tokens_in_flight,
    },
    EngineGauge {
        name: "tokens_in_flight_limit",
        help: "Capacity for tokens in flight.",
        read: |stats| stats.tokens_limit,
    },
    EngineGauge {
        name: "cache_bytes",
        help: "Memory of the vectors in the local cache, including keys and overhead.",
        read: |stats| stats.cache_bytes,
    },
    EngineGauge {
        name: "cache_entries",
        help: "Vectors in the local cache.",
        read: |stats| stats.cache_entries,
    },
];

impl Families {
    /// The families of the worst and the mean value of a measure.
    pub(super) fn accuracy(&self, measure: AccuracyMeasure) -> [&GaugeVec; 2] {
        match measure {
            AccuracyMeasure::Cosine => [&self.worst_cosine, &self.mean_cosine],
            AccuracyMeasure::ScoreDifference => [&self.worst_score_difference, &self.mean_score_difference],
        }
    }
}

/// The families of [`ENGINE_GAUGES`], in their order.
pub(super) struct EngineGauges(Vec<IntGaugeVec>);

impl EngineGauges {
    pub(super) fn new(registry: &Registry) -> Self {
        let declare = |&EngineGauge { name, help, .. }: &EngineGauge| {
            let declaration = Declaration { name, help, labels: &["model"], buckets: NO_BUCKETS };
            IntGaugeVec::declare(registry, &declaration)
        };
        Self(ENGINE_GAUGES.iter().map(declare).collect())
    }

    /// Creates the series of the model `id` at zero.
    pub(super) fn preregister(&self, id: &str) {
        for family in &self.0 {
            family.with_label_values(&[id]);
        }
    }

    /// Sets the gauges of the model `id`.
    pub(super) fn sync(&self, id: &str, stats: &EngineStats) {
        for (family, gauge) in self.0.iter().zip(&ENGINE_GAUGES) {
            let value = i64::try_from((gauge.read)(stats)).unwrap_or(i64::MAX);
            family.with_label_values(&[id]).set(value);
        }
    }
}
