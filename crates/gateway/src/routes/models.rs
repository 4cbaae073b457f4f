//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use openai_schema::{ModelList, ModelObject};

use crate::{
    auth::Caller,
    error::{ApiError, Code},
    lifecycle::Lifecycle,
    registry::{ModelDescription, ModelSlot, Registry, echo},
};

/// Lists all names that a request may use: first the models, loaded or not, then their aliases.
pub(super) async fn list(_: Caller, lifecycle: web::Data<Lifecycle>) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let models = registry.models().map(|model| object(model.id(), model.description()));
    let aliases = registry.aliases().map(|(alias, model)| object(alias, model.description()));
    Ok(HttpResponse::Ok().json(ModelList { data: models.chain(aliases).collect() }))
}

/// Returns one model, under the requested name.
pub(super) async fn retrieve(
    _: Caller,
    id: web::Path<String>,
    lifecycle: web::Data<Lifecycle>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let model = find(&registry, &id)?;
    Ok(HttpResponse::Ok().json(object(&id, model.description())))
}

/// The model with this id or alias.
///
/// # Errors
/// 404 if there is none.
pub(super) fn find<'a>(registry: &'a Registry, id: &str) -> Result<&'a Arc<ModelSlot>, ApiError> {
    registry.find(id).ok_or_else(|| {
        let message = format!("The model '{}' does not exist. {}", echo(id), registry.names());
        ApiError::new(Code::ModelNotFound, message).about("model")
    })
}

fn object(id: &str, model: &ModelDescription) -> ModelObject {
    let (owned_by, task) = ("embedgate".to_owned(), model.task.name());
    ModelObject { id: id.to_owned(), created: model.created, owned_by, task }
}
