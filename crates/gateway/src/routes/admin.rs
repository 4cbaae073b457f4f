//! `GET /admin/models`, `POST /admin/models/{id}/load` and `/unload`: the operator's view of the models.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_web::{HttpResponse, http::header, web};
use serde::Serialize;

use super::models::find;
use crate::{
    auth::Admin,
    config::{KeepAlive, LoadTime},
    error::ApiError,
    lifecycle::Lifecycle,
    registry::{ModelSlot, ModelStatus},
};

#[derive(Serialize)]
struct ModelStates {
    object: &'static str,
    /// Estimated memory of the models that are loaded, or in transition.
    memory_bytes: usize,
    memory_budget_bytes: Option<usize>,
    data: Vec<ModelStateObject>,
}

#[derive(Serialize)]
struct ModelStateObject {
    id: String,
    object: &'static str,
    state: &'static str,
    /// The cause, if the last load failed.
    error: Option<String>,
    load: &'static str,
    /// `null` for a model that no time without requests unloads.
    keep_alive_seconds: Option<f64>,
    /// Estimate for the loaded model, which it also has while it is not loaded.
    memory_bytes: usize,
    requests_in_flight: usize,
    requests_waiting: usize,
    /// In seconds since 1970; `null` for a model that was never used.
    last_used: Option<u64>,
}

/// Lists the models with their states.
pub(super) async fn list(_: Admin, lifecycle: web::Data<Lifecycle>) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    Ok(uncached(HttpResponse::Ok()).json(ModelStates {
        object: "list",
        memory_bytes: registry.pool().reserved(),
        memory_budget_bytes: registry.pool().budget(),
        data: registry.models().map(state_object).collect(),
    }))
}

/// Loads a model and waits for it. 202 if it takes longer than the configured time; the load continues.
pub(super) async fn load(
    _: Admin,
    id: web::Path<String>,
    lifecycle: web::Data<Lifecycle>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let model = find(&registry, &id)?;
    registry.pool().load(model).await?;
    Ok(respond(model))
}

/// Unloads a model once its requests in flight have ended. 202 if they take longer than the configured time; the unload
/// continues.
pub(super) async fn unload(
    _: Admin,
    id: web::Path<String>,
    lifecycle: web::Data<Lifecycle>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let model = find(&registry, &id)?;
    registry.pool().unload_by_admin(model).await?;
    Ok(respond(model))
}

fn respond(model: &Arc<ModelSlot>) -> HttpResponse {
    let response = match model.status() {
        ModelStatus::Loading | ModelStatus::Unloading => HttpResponse::Accepted(),
        _ => HttpResponse::Ok(),
    };
    uncached(response).json(state_object(model))
}

fn uncached(mut response: actix_web::HttpResponseBuilder) -> actix_web::HttpResponseBuilder {
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response
}

fn state_object(model: &Arc<ModelSlot>) -> ModelStateObject {
    let (state, error) = match model.status() {
        ModelStatus::Unloaded | ModelStatus::Closed => ("unloaded", None),
        ModelStatus::Loading => ("loading", None),
        ModelStatus::Loaded => ("loaded", None),
        ModelStatus::Unloading => ("unloading", None),
        ModelStatus::Failed(error) => ("failed", Some(error)),
    };
    let description = model.description();
    let (load, keep_alive) = match (description.load, description.keep_alive) {
        (LoadTime::Startup, _) => ("startup", None),
        (LoadTime::OnDemand, KeepAlive::Forever) => ("on-demand", None),
        (LoadTime::OnDemand, KeepAlive::For(time)) => ("on-demand", Some(time)),
    };
    let ago = model.last_used().map(|used| used.elapsed());
    let last_used = ago.and_then(|ago| SystemTime::now().checked_sub(ago)?.duration_since(UNIX_EPOCH).ok());
    ModelStateObject {
        id: model.id().to_string(),
        object: "model",
        state,
        error,
        load,
        keep_alive_seconds: keep_alive.map(|time| time.as_secs_f64()),
        memory_bytes: description.memory,
        requests_in_flight: model.leases(),
        requests_waiting: model.waiting(),
        last_used: last_used.map(|time: Duration| time.as_secs()),
    }
}
