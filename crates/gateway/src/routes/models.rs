//! `GET /v1/models` and `GET /v1/models/{id}`.

use actix_web::{HttpResponse, web};
use openai_schema::{ModelList, ModelObject};

use crate::{
    auth::Caller,
    error::{ApiError, Code},
    lifecycle::Lifecycle,
    registry::{LoadedModel, echo},
};

/// Lists all names that a request may use: first the models, then their aliases.
pub(super) async fn list(_: Caller, lifecycle: web::Data<Lifecycle>) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let models = registry.models().map(|served| object(&served.id, served));
    let aliases = registry.aliases().map(|(alias, served)| object(alias, served));
    Ok(HttpResponse::Ok().json(ModelList { data: models.chain(aliases).collect() }))
}

/// Returns one model, under the requested name.
pub(super) async fn retrieve(
    _: Caller,
    id: web::Path<String>,
    lifecycle: web::Data<Lifecycle>,
) -> Result<HttpResponse, ApiError> {
    let registry = lifecycle.registry()?;
    let served = registry.find(&id).ok_or_else(|| {
        let message = format!("The model '{}' does not exist. {}", echo(&id), registry.names());
        ApiError::new(Code::ModelNotFound, message).about("model")
    })?;
    Ok(HttpResponse::Ok().json(object(&id, served)))
}

fn object(id: &str, served: &LoadedModel) -> ModelObject {
    ModelObject { id: id.to_owned(), created: served.created, owned_by: "embedgate".to_owned() }
}
