//! The exposition of metrics: names, types, labels, preregistered series, and the generated page.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use gateway::{
    AccuracyProof, Backend, Selection, SelectionReason,
    error::Code,
    metrics::{Metrics, ModelInfo, Outcome, ParameterOutcome, Rejection, UnloadReason},
};
use inference::{BatchReport, CacheReport, EngineStats, Observer, Provider};
use model_import::{AccuracyMeasure, Precision};

const STATS: EngineStats = EngineStats {
    waiting_requests: 1,
    running_requests: 2,
    queued_tokens: 30,
    tokens_in_flight: 40,
    tokens_limit: 500,
    cache_bytes: 6000,
    cache_entries: 7,
    cache_evictions: 8,
};

fn metrics() -> Metrics {
    Metrics::new(["m"])
}

fn scrape(metrics: &Metrics) -> String {
    metrics.render(true, &[("m", STATS)]).unwrap()
}

/// A loaded model.
const INFO: ModelInfo<'_> = ModelInfo {
    model: "m",
    revision: "abc",
    dtype: "fp32",
    provider: Provider::Cpu,
    selection: Selection { backend: Backend::OnnxRuntime, reason: SelectionReason::UnsupportedNetwork },
    proofs: &[],
    per_text: false,
    dimensions: 384,
    max_tokens: 256,
    load_time: Duration::from_millis(250),
};

/// Value of one series.
#[track_caller]
fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().unwrap()
}

/// A family in an exposition.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
    series: usize,
}

/// Parses an exposition; panics if its format is invalid.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.help.is_empty(), "two HELP lines for {name}");
            family.help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.kind.is_empty() && family.series == 0, "TYPE of {name} is late or double");
            family.kind = kind.to_owned();
        } else {
            let (series, number) = line.rsplit_once(' ').unwrap();
            number.parse::<f64>().unwrap();
            assert!(seen.insert(series.to_owned()), "{series} occurs twice");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let parts = ["_bucket", "_sum", "_count"];
            let base = parts
                .iter()
                .find_map(|part| name.strip_suffix(part))
                .filter(|base| families.get(*base).is_some_and(|family| family.kind == "histogram"));
            let family =
                families.get_mut(base.unwrap_or(name)).unwrap_or_else(|| panic!("{name} has no TYPE"));
            family.series += 1;
            let names = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once('='));
            family.labels.extend(names.map(|(label, _)| label.to_owned()).filter(|label| label != "le"));
        }
    }
    families
}

const PROOF: AccuracyProof = AccuracyProof {
    precision: Precision::Bf16,
    measure: AccuracyMeasure::Cosine,
    worst: 0.999875,
    mean: 0.999975,
    bound: 0.9999,
    inputs: 29,
    max_tokens: 256,
    duration: Duration::from_millis(500),
    is_remembered: false,
};

/// Proof of a reranker.
const SCORE_PROOF: AccuracyProof = AccuracyProof {
    measure: AccuracyMeasure::ScoreDifference,
    worst: 0.0125,
    mean: 0.0025,
    bound: 0.01,
    ..PROOF
};

/// Metrics of a server without API keys.
fn without_keys() -> Metrics {
    let metrics = metrics();
    metrics.runtime_loaded("1.32.0");
    metrics.model_loaded(&ModelInfo { proofs: &[PROOF], ..INFO }, 1000);
    metrics.parameter("truncate", ParameterOutcome::Rejected);
    metrics.error(Code::InvalidKey);
    metrics
}

/// Metrics in which every family has a series.
fn complete() -> Metrics {
    let metrics = without_keys();
    metrics.key_usage("team", 5, 1);
    metrics.model_loaded(&ModelInfo { proofs: &[SCORE_PROOF], ..INFO }, 1000);
    metrics
}

#[test]
fn the_exposition_follows_prometheus_conventions() {
    for (name, family) in families(&scrape(&complete())) {
        assert!(!family.help.is_empty() && family.help.ends_with('.'), "{name} needs a sentence of help");
        assert!(["counter", "gauge", "histogram"].contains(&family.kind.as_str()), "{name}: {}", family.kind);
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name} is a {}", family.kind);
        assert!(name.starts_with("embedgate_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        for wrong in ["milliseconds", "_ms", "_us", "_kb", "_info_", "_count", "_sum", "_bucket"] {
            assert!(!name.ends_with(wrong), "{name} ends with {wrong}");
        }
        if name.contains("duration") || name.contains("wait_") {
            assert!(name.ends_with("_seconds"), "{name} has no base unit");
        }
        assert_eq!(name.ends_with("_info"), name.contains("_info"), "{name}");
    }
}

