//! `GET /status`: the models, the load and the counters of this server as JSON, for the page at `/` and the command
//! `embedgate status`.
//!
//! Every counter is cumulative since the start, so a reader computes rates and percentiles from two readings, and
//! several readers do not disturb each other. A model that is not loaded is described, not loaded.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use inference::EngineStats;
use serde_json::{Value, json};

use crate::{
    auth::{Caller, Keys},
    config::Origins,
    lifecycle::Lifecycle,
    metrics::Metrics,
    rate_limit::RateLimiter,
    registry::{LoadedModel, ModelSlot, Registry},
    tls::IsTls,
};

/// The status. It is answered in every state, also while models load.
pub(super) async fn status(
    _: Caller,
    request: HttpRequest,
    (keys, origins, limiter): (web::Data<Keys>, web::Data<Origins>, web::Data<RateLimiter>),
    (lifecycle, metrics): (web::Data<Lifecycle>, web::Data<Metrics>),
) -> HttpResponse {
    let registry = lifecycle.models();
    let state = match &registry {
        _ if lifecycle.is_draining() => "draining",
        None => "loading",
        Some(_) => "ready",
    };
    let models = registry.iter().flat_map(|registry| registry.models().map(|slot| model(registry, slot)));
    let mut load = EngineStats::default();
    for stats in registry.iter().flat_map(|registry| registry.models()).map(|slot| slot.stats()) {
        load.waiting_requests += stats.waiting_requests;
        load.running_requests += stats.running_requests;
        load.queued_tokens += stats.queued_tokens;
    }
    let snapshot = metrics.snapshot();
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(json!({
        "object": "status",
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "uptime_seconds": lifecycle.uptime().as_secs_f64(),
        "access": {
            "keys": keys.is_required(),
            "rate_limits": limiter.is_limited(),
            "cors": !origins.is_empty(),
            "tls": request.app_data::<IsTls>().is_some(),
        },
        "models": models.collect::<Vec<_>>(),
        "memory": { "resident_bytes": snapshot.resident_bytes },
        "requests": {
            "total": snapshot.requests,
            "in_flight": load.waiting_requests + load.running_requests,
            "errors": snapshot.errors,
        },
        "tokens": snapshot.tokens,
        "inputs": snapshot.inputs,
        "truncated_inputs": snapshot.truncated_inputs,
        "cache": { "hits": snapshot.cache_hits, "misses": snapshot.cache_misses },
        "queue": { "requests": load.waiting_requests, "tokens": load.queued_tokens },
        "latency": {
            "upper_bounds_seconds": snapshot.latency.upper_bounds_seconds,
            "counts": snapshot.latency.counts,
        },
    }))
}

/// One model. What is known only of a loaded model is `null` for another.
fn model(registry: &Registry, slot: &Arc<ModelSlot>) -> Value {
    let (description, loaded) = (slot.description(), slot.loaded());
    let loaded = loaded.as_deref();
    let selection = loaded.map(|loaded| loaded.selection);
    let aliases = registry.aliases().filter(|(_, other)| other.id() == slot.id()).map(|(alias, _)| alias);
    json!({
        "id": &**slot.id(),
        "aliases": aliases.collect::<Vec<_>>(),
        "task": description.task.name(),
        "is_loaded": loaded.is_some(),
        "dimensions": description.dimensions,
        "matryoshka_dimensions": description.matryoshka,
        "max_input_tokens": description.max_input_tokens,
        "prompts": description.prompts.names(),
        "default_prompt": description.prompts.default_name(),
        "precision": loaded.map(|loaded| loaded.precision.name()),
        "accuracy": loaded.and_then(LoadedModel::proof).map(|proof| json!({
            "measure": proof.measure,
            "mean": proof.mean,
            "worst": proof.worst,
        })),
        "backend": selection.map(|selection| selection.backend.label()),
        "isa": selection.and_then(|selection| selection.backend.isa()).map(|isa| isa.to_string()),
        "backend_reason": selection.map(|selection| selection.reason.to_string()),
        "provider": description.provider.to_string(),
        "license": description.license,
        "weights_bytes": description.file_bytes,
    })
}
