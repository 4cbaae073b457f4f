//! What operators ask: the three probes and the metrics. None of them needs a key or touches the engine's
//! queue, so they answer under any load.

use std::time::Duration;

use actix_web::{HttpResponse, http::header, web};

use crate::{error::ApiError, lifecycle::Lifecycle, metrics::Metrics};

/// An engine with waiting work and no progress for this long will not recover by itself: the largest batch
/// takes seconds even on a slow processor, and a restart costs every request in flight.
const STALLED: Duration = Duration::from_secs(120);

/// Whether every model is loaded, warm and checked.
pub(crate) async fn startupz(lifecycle: web::Data<Lifecycle>) -> HttpResponse {
    if lifecycle.loaded() { ok() } else { unavailable("loading") }
}

/// Whether new requests should be sent here. A full queue does not count: it is answered with
/// `retry-after`, and taking one busy server out of service would only move its load to the next.
pub(crate) async fn readyz(lifecycle: web::Data<Lifecycle>) -> HttpResponse {
    if lifecycle.draining() {
        unavailable("draining")
    } else if !lifecycle.loaded() {
        unavailable("loading")
    } else {
        ok()
    }
}

/// Whether a restart would help: only when an engine has stopped making progress.
pub(crate) async fn livez(lifecycle: web::Data<Lifecycle>) -> HttpResponse {
    let stalled = lifecycle.models().and_then(|registry| {
        registry
            .models()
            .find(|served| served.engine.stalled_for().is_some_and(|time| time > STALLED))
            .map(|served| format!("the engine of {} is stalled", served.id))
    });
    stalled.map_or_else(ok, |reason| unavailable(&reason))
}

/// The metrics in Prometheus' text format.
pub(crate) async fn metrics(
    metrics: web::Data<Metrics>,
    lifecycle: web::Data<Lifecycle>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.models();
    let loads = registry.iter().flat_map(|registry| registry.models());
    let loads: Vec<_> = loads.map(|served| (&*served.id, served.engine.stats())).collect();
    let ready = registry.is_some() && !lifecycle.draining();
    let text = metrics.render(ready, &loads).map_err(ApiError::internal)?;
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