#[test]
fn there_are_fewer_than_300_series_with_one_model_and_three_more_for_each_key_in_use() {
    let series = |metrics: &Metrics| -> usize {
        families(&scrape(metrics)).values().map(|family| family.series).sum()
    };
    let without_keys = series(&without_keys());
    assert!(without_keys < 300, "{without_keys} series");
    let with_a_key = self::without_keys();
    with_a_key.key_usage("team", 5, 1);
    assert_eq!(series(&with_a_key), without_keys + 3);
}

#[test]
fn usage_is_counted_by_the_name_of_the_key() {
    let metrics = complete();
    metrics.key_usage("team", 7, 2);
    metrics.key_usage("other", 11, 0);
    let text = scrape(&metrics);
    let of = |name: &str, key: &str| value(&text, &format!("embedgate_api_key_{name}{{api_key=\"{key}\"}}"));
    for (key, counts) in [("team", [2.0, 12.0, 3.0]), ("other", [1.0, 11.0, 0.0])] {
        let names = ["requests_total", "input_tokens_total", "inputs_truncated_total"];
        assert_eq!(names.map(|name| of(name, key)), counts, "{key}");
    }
}

#[test]
fn series_with_known_labels_exist_from_startup_at_zero() {
    let before_the_first_scrape = metrics().render(true, &[]).unwrap();
    let scraped = scrape(&metrics());
    for series in [
        r#"request_duration_seconds_count{model="m",outcome="success"}"#,
        r#"request_duration_seconds_count{model="m",outcome="client_error"}"#,
        r#"request_duration_seconds_count{model="m",outcome="rejected"}"#,
        r#"request_duration_seconds_count{model="m",outcome="error"}"#,
        r#"request_duration_seconds_count{model="m",outcome="cancelled"}"#,
        r#"request_duration_seconds_count{model="unknown",outcome="client_error"}"#,
        r#"request_duration_seconds_count{model="unknown",outcome="rejected"}"#,
        r#"requests_rejected_total{model="m",reason="queue_full"}"#,
        r#"requests_rejected_total{model="m",reason="response_memory_exhausted"}"#,
        r#"requests_rejected_total{model="m",reason="too_long"}"#,
        r#"requests_rejected_total{model="m",reason="draining"}"#,
        r#"requests_rejected_total{model="m",reason="timeout"}"#,
        r#"requests_rejected_total{model="m",reason="rate_limit"}"#,
        r#"requests_rejected_total{model="m",reason="rate_limiter_unavailable"}"#,
        r#"requests_rejected_total{model="unknown",reason="auth"}"#,
        r#"requests_rejected_total{model="unknown",reason="body_memory_exhausted"}"#,
        r#"requests_rejected_total{model="unknown",reason="draining"}"#,
        r#"inputs_total{model="m"}"#,
        r#"input_tokens_total{model="m"}"#,
        r#"padding_tokens_total{model="m"}"#,
        r#"inputs_truncated_total{model="m"}"#,
        r#"inference_errors_total{model="m"}"#,
        r#"inputs_deduplicated_total{model="m"}"#,
        r#"cache_requests_total{model="m",result="hit"}"#,
        r#"cache_requests_total{model="m",result="remote_hit"}"#,
        r#"cache_requests_total{model="m",result="miss"}"#,
        "rate_limit_redis_up",
        r#"rate_limit_redis_errors_total{kind="timeout"}"#,
        r#"http_requests_total{code="200",method="POST",route="/v1/embeddings"}"#,
    ] {
        for text in [&before_the_first_scrape, &scraped] {
            assert_eq!(value(text, &format!("embedgate_{series}")), 0.0, "{series}");
        }
    }
    // A scrape sets these to the engine's figures.
    for series in ["cache_bytes", "cache_entries", "cache_evictions_total"] {
        let series = format!("embedgate_{series}{{model=\"m\"}}");
        assert_eq!(value(&before_the_first_scrape, &series), 0.0);
    }
}

#[test]
fn duration_buckets_have_the_bounds_that_objectives_name() {
    let text = scrape(&metrics());
    let series = "embedgate_queue_wait_seconds_bucket{model=\"m\",le=\"";
    let bounds: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix(series)?.split('"').next()).collect();
    assert_eq!(bounds.len(), 16);
    assert_eq!((bounds[0], bounds[3], bounds[14], bounds[15]), ("0.00125", "0.01", "20.48", "+Inf"));
}

