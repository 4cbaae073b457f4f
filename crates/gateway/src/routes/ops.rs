//! Probes and metrics. They need no key and do not use the engine's queue, so they respond under any load.

use std::time::Duration;

use actix_web::{HttpResponse, http::header, web};

use crate::{error::ApiError, lifecycle::Lifecycle, metrics::Metrics};

/// Time without progress after which an engine with queued work counts as stalled. The largest batch takes seconds even
/// on a slow CPU, and a restart fails every request in flight.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// 200 once every model that is loaded at startup is loaded, warmed up and checked.
pub(super) async fn startupz(lifecycle: web::Data<Lifecycle>) -> HttpResponse {
    if lifecycle.is_loaded() { ok() } else { unavailable("loading") }
}

/// 200 while new requests should be sent here. A full queue does not fail it: such requests are rejected with
/// `retry-after`, and taking one busy server out of service would only move its load to the others.
pub(super) async fn readyz(lifecycle: web::Data<Lifecycle>) -> HttpResponse {
    if lifecycle.is_draining() {
        unavailable("draining")
    } else if !lifecycle.is_loaded() {
        unavailable("loading")
    } else {
        ok()
    }
}

/// 503 if an engine is stalled, which only a restart can solve.
pub(super) async fn livez(lifecycle: web::Data<Lifecycle>) -> HttpResponse {
    let stalled = lifecycle.models().and_then(|registry| {
        registry
            .models()
            .filter_map(|model| model.running())
            .find(|served| served.engine.stalled_for().is_some_and(|time| time > STALL_TIMEOUT))
            .map(|served| format!("the engine of {} is stalled", served.id))
    });
    stalled.map_or_else(ok, |reason| unavailable(&reason))
}

/// The metrics in Prometheus' text format.
pub(super) async fn metrics(
    metrics: web::Data<Metrics>,
    lifecycle: web::Data<Lifecycle>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.models();
    let models = registry.iter().flat_map(|registry| registry.models());
    let stats: Vec<_> = models.map(|model| (&**model.id(), model.stats())).collect();
    let ready = registry.is_some() && !lifecycle.is_draining();
    let text = metrics.render(ready, &stats).map_err(ApiError::internal)?;
    Ok(HttpResponse::Ok().insert_header((header::CONTENT_TYPE, prometheus::TEXT_FORMAT)).body(text))
}

fn ok() -> HttpResponse {
    plain(HttpResponse::Ok(), "ok")
}

fn unavailable(reason: &str) -> HttpResponse {
    plain(HttpResponse::ServiceUnavailable(), reason)
}

fn plain(mut response: actix_web::HttpResponseBuilder, text: &str) -> HttpResponse {
    response
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(format!("{text}\n"))
}