#[test]
fn an_engine_is_observed_under_its_model() {
    let metrics = metrics();
    let model = metrics.model(Some("m"));
    model.tokenized(&[3, 7, 64], 1, Duration::from_millis(2));
    model.queue_wait(Duration::from_millis(4));
    let elapsed = Duration::from_millis(8);
    model.batch(&BatchReport { inputs: 3, tokens: 74, padding: 118, elapsed });
    model.encoder_failed();
    for _ in 0..2 {
        model.cache(&CacheReport { hits: 1, remote_hits: 2, misses: 3, deduplicated: 4 });
    }
    let text = scrape(&metrics);
    let of_model = |name: &str| value(&text, &format!("embedgate_{name}{{model=\"m\"}}"));
    assert_eq!(of_model("inputs_total"), 3.0);
    assert_eq!(of_model("input_tokens_total"), 74.0);
    assert_eq!(of_model("inputs_truncated_total"), 1.0);
    assert_eq!(of_model("padding_tokens_total"), 118.0);
    assert_eq!(of_model("inference_errors_total"), 1.0);
    assert_eq!(of_model("inputs_deduplicated_total"), 8.0);
    for (result, count) in [("hit", 2.0), ("remote_hit", 4.0), ("miss", 6.0)] {
        let series = format!("embedgate_cache_requests_total{{model=\"m\",result=\"{result}\"}}");
        assert_eq!(value(&text, &series), count);
    }
    assert_eq!(of_model("input_length_tokens_sum"), 74.0);
    assert_eq!(of_model("batch_inputs_sum"), 3.0);
    assert_eq!(of_model("batch_tokens_sum"), 192.0);
    assert_eq!(of_model("tokenize_duration_seconds_sum"), 0.002);
    assert_eq!(of_model("queue_wait_seconds_sum"), 0.004);
    assert_eq!(of_model("inference_duration_seconds_sum"), 0.008);
}

#[test]
fn engine_gauges_are_synced_at_every_scrape() {
    let metrics = metrics();
    let text = scrape(&metrics);
    let of_model = |name: &str| value(&text, &format!("embedgate_{name}{{model=\"m\"}}"));
    assert_eq!(of_model("requests_waiting"), 1.0);
    assert_eq!(of_model("requests_running"), 2.0);
    assert_eq!(of_model("queue_tokens"), 30.0);
    assert_eq!(of_model("tokens_in_flight"), 40.0);
    assert_eq!(of_model("tokens_in_flight_limit"), 500.0);
    assert_eq!(of_model("cache_bytes"), 6000.0);
    assert_eq!(of_model("cache_entries"), 7.0);
    assert_eq!(of_model("cache_evictions_total"), 8.0);
    // The counter is set from the engine's total: a second scrape must not add it again.
    let later = metrics.render(true, &[("m", EngineStats { cache_evictions: 11, ..STATS })]).unwrap();
    assert_eq!(value(&later, "embedgate_cache_evictions_total{model=\"m\"}"), 11.0);
    assert_eq!(value(&text, "embedgate_ready"), 1.0);
    assert_eq!(value(&metrics.render(false, &[]).unwrap(), "embedgate_ready"), 0.0);
}

#[test]
fn requests_are_counted_by_model_outcome_and_reason() {
    let metrics = metrics();
    metrics.model(Some("m")).request(Outcome::Success, Duration::from_millis(5));
    metrics.model(Some("m")).rejected(Rejection::QueueFull);
    for unknown in [None, Some("gpt-4\"}\n")] {
        metrics.model(unknown).request(Outcome::ClientError, Duration::ZERO);
        // An unknown model has no engine metrics.
        metrics.model(unknown).tokenized(&[1], 0, Duration::ZERO);
    }
    let text = scrape(&metrics);
    let count = "embedgate_request_duration_seconds_count";
    assert_eq!(value(&text, &format!("{count}{{model=\"m\",outcome=\"success\"}}")), 1.0);
    assert_eq!(value(&text, &format!("{count}{{model=\"unknown\",outcome=\"client_error\"}}")), 2.0);
    assert_eq!(value(&text, "embedgate_requests_rejected_total{model=\"m\",reason=\"queue_full\"}"), 1.0);
    assert!(!text.contains("gpt-4") && !text.contains("embedgate_inputs_total{model=\"unknown\"}"));
}

#[test]
fn errors_are_counted_by_the_name_of_their_code() {
    let metrics = metrics();
    for code in [Code::InvalidKey, Code::MissingKey, Code::InvalidKey] {
        metrics.error(code);
    }
    let text = scrape(&metrics);
    assert_eq!(value(&text, "embedgate_errors_total{code=\"invalid_api_key\"}"), 2.0);
    assert_eq!(value(&text, "embedgate_errors_total{code=\"missing_api_key\"}"), 1.0);
    let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), Code::ALL.len(), "each code has a name of its own");
}

#[test]
fn an_unknown_method_creates_no_series() {
    let metrics = metrics();
    for method in ["BREW", "x\"y"] {
        metrics.http("unmatched", method, 404);
    }
    let series = "embedgate_http_requests_total{code=\"404\",method=\"other\",route=\"unmatched\"}";
    assert_eq!(value(&scrape(&metrics), series), 2.0);
}

#[test]
fn build_and_model_are_described_once() {
    let text = scrape(&complete());
    let version = env!("CARGO_PKG_VERSION");
    let builds: Vec<_> = text.lines().filter(|line| line.starts_with("embedgate_build_info{")).collect();
    assert_eq!(builds.len(), 1);
    assert!(builds[0].starts_with("embedgate_build_info{ort_version=\"1.32.0\",revision=\""), "{builds:?}");
    assert!(builds[0].ends_with(&format!(",version=\"{version}\"}} 1")), "{builds:?}");
    let model = "embedgate_model_info{backend=\"onnxruntime\",batching=\"batched\",dimensions=\"384\",dtype=\"fp32\",\
                 isa=\"\",max_tokens=\"256\",model=\"m\",provider=\"cpu\",\
                 reason=\"unsupported_network\",revision=\"abc\"}";
    assert_eq!(value(&text, model), 1.0);
    assert_eq!(value(&text, "embedgate_model_load_duration_seconds{model=\"m\"}"), 0.25);
    let labels = "{model=\"m\",precision=\"bf16\"}";
    assert_eq!(value(&text, &format!("embedgate_model_accuracy_worst_cosine{labels}")), 0.999875);
    assert_eq!(value(&text, &format!("embedgate_model_accuracy_mean_cosine{labels}")), 0.999975);
    assert_eq!(value(&text, &format!("embedgate_model_accuracy_worst_score_difference{labels}")), 0.0125);
    assert_eq!(value(&text, &format!("embedgate_model_accuracy_mean_score_difference{labels}")), 0.0025);
    assert_eq!(value(&text, &format!("embedgate_model_accuracy_proof_duration_seconds{labels}")), 0.5);
}

#[test]
fn a_per_text_model_has_its_own_batching_label() {
    let metrics = metrics();
    let selection = Selection { backend: Backend::OnnxRuntime, reason: SelectionReason::OnnxFile };
    metrics.model_loaded(&ModelInfo { dtype: "int8", selection, per_text: true, ..INFO }, 1000);
    let model = "embedgate_model_info{backend=\"onnxruntime\",batching=\"per_text\",dimensions=\"384\",dtype=\"int8\",\
                 isa=\"\",max_tokens=\"256\",model=\"m\",provider=\"cpu\",reason=\"onnx_file\",revision=\"abc\"}";
    assert_eq!(value(&scrape(&metrics), model), 1.0);
}

#[test]
fn an_unloaded_model_is_not_described_and_takes_no_memory() {
    let metrics = without_keys();
    let of_model = |name: &str| value(&scrape(&metrics), &format!("embedgate_{name}"));
    assert_eq!(
        (of_model("model_loaded{model=\"m\"}"), of_model("model_memory_bytes{model=\"m\"}")),
        (1.0, 1000.0)
    );
    metrics.model_unloaded(&INFO, UnloadReason::Idle);
    assert_eq!(
        (of_model("model_loaded{model=\"m\"}"), of_model("model_memory_bytes{model=\"m\"}")),
        (0.0, 0.0)
    );
    assert_eq!(of_model("model_loads_total{model=\"m\",result=\"success\"}"), 1.0);
    assert_eq!(of_model("model_unloads_total{model=\"m\",reason=\"idle\"}"), 1.0);
    assert!(!scrape(&metrics).contains("embedgate_model_info{"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_described() {
    let text = scrape(&metrics());
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value(&text, "process_open_fds") > 2.0);
}

#[test]
fn the_page_of_metrics_is_up_to_date() {
    let mut page = String::from(
        "<!-- Generated by a test from crates/gateway/src/metrics/families.rs. -->\n\n# Metrics\n\n\
         `GET /metrics` returns these metrics in Prometheus' text format. It needs no API key and does not use the \
         queue. The label `model` is a configured id, or `unknown` for requests that name no configured model. No \
         label contains a value that a client sent. Duration buckets double from 1.25 ms to 20.48 s.\n\n\
         | metric | type | labels | description |\n|---|---|---|---|\n",
    );
    for (name, family) in families(&scrape(&complete())) {
        if !name.starts_with("process_") {
            let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
            writeln!(page, "| `{name}` | {} | {labels} | {} |", family.kind, family.help).unwrap();
        }
    }
    page.push_str(
        "\nOn Linux, `process_cpu_seconds_total`, `process_resident_memory_bytes`, \
         `process_virtual_memory_bytes`, `process_open_fds`, `process_max_fds`, `process_threads` and \
         `process_start_time_seconds` describe the process.\n",
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md");
    let stale = fs::read_to_string(&path).ok().as_deref() != Some(page.as_str());
    if stale {
        fs::write(&path, page).unwrap();
    }
    assert!(!stale, "docs/METRICS.md was out of date and has been rewritten: commit it");
}
